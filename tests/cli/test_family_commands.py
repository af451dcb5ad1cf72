"""`ebm train`, `evaluate`, `sample` and `diagnose` for the families without splats."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .conftest import ebm, one_line_error

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
    """A run of each family, those with a preset of their own from that."""
    folders = {}
    for family, settings in SETTINGS.items():
        run = tmp_path_factory.mktemp("runs") / family
        preset = ["--config", "shakespeare-transformer"] if family == "transformer" else []
        result = ebm(
            "train", "--model", family, *preset, "--dataset", corpus,
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
    config = json.loads((run / "config.json").read_text())
    assert (config["model"]["family"], config["data"]["tokenizer"]) == (family, "char")
    record = evaluate(run, "--model", family)
    assert (record["step"], record["latent"], record["think_steps"]) == (6, "mean", None)
    assert 1 < float(str(record["token_perplexity"])) < 40


@pytest.mark.parametrize("family", SETTINGS)
def test_a_run_is_diagnosed(runs: Runs, family: str) -> None:
    shown = ebm("diagnose", runs[family], "--model", family)
    assert shown.exit_code == 0, shown.output
    assert f"family {family}, step 6 of 6 planned" in shown.stdout
    record = json.loads(ebm("diagnose", runs[family], "--json").stdout)
    assert (record["family"], record["step"]) == (family, 6)
    assert record["quality"] in ("excellent", "good", "fair", "bad")
    assert record["trend"] in ("converging", "stable", "needs attention", "diverging")
    assert record["last_valid"]["token_perplexity"] > 1
    (last,) = record["checkpoints"]
    assert (last["step"], last["damage"], last["splats"]) == (6, None, None)


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


@pytest.mark.parametrize("family", ["nano", "ebt"])
def test_steps_are_as_long_as_their_rule_says(runs: Runs, family: str, tmp_path: Path) -> None:
    """Next to no step is left where curvature allows a millionth of what descent can take."""
    run = tmp_path / "run"
    shutil.copytree(runs[family], run)
    config = json.loads((run / "config.json").read_text("utf-8"))
    config[family]["spectral_c"] = 1e-6
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    trained = evaluate(run, "--tokens", 40)
    learned, spectral = (
        evaluate(run, "--tokens", 40, "--think-rule", rule) for rule in ("learned", "spectral")
    )
    assert [record["think_rule"] for record in (trained, learned, spectral)] == [
        None, "learned", "spectral",
    ]  # fmt: skip
    assert learned["nll_per_token"] == trained["nll_per_token"] != spectral["nll_per_token"]
    if family == "nano":
        first = evaluate(run, "--tokens", 40, "--think-steps", 0)
        assert spectral["nll_per_token"] == pytest.approx(first["nll_per_token"], abs=1e-5)
    assert sample(run, "--think-rule", "spectral", "--max-tokens", 3).startswith("the cat")


@pytest.mark.parametrize("command", [("evaluate",), ("sample", "--prompt", "the")])
@pytest.mark.parametrize(
    ("family", "options", "words"),
    [
        ("transformer", ["--think-steps", 2], "think_steps=2 is for models that refine"),
        ("transformer", ["--think-best-of", 2], "think_best_of=2 is for models that refine"),
        ("transformer", ["--think-rule", "spectral"], "think_rule=spectral is for models that re"),
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
