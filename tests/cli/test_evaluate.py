"""`ebm evaluate`: the figures of a run, computed again, and their relations."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from ebm_wgpu.embedding import TextEmbedder
from ebm_wgpu.evaluation.records import read_scores
from ebm_wgpu.kernels import open_device
from ebm_wgpu.models.composition import CompositionNet, retrieval
from ebm_wgpu.training.composition_fitting import LEARNED, CompositionFit, store_composition
from ebm_wgpu.training.loading import load_run
from ebm_wgpu.training.run_folder import RunFolder

from .conftest import ebm, one_line_error

Trained = tuple[Path, Result]


def test_figures_agree_with_each_other(trained: Trained) -> None:
    run, _ = trained
    record = json.loads(ebm("evaluate", "--checkpoint", run, "--json").stdout)
    total = record["nll_sum"]
    assert record["token_perplexity"] == pytest.approx(math.exp(total / record["n_tokens"]))
    assert record["word_perplexity"] == pytest.approx(math.exp(total / record["n_words"]))
    assert record["bits_per_byte"] == pytest.approx(total / record["n_bytes"] / math.log(2))
    shown = ebm("evaluate", "--checkpoint", run).stdout
    assert f"{record['token_perplexity']:,.2f}" in shown
    assert f"{record['n_words']:,} words" in shown


def test_random_latents_come_with_their_standard_error(trained: Trained) -> None:
    run, _ = trained
    options = ("--latent", "exact", "--draws", 4)
    shown = ebm("evaluate", "--checkpoint", run, *options).stdout
    assert "+-" in shown
    mean = json.loads(ebm("evaluate", "--checkpoint", run, "--json").stdout)
    drawn = json.loads(ebm("evaluate", "--checkpoint", run, *options, "--json").stdout)
    assert drawn["token_perplexity"] == pytest.approx(mean["token_perplexity"], rel=0.1)


def test_every_part_is_printed_and_in_the_json(trained: Trained) -> None:
    run, _ = trained
    options = ("--part", "all", "--tokens", 96, "--texts", 2, "--prompt-tokens", 6, "--words", 7)
    options = (*options, "--max-tokens", 8, "--draws", 2, "--latent", "exact", "--capacity", 64)
    shown = ebm("evaluate", "--checkpoint", run, *options).stdout
    for part in (
        "static", "bits per byte", "langevin", "score matching", "coverage", "AUROC", "distinct-4",
        "repetition", "2 texts of 8 tokens", "own energy", '"a and b"', "composition of 7 words",
        "memory of 64 states, all compared, fitted on",
    ):  # fmt: skip
        assert part in shown
    record = json.loads(ebm("evaluate", "--checkpoint", run, *options, "--json").stdout)
    assert record["n_tokens"] == 96
    assert record["memory"] == "static"
    assert {entry["latent"] for entry in record["latents"]} == {"mean", "exact", "langevin"}
    assert record["energy"][1]["noise"]["auroc"] > 0.9
    assert record["text"]["n_texts"] == 2
    assert record["composition"]["n_pairs"] == 14
    assert record["online"]["settings"]["fitted_tokens"] > 100
    assert "unavailable" not in record


@pytest.fixture
def held_out(splatless: Path, tmp_path: Path) -> Path:
    """A run whose memory can be fitted."""
    run = tmp_path / "run"
    shutil.copytree(splatless, run)
    config = json.loads((run / "config.json").read_text("utf-8"))
    config["data"]["heldout_tokens"] = 600
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return run


def test_online_stands_beside_static_and_is_kept(held_out: Path) -> None:
    options = ("--checkpoint", held_out, "--part", "online", "--capacity", 64, "--tokens", 300)
    result = ebm("evaluate", *options, "--save")
    assert result.exit_code == 0, result.output
    shown = result.stdout
    assert "memory of 64 states, all compared, fitted on 600 tokens of held-out training" in shown
    assert shown.index("static       online") < shown.index("perplexity per word")
    record = json.loads(ebm("evaluate", *options, "--json").stdout)
    static, online = (record["online"][kind] for kind in ("static", "online"))
    # The text repeats three lines: what was read of it is worth much.
    assert online["word_perplexity"] < 0.8 * static["word_perplexity"]
    assert (static["n_tokens"], online["n_tokens"]) == (300, 300)
    assert f"{online['word_perplexity']:,.2f}" in shown
    kept = read_scores(RunFolder(held_out))
    assert kept is not None
    assert (kept.static, kept.online) == (static["word_perplexity"], online["word_perplexity"])
    assert (kept.step, kept.capacity) == (2, 64)
    result = ebm("evaluate", "--checkpoint", held_out, "--part", "energy", "--save")
    assert (result.exit_code, result.stderr.strip()) == (0, "")
    assert read_scores(RunFolder(held_out)) == kept
    file = held_out / "evaluation.json"
    document = json.loads(file.read_text("utf-8"))
    assert document["valid"]["energy"][0]["measure"] == "text"
    # As if it had been kept at an earlier step.
    file.write_text(json.dumps({"valid": document["valid"] | {"step": 1}}), encoding="utf-8")
    result = ebm("evaluate", "--checkpoint", held_out, "--part", "energy", "--save")
    said = f"note: the valid figures of step=1 (now 2) are replaced in {file}"
    assert result.stderr.strip() == said
    assert read_scores(RunFolder(held_out)) is None


def test_a_learned_composition_stands_beside_the_others(trained: Trained, tmp_path: Path) -> None:
    """A net that was not trained yet is the tangent sum: it scores the same."""
    path = tmp_path / "run"
    shutil.copytree(trained[0], path)
    run = load_run(path, open_device("numba"))
    embedder = TextEmbedder(run.model, run.tokenizer, open_device("numba"), 32)
    none = retrieval(np.eye(8), np.eye(8))
    net = CompositionNet(embedder.base_point(), 4)
    store_composition(run, CompositionFit(net, 1, 1, {LEARNED: none}, {LEARNED: none}), "none")
    options = ("--checkpoint", path, "--part", "composition", "--device", "numba", "--json")
    record = json.loads(ebm("evaluate", *options).stdout)
    for task in record["composition"]["tasks"][:2]:
        learned, tangent = task["scores"][LEARNED], task["scores"]["tangent"]
        assert learned["cosine"] == pytest.approx(tangent["cosine"], abs=1e-4)
        assert learned["candidates"] == task["candidates"] > 10


def test_a_part_that_a_family_lacks_is_said(splatless: Path) -> None:
    shown = ebm("evaluate", "--checkpoint", splatless, "--tokens", 64).stdout
    assert "coverage       not available: the model has no distribution of latents" in shown
    assert "perplexity per word" in shown


def test_the_default_is_quick_and_parts_can_be_chosen(trained: Trained) -> None:
    run, _ = trained
    record = json.loads(ebm("evaluate", "--checkpoint", run, "--json").stdout)
    assert "coverage" in record
    assert not {"latents", "energy", "text", "online", "composition"} & record.keys()
    only = json.loads(
        ebm("evaluate", "--checkpoint", run, "--part", "energy", "--tokens", 96, "--json").stdout
    )
    assert "energy" in only
    assert "nll_sum" not in only
    one_line_error(ebm("evaluate", "--checkpoint", run, "--part", "speed"), "no part 'speed'")
    one_line_error(ebm("evaluate", "--checkpoint", run, "--split", "test"), "test")


def test_draws_of_a_mean_are_a_one_line_error(trained: Trained) -> None:
    run, _ = trained
    one_line_error(ebm("evaluate", "--checkpoint", run, "--draws", 3), "draws=3 with latent=mean")
