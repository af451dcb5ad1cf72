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


def test_draws_of_a_mean_are_a_one_line_error(trained: Trained) -> None:
    run, _ = trained
    one_line_error(ebm("evaluate", "--checkpoint", run, "--draws", 3), "draws=3 with latent=mean")
