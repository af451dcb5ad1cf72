import json
import math

import pytest

from ebm_wgpu.errors import CheckpointError
from ebm_wgpu.training.history import evaluation_entry, perplexity, write_history

VALID = {
    "nll_per_token": 2.0,
    "token_perplexity": math.exp(2),
    "word_perplexity": 100.0,
    "bits_per_byte": 1.5,
    "n_tokens": 7,
}
LINE = {
    "step": 5, "loss": 3.0, "token": 2.5, "latent": None, "lr": 0.1, "elapsed": 9.0,
    "tokens_per_second": 8.0, "splats": {"count": 3}, "memory": {"resident": 1}, "valid": VALID,
}  # fmt: skip


def test_an_entry_has_losses_perplexities_rate_and_time():
    assert evaluation_entry(LINE) == {
        "step": 5,
        "seconds": 9.0,
        "lr": 0.1,
        "train": {"loss": 3.0, "token": 2.5},
        "train_perplexity": math.exp(2.5),
        "valid_loss": 2.0,
        "valid_perplexity": math.exp(2),
        "valid_word_perplexity": 100.0,
        "valid_bits_per_byte": 1.5,
    }
    first = evaluation_entry({"step": 0, "unigram_nll": 6.0, "valid": VALID})
    assert (first["train"], first["lr"], first["seconds"]) == ({}, None, 0.0)
    assert first["train_perplexity"] is None


def test_the_file_holds_one_entry_an_evaluation(tmp_path):
    path = tmp_path / "history.json"
    write_history(path, [{"step": 0, "valid": VALID}, {"step": 3, "loss": 1.0}, LINE])
    document = json.loads(path.read_text())
    assert (document["format"], document["version"]) == ("ebm-wgpu-history", 1)
    assert [entry["step"] for entry in document["evaluations"]] == [0, 5]
    with pytest.raises(CheckpointError, match=r"history\.json cannot be written"):
        write_history(tmp_path / "absent" / "history.json", [])


def test_perplexities_too_large_for_a_number_are_none():
    assert perplexity(1.0) == math.e
    for nll in (None, 1000.0, math.inf, math.nan):
        assert perplexity(nll) is None
