import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from ebm_wgpu.config import apply_overrides
from ebm_wgpu.errors import DataError
from ebm_wgpu.text.corpora import word_count
from ebm_wgpu.training import run_data
from ebm_wgpu.training.run_data import RunData


@pytest.fixture(scope="module")
def data(tiny):
    return RunData.load(tiny)


def test_both_texts_are_encoded_whole(data, corpus):
    text = data.tokenizer.decode(data.train.tokens) + data.tokenizer.decode(data.valid.tokens)
    assert text == corpus.read_text()
    assert data.valid_bytes == len(data.tokenizer.decode(data.valid.tokens))
    assert data.token_counts.sum() == len(data.train)
    assert data.token_counts.shape == (data.tokenizer.vocab_size,)
    assert "".join(data.vocabulary[token] for token in data.train.tokens[:40]) == text[:40]


def test_a_given_tokenizer_is_kept(tiny, data):
    again = RunData.load(tiny, data.tokenizer)
    assert again.tokenizer is data.tokenizer
    assert again.fingerprint == data.fingerprint


def test_the_fingerprint_is_of_the_training_tokens(tiny, data, corpus, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(corpus.read_text().replace("cat", "act", 1))
    changed = RunData.load(apply_overrides(tiny, [f"data.dataset={other}"]), data.tokenizer)
    assert len(changed.train) == len(data.train)
    assert changed.fingerprint != data.fingerprint


def test_a_prefix_of_the_validation_text_counts_its_own_words_and_bytes(data):
    stream, n_bytes = data.valid_prefix(25)
    text = data.tokenizer.decode(data.valid.tokens[:25])
    assert (len(stream), n_bytes, stream.n_words) == (25, len(text.encode()), word_count(text))
    assert data.valid_prefix(None) == (data.valid, data.valid_bytes)
    assert data.valid_prefix(10**9) == (data.valid, data.valid_bytes)


def test_batches_follow_the_configuration(tiny, data):
    batch = data.batches(tiny).next_batch()
    assert batch.shape == (tiny.train.batch_size, tiny.data.block_size + 1)
    assert np.array_equal(batch, data.batches(tiny).next_batch())
    with pytest.raises(DataError, match="block size"):
        data.batches(apply_overrides(tiny, ["data.block_size=100000"]))


def test_a_tokenizer_file_takes_the_place_of_training_one(tiny, data, tmp_path):
    path = tmp_path / "tokenizer.json"
    data.tokenizer.save(path)
    given = RunData.load(
        apply_overrides(
            tiny, ["data.tokenizer=bpe", "data.vocab_size=300", f"data.tokenizer_path={path}"]
        )
    )
    assert given.tokenizer.fingerprint == data.tokenizer.fingerprint


def test_windows_follow_the_stride(tiny, data):
    near = data.batches(apply_overrides(tiny, ["data.window_stride=3"]))
    assert near.sampler.stride == 3
    assert not np.array_equal(near.next_batch(), data.batches(tiny).next_batch())


def test_the_end_of_the_training_text_can_be_held_out(tiny, data):
    split = RunData.load(apply_overrides(tiny, ["data.heldout_tokens=100"]), data.tokenizer)
    assert len(data.heldout) == 0
    both = np.concatenate([split.train.tokens, split.heldout.tokens])
    assert np.array_equal(both, data.train.tokens)
    assert len(split.heldout) == 100
    assert split.train.n_words + split.heldout.n_words == data.train.n_words
    assert split.token_counts.sum() == len(data.train) - 100
    most = RunData.load(apply_overrides(tiny, ["data.heldout_tokens=10000000"]), data.tokenizer)
    assert len(most.heldout) == len(data.train) // 4


@pytest.mark.parametrize(("length", "held"), [(200, 50), (20, 5), (15, 2), (13, 0), (9, 0)])
def test_a_short_text_holds_out_no_more_than_leaves_a_window(tiny, data, tmp_path, length, held):
    """Of 12 tokens and the one after them; where it has no more, all of it is learned from."""
    path, valid = tmp_path / "short.txt", tmp_path / "valid.txt"
    path.write_text(data.tokenizer.decode(data.train.tokens[:length]))
    valid.write_text("the cat")
    config = apply_overrides(
        tiny,
        [f"data.dataset={path}", f"data.valid_path={valid}", "data.heldout_tokens=8192"],
    )
    short = RunData.load(config, data.tokenizer)
    assert (len(short.train), len(short.heldout)) == (length - held, held)


def lines(count):
    """Lines of few different words, however many lines."""
    return (f"line {n % 997} of some café's words, {n * 7919 % 1009}\n" for n in range(count))


def test_loading_takes_the_memory_of_the_tokens_and_a_piece(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(run_data, "_PIECE", 1 << 16)
    path = tmp_path / "text.txt"
    path.write_text("".join(lines(60_000)), encoding="utf-8")
    config = apply_overrides(tiny, [f"data.dataset={path}"])
    tracemalloc.start()
    data = RunData.load(config)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    n_bytes = 4 * (len(data.train) + len(data.valid))
    assert n_bytes > 8e6
    assert peak < 1.1 * n_bytes + 4 * 2**20
    text = path.read_text(encoding="utf-8")
    assert data.tokenizer.decode(data.train.tokens) == text[: len(data.train)]
    assert data.valid_bytes == len(text[len(data.train) :].encode())
    assert data.train.n_words == word_count(text[: len(data.train)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_loading_a_large_file_takes_the_memory_of_its_tokens(tiny, tmp_path, kind):
    """Of 40 MB, by the peak of the process; run with `pytest -m slow` on this file."""
    code = (
        "import resource, sys\n"
        "from ebm_wgpu.config import Config, apply_overrides\n"
        "from ebm_wgpu.training.run_data import RunData\n"
        "data = RunData.load(apply_overrides(Config(), sys.argv[1:]))\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(len(data.train) + len(data.valid), 1024 * peak)"
    )

    def load(count):
        path = tmp_path / f"{count}.txt"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(lines(count))
        chosen = (f"data.dataset={path}", f"data.tokenizer={kind}", "data.vocab_size=1000")
        done = subprocess.run(
            [sys.executable, "-c", code, *chosen], capture_output=True, text=True, check=True
        )
        return map(int, done.stdout.split())

    few, least = load(40_000)
    many, most = load(1_000_000)
    assert many > 25 * few
    assert most - least < 1.1 * 4 * (many - few) + 64 * 2**20
