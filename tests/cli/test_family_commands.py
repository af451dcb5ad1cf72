"""`ebm train`, `evaluate` and `sample` for the families without splats, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import ebm
from .test_train import one_line_error

BACKBONE = ["transformer.dim=16", "transformer.n_layers=1", "transformer.n_heads=2"]
SETTINGS = {
    "transformer": BACKBONE,
    "nano": [*BACKBONE, "nano.interaction=8"],
    "ebt": ["ebt.dim=16", "ebt.n_layers=1", "ebt.n_heads=2"],
}
TINY = (
    "data.block_size=16", "data.eval_context=16", "data.eval_stride=8", "train.batch_size=4",
    "train.eval_tokens=64", "train.warmup_steps=2", "train.steps=6", "train.eval_every=6",
)  # fmt: skip

Runs = dict[str, Path]


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run of each family, from its preset."""
    folders = {}
    for family, settings in SETTINGS.items():
        run = tmp_path_factory.mktemp("runs") / family
        result = ebm(
            "train", "--model", family, "--config", f"shakespeare-{family}", "--dataset", corpus,
            "--device", "numba", "--run", run, *TINY, *settings,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert "torch" in result.output
        folders[family] = run
    return folders


def evaluate(run: Path, *options: object) -> dict[str, object]:
    result = ebm("evaluate", "--checkpoint", run, "--device", "numba", "--json", *options)
    assert result.exit_code == 0, result.output
    record: dict[str, object] = json.loads(result.stdout)
    return record


def sample(run: Path, *options: object) -> str:
    arguments = ("--checkpoint", run, "--device", "numba", "--prompt", "the cat", "--seed", 3)
    result = ebm("sample", *arguments, "--max-tokens", 14, *options)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("family", SETTINGS)
def test_a_run_has_no_splats_and_can_be_scored(runs: Runs, family: str) -> None:
    run = runs[family]
    assert not list(run.rglob("splats.h5"))
    assert json.loads((run / "config.json").read_text())["model"]["family"] == family
    record = evaluate(run)
    assert (record["step"], record["latent"], record["think_steps"]) == (6, "mean", None)
    assert 1 < float(str(record["token_perplexity"])) < 40


@pytest.mark.parametrize("family", SETTINGS)
def test_the_seed_repeats_the_text(runs: Runs, family: str) -> None:
    first = sample(runs[family])
    assert first.startswith("the cat")
    assert first == sample(runs[family])
    assert first != sample(runs[family], "--seed", 4)
    assert first != sample(runs[family], "--repetition-penalty", 50)


def test_thinking_longer_changes_the_score(runs: Runs) -> None:
    for family, options in (("nano", [0, 9]), ("ebt", [1, 3])):
        scores = [
            evaluate(runs[family], "--think-steps", steps)["nll_per_token"] for steps in options
        ]
        assert scores[0] != scores[1]
    thought = evaluate(runs["ebt"], "--think-steps", 2, "--think-best-of", 2, "--latent", "exact")
    assert (thought["think_steps"], thought["think_best_of"]) == (2, 2)
    assert thought["latent"] == "exact"
    assert sample(runs["ebt"], "--think-steps", 3, "--think-best-of", 2, "--latent", "exact")


@pytest.mark.parametrize("command", [("evaluate",), ("sample", "--prompt", "the")])
@pytest.mark.parametrize(
    ("family", "options", "words"),
    [
        ("transformer", ["--think-steps", 2], "think_steps=2 is for models that refine"),
        ("transformer", ["--think-best-of", 2], "think_best_of=2 is for models that refine"),
        ("transformer", ["--latent", "exact"], "latent=exact must be mean for model.family=tran"),
        ("nano", ["--think-best-of", 2], "think_best_of=2 is for models that start from noise"),
        ("nano", ["--think-steps", -1], "nano.think_steps=-1 must be >= 0"),
        ("ebt", ["--think-steps", 0], "think steps=0 must be at least 1"),
    ],
)
def test_what_a_family_cannot_do_is_a_one_line_error(
    runs: Runs, command: tuple[str, ...], family: str, options: list[object], words: str
) -> None:
    name, *rest = command
    result = ebm(name, "--checkpoint", runs[family], "--device", "numba", *rest, *options)
    one_line_error(result, words)
    assert len(result.output.strip().splitlines()) == 1


def test_resuming_keeps_the_family(runs: Runs) -> None:
    one_line_error(
        ebm("train", "--resume", "--run", runs["nano"], "--model", "transformer"),
        "model.family was nano and is now transformer",
    )
