from itertools import islice

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ebm_wgpu.errors import CheckpointError, DataError
from ebm_wgpu.text.datasets import BatchSampler, BlockDataset, TokenStream, evaluation_batches
from ebm_wgpu.text.tokenizers import WordTokenizer

SHAPES = st.tuples(st.integers(2, 300), st.integers(1, 40)).filter(lambda s: s[0] > s[1])


def stream_of(n_tokens: int) -> TokenStream:
    return TokenStream(np.arange(n_tokens, dtype=np.int32), max(n_tokens, 1), n_tokens, "counting")


def test_a_stream_counts_words_and_tokens():
    tokenizer = WordTokenizer.train("a b\nc\n")
    stream = TokenStream.from_text("a b\nc a\n", tokenizer, "example")
    assert (len(stream), stream.n_words, stream.vocab_size) == (6, 6, tokenizer.vocab_size)
    assert stream.tokens.dtype == np.int32
    assert stream.tokens.flags.c_contiguous


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([0, 5], r"token ids of text span 0 to 5, outside \[0, 5\)"),
        ([-1, 2], "span -1 to 2"),
        ([[0, 1]], r"have shape \(1, 2\)"),
    ],
)
def test_streams_of_foreign_ids_are_refused(tokens, message):
    with pytest.raises(DataError, match=message):
        TokenStream(np.array(tokens), 5, 2)


@given(SHAPES, st.integers(0, 2**64), st.integers(0, 5))
def test_an_epoch_visits_disjoint_windows_each_once(shape, seed, epoch):
    n_tokens, block = shape
    sampler = BatchSampler(n_tokens, block, 1, seed)
    sampler.load_state_dict({**sampler.state_dict(), "epoch": epoch})
    starts = np.sort(
        np.concatenate([sampler.next_starts() for _ in range(sampler.windows_per_epoch)])
    )
    assert sampler.epoch == epoch
    assert sampler.index == starts.size
    assert 0 <= starts[0] < block
    assert np.all(np.diff(starts) == block)
    # What is left over at the end is too short for another window.
    assert starts[-1] + block + 1 <= n_tokens < starts[-1] + 2 * block + 1


@given(SHAPES, st.integers(1, 30), st.integers(0, 2**31), st.integers(0, 12), st.integers(0, 8))
def test_a_resumed_sampler_continues_the_sequence(shape, batch, seed, before, after):
    n_tokens, block = shape
    sampler = BatchSampler(n_tokens, block, batch, seed)
    for _ in range(before):
        sampler.next_starts()
    state = sampler.state_dict()
    expected = [sampler.next_starts() for _ in range(after)]
    resumed = BatchSampler(n_tokens, block, batch, seed)
    resumed.load_state_dict(state)
    assert all(np.array_equal(resumed.next_starts(), starts) for starts in expected)
    assert resumed.state_dict() == sampler.state_dict()


@given(SHAPES, st.integers(0, 100))
def test_the_sequence_does_not_depend_on_the_batch_size(shape, seed):
    n_tokens, block = shape
    by_one, by_seven = (
        BatchSampler(n_tokens, block, 1, seed),
        BatchSampler(n_tokens, block, 7, seed),
    )
    for _ in range(5):
        singles = np.concatenate([by_one.next_starts() for _ in range(7)])
        assert np.array_equal(singles, by_seven.next_starts())


def test_orders_differ_by_epoch_and_seed_and_stay_as_they_are():
    def first_epochs(seed):
        sampler = BatchSampler(6401, 64, 50, seed)
        return [tuple(sampler.next_starts()) for _ in range(4)]

    epochs = first_epochs(0) + first_epochs(1)
    assert len(set(epochs)) == 8
    phases = [BatchSampler(6401, 64, 1, seed).next_starts()[0] % 64 for seed in range(400)]
    assert len(set(phases)) == 64
    # Fixed for ever: a checkpoint of today must resume tomorrow.
    assert BatchSampler(6401, 64, 6, 0).next_starts().tolist() == [
        977,
        4817,
        2513,
        1169,
        5457,
        2385,
    ]


def test_every_window_is_equally_likely_to_come_first():
    """Chi-squared of the first window's place over seeds: 19 degrees of freedom, p > .001."""
    block, places = 10, 20
    counts = np.zeros(places)
    for seed in range(2000):
        counts[BatchSampler(block * (places + 1), block, 1, seed).next_starts()[0] // block] += 1
    expected = 2000 / places
    assert ((counts - expected) ** 2 / expected).sum() < 43.82


def test_windows_are_contiguous_tokens():
    stream = stream_of(1000)
    dataset = BlockDataset(stream, 32, 8, seed=3)
    for batch in islice(dataset, 10):
        assert batch.shape == (8, 33)
        assert batch.dtype == np.int32
        assert np.all(np.diff(batch, axis=1) == 1)
    again = BlockDataset(stream, 32, 8, seed=3)
    again.load_state_dict(dataset.state_dict())
    assert np.array_equal(again.next_batch(), dataset.next_batch())


def test_the_shortest_stream_is_one_window():
    assert BlockDataset(stream_of(9), 8, 2).next_batch().tolist() == [list(range(9))] * 2
    with pytest.raises(DataError, match="counting has 8 tokens, a window of block size 8 needs 9"):
        BlockDataset(stream_of(8), 8, 2)
    with pytest.raises(DataError, match="block 0 and batch 2"):
        BlockDataset(stream_of(8), 0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "checkpoint's data has seed=1, this run 0: resume with the corpus"),
        ({"n_tokens": 101}, "n_tokens=101"),
        ({"block": 9}, "block=9"),
        ({"epoch": -1}, "epoch=-1 is negative"),
        ({"index": 99}, "index=99 is outside the 9 windows of epoch 0"),
        ({"index": -1}, "index=-1 is outside"),
        ({"index": 1.0}, "needs the integers epoch, index"),
        ({"extra": 1}, "needs the integers"),
    ],
)
def test_a_position_in_another_stream_is_refused(change, message):
    sampler = BatchSampler(100, 10, 2, 0)
    with pytest.raises(CheckpointError, match=message):
        sampler.load_state_dict({**sampler.state_dict(), **change})
    assert (sampler.epoch, sampler.index) == (0, 0)


@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 50), st.integers(1, 9))
def test_each_token_is_scored_exactly_once_with_its_context(n_tokens, context, stride, batch):
    assume(stride <= context)
    start_id = n_tokens
    stream = TokenStream(np.arange(n_tokens), n_tokens + 1, n_tokens)
    scored = []
    for windows in evaluation_batches(stream, context, stride, batch, start_id):
        assert windows.tokens.shape == (windows.scored.shape[0], windows.scored.shape[1] + 1)
        assert 1 <= windows.tokens.shape[0] <= batch
        assert windows.tokens.shape[1] == min(context, n_tokens) + 1
        for row, mask in zip(windows.tokens, windows.scored, strict=True):
            assert np.all(np.diff(row[1:]) == 1)
            assert row[0] == (row[1] - 1 if row[1] else start_id)
            assert mask.any()
            for place in np.flatnonzero(mask):
                token = int(row[place + 1])
                scored.append(token)
                assert place + 1 >= min(context - stride + 1, token + 1)
    assert scored == list(range(n_tokens))


@pytest.mark.parametrize(
    ("n_tokens", "context", "stride", "batch", "message"),
    [
        (10, 4, 5, 1, "stride 5 is outside 1 to the context 4"),
        (10, 4, 0, 1, "stride 0"),
        (10, 4, 4, 0, "batch 0 must be at least 1"),
        (0, 4, 4, 1, "counting has no tokens to score"),
    ],
)
def test_evaluation_that_cannot_be_is_refused_at_once(n_tokens, context, stride, batch, message):
    with pytest.raises(DataError, match=message):
        evaluation_batches(stream_of(n_tokens), context, stride, batch, 0)
