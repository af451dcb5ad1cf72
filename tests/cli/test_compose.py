"""`ebm compose --fit` and `--method learned`: a net fitted, kept, used, and refused elsewhere."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from ebm_wgpu.composition import negate
from ebm_wgpu.embedding import TextEmbedder
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.composition import CompositionNet
from ebm_wgpu.training.composition_fitting import COMPOSITION_FILE
from ebm_wgpu.training.loading import load_run

from .conftest import ebm, one_line_error

Fitted = tuple[Path, Result]
WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]


@pytest.fixture(scope="module")
def phrases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of forty rare words, and a hundred words that are more frequent."""
    path = tmp_path_factory.mktemp("phrases") / "phrases.txt"
    pairs = [f"{WORDS[100 + i]} {WORDS[120 + (i + j) % 20]}" for i in range(20) for j in range(3)]
    common = [f"{word} ." for word in WORDS[:100]]
    path.write_text("\n".join([*(pairs * 5), *(common * 20)]) + "\n")
    return path


@pytest.fixture(scope="module")
def fitted(
    trained: tuple[Path, Result], phrases: Path, tmp_path_factory: pytest.TempPathFactory
) -> Fitted:
    """A copy of the run with a net beside it, and what the command printed."""
    run = tmp_path_factory.mktemp("runs") / "run"
    shutil.copytree(trained[0], run)
    result = ebm("compose", "--fit", *arguments(run, phrases))
    assert result.exit_code == 0, result.output
    return run, result


def arguments(run: Path, phrases: Path) -> list[object]:
    return [
        "--checkpoint", run, "--device", "numba", "--corpus", phrases, "--phrases", 60,
        "--steps", 4, "--seed", 3,
    ]  # fmt: skip


def test_fitting_prints_held_out_scores_beside_chance(fitted: Fitted) -> None:
    run, result = fitted
    record = CompositionNet.load(run / COMPOSITION_FILE).record
    assert record["learned_from"] + record["held_out"] == 60
    n, chance = record["phrase"]["candidates"], record["phrase"]["chance"]
    assert chance == pytest.approx(sum(1 / np.arange(1, n + 1)) / n)
    assert f"learned from {record['learned_from']} phrases of" in result.output
    lines = [line for line in result.output.splitlines() if line.startswith("phrase of its parts")]
    assert [re.split("  +", line)[1] for line in lines] == [
        "one part alone", "geodesic", "tangent", "learned", "chance",
    ]  # fmt: skip
    assert f"{chance:.3f}" in lines[-1] and f"{1 / n:.3f}" in lines[-1]
    assert f"{record['phrase']['scores']['learned']['reciprocal_rank']:.3f}" in lines[-2]
    assert len(result.output.splitlines()) == 1 + 1 + 10 + 1


def test_fitting_again_gives_the_same_net_and_json(fitted: Fitted, phrases: Path) -> None:
    run, _ = fitted
    before = CompositionNet.load(run / COMPOSITION_FILE)
    result = ebm("compose", "--fit", "--json", *arguments(run, phrases))
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["file"] == str(run / COMPOSITION_FILE)
    assert record["step"] == load_step(run)
    after = CompositionNet.load(run / COMPOSITION_FILE)
    assert after.record == before.record
    for name, tensor in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], tensor)


def load_step(run: Path) -> int:
    return int(json.loads((run / "checkpoints" / "best.json").read_text())["step"])


def test_learned_composition_is_that_of_the_net(fitted: Fitted, numba_device: KernelDevice) -> None:
    run, _ = fitted
    loaded = load_run(run, numba_device)
    context = loaded.config.data.eval_context
    embedder = TextEmbedder(loaded.model, loaded.tokenizer, numba_device, context)
    net = CompositionNet.load(run / COMPOSITION_FILE)
    a, b = embedder.embed(["the cat", "a dog"]).direction.astype(np.float64)
    words = ("compose", "the cat", "a dog", "--method", "learned", "--checkpoint", run)
    found = json.loads(ebm(*words, "--device", "numba", "--json").stdout)
    np.testing.assert_allclose(found["direction"], net.compose(a, b), atol=1e-5)
    assert (found["method"], found["learned"]) == ("learned", net.record)
    without = json.loads(ebm(*words, "--device", "numba", "--json", "--negate", "b").stdout)
    expected = net.compose(a, negate(b, embedder.base_point()))
    np.testing.assert_allclose(without["direction"], expected, atol=1e-5)
    shown = ebm(*words, "--device", "numba").output
    assert "names a phrase held out by its parts with reciprocal rank" in shown
    one_line_error(ebm(*words, "--share", "0.3"), r"share 0\.3")
    one_line_error(ebm(*words, "--base", "over"), "base point it was trained with")


def test_what_was_not_fitted_to_the_checkpoint_is_refused(
    trained: tuple[Path, Result], fitted: Fitted, tmp_path: Path
) -> None:
    run, _ = fitted
    words = ("compose", "a", "b", "--method", "learned", "--device", "numba", "--checkpoint")
    one_line_error(ebm(*words, trained[0]), "no learned composition: fit one with ebm compose")
    steps = sorted(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdecimal())
    (other,) = [step for step in steps if step != load_step(run)][:1]
    one_line_error(
        ebm(*words, run / "checkpoints" / f"{other:08d}"),
        f"fitted to step {load_step(run)} and the checkpoint is of step {other}",
    )
    damaged = tmp_path / "run"
    shutil.copytree(run, damaged)
    whole = bytearray((run / COMPOSITION_FILE).read_bytes())
    whole[-1] ^= 1
    (damaged / COMPOSITION_FILE).write_bytes(whole)
    one_line_error(ebm(*words, damaged), "is no composition net: it differs from its SHA-256")
    one_line_error(ebm("compose", "a", "--fit"), "--fit takes no texts")


def test_a_text_without_phrases_cannot_be_learned_from(
    trained: tuple[Path, Result], tmp_path: Path
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"{word} .\n" for word in WORDS))
    one_line_error(
        ebm("compose", "--fit", "--checkpoint", trained[0], "--device", "numba", "--corpus", lines),
        "no two words follow each other 3 times",
    )
    assert not (trained[0] / COMPOSITION_FILE).exists()
