"""`ebm evaluate`: the figures of a run, computed again, and their relations."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import Result

from .conftest import ebm
from .test_train import one_line_error

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
    options = ("--part", "all", "--tokens", 96, "--texts", 2, "--prompt-tokens", 6)
    options = (*options, "--max-tokens", 8, "--draws", 2, "--latent", "exact")
    shown = ebm("evaluate", "--checkpoint", run, *options).stdout
    for part in (
        "static", "bits per byte", "langevin", "score matching", "coverage", "AUROC", "distinct-4",
        "repetition", "2 texts of 8 tokens",
    ):  # fmt: skip
        assert part in shown
    record = json.loads(ebm("evaluate", "--checkpoint", run, *options, "--json").stdout)
    assert record["n_tokens"] == 96
    assert record["memory"] == "static"
    assert {entry["latent"] for entry in record["latents"]} == {"mean", "exact", "langevin"}
    assert record["energy"][1]["noise"]["auroc"] > 0.9
    assert record["text"]["n_texts"] == 2


def test_the_default_is_quick_and_parts_can_be_chosen(trained: Trained) -> None:
    run, _ = trained
    record = json.loads(ebm("evaluate", "--checkpoint", run, "--json").stdout)
    assert "coverage" in record
    assert not {"latents", "energy", "text"} & record.keys()
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
