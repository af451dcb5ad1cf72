"""A run trained once for all tests of commands that need one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ebm_wgpu.cli import main

SENTENCES = (
    "the cat sat on the mat and looked at the moon .\n"
    "a dog ran over the hill to the river and drank .\n"
    "in the morning the birds sing over the river .\n"
)
TINY = (
    "data.vocab_size=300",
    "data.block_size=16",
    "data.eval_context=32",
    "data.eval_stride=16",
    "model.dim=16",
    "model.n_splats=320",
    "model.expert_hidden=16",
    "energy.n_neighbours=8",
    "sampler.list_size=16",
    "sampler.n_steps=3",
    "train.batch_size=4",
    "train.eval_tokens=256",
    "train.warmup_steps=2",
)


def ebm(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def one_line_error(result: Result, words: str) -> None:
    """The command ended with one clear line that matches `words`, and no traceback."""
    assert result.exit_code == 1, result.output
    assert result.output.splitlines()[-1].startswith("Error: ")
    assert re.search(words, result.output), result.output
    assert "Traceback" not in result.output


def last_checkpoint(run: Path) -> Path:
    """The folder of the newest checkpoint of a run."""
    step = json.loads((run / "checkpoints" / "last.json").read_text())["step"]
    return run / "checkpoints" / f"{step:08d}"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text file."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text(SENTENCES * 60, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A trained run and what the command printed."""
    run = tmp_path_factory.mktemp("runs") / "run"
    result = ebm(
        "train", "--config", "nano", "--dataset", corpus, "--device", "numba", "--run", run,
        *TINY, "train.steps=30", "train.eval_every=15", "train.checkpoint_every=10",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return run, result


@pytest.fixture(scope="session")
def splatless(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a family without splats."""
    run = tmp_path_factory.mktemp("runs") / "transformer"
    result = ebm(
        "train", "--config", "shakespeare-transformer", "--dataset", corpus, "--run", run,
        "--device", "numba", "transformer.dim=16", "transformer.n_layers=1",
        "transformer.n_heads=2", "data.block_size=16", "data.eval_context=16",
        "data.eval_stride=8", "train.batch_size=4", "train.eval_tokens=64",
        "train.warmup_steps=1", "train.steps=2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return run
