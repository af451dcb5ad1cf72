"""The command consolidates a run it trained, and says what is missing in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ebm_wgpu.cli import main

TINY = (
    "model.context=transformer", "model.n_splats=200", "transformer.dim=16",
    "transformer.n_layers=1", "transformer.n_heads=2", "transformer.max_length=32",
    "data.tokenizer=word", "data.vocab_size=none", "data.block_size=16", "data.eval_context=32",
    "data.eval_stride=16", "train.batch_size=4", "train.steps=3", "train.warmup_steps=1",
)  # fmt: skip


def ebm(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("heldout", [200, 0])
def test_consolidate(corpus: Path, tmp_path: Path, heldout: int) -> None:
    run = tmp_path / "run"
    trained = ebm(
        "train", "--dataset", corpus, "--run", run, "--device", "cpu",
        f"data.heldout_tokens={heldout}", *TINY,
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    result = ebm("consolidate", "--run", run, "--device", "cpu", "--json")
    if not heldout:
        assert result.exit_code == 1
        assert "no training text was held out" in result.output
        assert "train with data.heldout_tokens" in result.output
        return
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert 0 < report["splats"] <= 200
    search = report["search"]
    assert search["recall"] == 1 and search["directions"] == report["splats"]
    assert search["products"] == report["splats"] and search["neighbours"] == 64
    assert search["dropped_mass"] == pytest.approx(search["dropped_by_exact"], abs=1e-6)
    assert (run / "checkpoints" / "00000004" / "splats.h5").exists()
    scored = ebm("evaluate", "--checkpoint", run, "--device", "cpu", "--json")
    assert scored.exit_code == 0, scored.output
    assert json.loads(scored.stdout)["step"] == 4
    shown = ebm(
        "consolidate", "--run", run, "--minutes", "1", "--device", "cpu",
        "model.n_splats=50", "memory.n_neighbours=4",
    )  # fmt: skip
    assert "50 splats kept in" in shown.output and "held-out text gains" in shown.output
    assert "search of the 4 nearest: recall 1.0000" in shown.output
    assert "weight of the splats not found: 0." in shown.output
    config = json.loads((run / "config.json").read_text())
    assert (config["model"]["n_splats"], config["memory"]["n_neighbours"]) == (50, 4)
    refused = ebm("consolidate", "--run", run, "train.lr=1", "--device", "cpu")
    assert refused.exit_code == 1
    assert "train.lr of a trained run stays as it is" in refused.output
