import numpy as np
import pytest

from ebm_wgpu.config import apply_overrides
from ebm_wgpu.errors import DataError
from ebm_wgpu.text.corpora import word_count
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
    with pytest.raises(DataError, match="heldout_tokens=10000000 leaves nothing of the"):
        RunData.load(apply_overrides(tiny, ["data.heldout_tokens=10000000"]), data.tokenizer)
