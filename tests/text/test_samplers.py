import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import CheckpointError, DataError
from ebm_wgpu.text.samplers import BatchSampler, DocumentSampler, document_ends

SHAPES = st.tuples(st.integers(2, 300), st.integers(1, 40)).filter(lambda s: s[0] > s[1])
LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=12)


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


def epoch_of(sampler, epoch=0):
    sampler.load_state_dict({**sampler.state_dict(), "epoch": epoch, "index": 0})
    count = sampler.windows_per_epoch
    starts = np.concatenate([sampler.next_starts() for _ in range(count)])
    assert (sampler.epoch, sampler.index) == (epoch, count)
    return starts


@given(SHAPES, st.integers(0, 2**64), st.integers(1, 9))
def test_one_segment_without_overlap_is_the_simple_sampler(shape, seed, batch):
    n_tokens, block = shape
    simple = BatchSampler(n_tokens, block, batch, seed)
    sampler = DocumentSampler(np.array([n_tokens]), block, batch, seed)
    for _ in range(30):
        assert np.array_equal(sampler.next_starts(), simple.next_starts())


@given(LENGTHS, st.integers(1, 20), st.integers(1, 20), st.integers(0, 9), st.integers(0, 3))
def test_an_epoch_visits_every_segment_at_its_stride(lengths, block, stride, seed, epoch):
    stride = min(stride, block)
    ends = np.cumsum(lengths)
    if max(lengths) <= block:
        with pytest.raises(DataError, match=f"a window of block size {block} needs {block + 1}"):
            DocumentSampler(ends, block, 1, seed, stride=stride)
        return
    sampler = DocumentSampler(ends, block, 1, seed, stride=stride)
    starts = epoch_of(sampler, epoch)
    assert len({*starts.tolist()}) == starts.size
    assert sampler.covered_tokens == sum(length for length in lengths if length > block)
    for first, end in itertools.pairwise([0, *ends.tolist()]):
        mine = np.sort(starts[(starts >= first) & (starts < end)])
        if end - first <= block:
            assert mine.size == 0
            continue
        assert first <= mine[0] < first + min(stride, end - first - block)
        assert np.all(np.diff(mine) == stride)
        assert mine[-1] + block + 1 <= end < mine[-1] + stride + block + 1


def test_every_place_of_a_document_is_trained_on_over_epochs():
    sampler = DocumentSampler(np.array([20, 27, 60]), 6, 1, stride=4)
    starts = {int(start) for epoch in range(60) for start in epoch_of(sampler, epoch)}
    assert starts == {*range(14), 20, *range(27, 54)}


def test_phases_of_segments_are_independent():
    """Chi-squared of pairs of phases over seeds: 15 degrees of freedom, p > .001."""
    counts = np.zeros((4, 4))
    for seed in range(1600):
        starts = DocumentSampler(np.array([11, 22]), 7, 1, seed, stride=4)._epoch_starts(0)
        first, second = np.sort(starts)
        counts[first, second - 11] += 1
    assert ((counts - 100) ** 2 / 100).sum() < 37.7


@given(LENGTHS, st.integers(1, 8), st.integers(1, 9), st.integers(0, 6), st.integers(1, 6))
def test_a_resumed_document_sampler_continues_the_sequence(lengths, stride, batch, before, after):
    ends = np.cumsum([*lengths, 30])
    sampler = DocumentSampler(ends, 8, batch, 5, stride=stride)
    for _ in range(before):
        sampler.next_starts()
    resumed = DocumentSampler(ends, 8, batch, 5, stride=stride)
    resumed.load_state_dict(sampler.state_dict())
    for _ in range(after):
        assert np.array_equal(resumed.next_starts(), sampler.next_starts())
    assert all(type(value) is int for value in sampler.state_dict().values())


def test_the_order_over_documents_stays_as_it_is():
    sampler = DocumentSampler(np.array([40, 45, 100]), 8, 6, 0, stride=4)
    assert sampler.next_starts().tolist() == [74, 86, 62, 58, 25, 29]


def test_a_position_over_other_documents_is_refused():
    sampler = DocumentSampler(np.array([40, 100]), 8, 2)
    for other, message in (
        (DocumentSampler(np.array([40, 100]), 8, 2, stride=4), "data has stride=8, this run 4"),
        (DocumentSampler(np.array([20, 40, 100]), 8, 2), "data has segments=2, this run 3"),
        (DocumentSampler(np.array([95, 100]), 8, 2), "data has covered=100, this run 95"),
        (BatchSampler(100, 8, 2), "was written with another data.documents"),
    ):
        with pytest.raises(CheckpointError, match=message):
            other.load_state_dict(sampler.state_dict())


@pytest.mark.parametrize("stride", [0, 9, -1])
def test_strides_out_of_range(stride):
    with pytest.raises(DataError, match=f"window stride {stride} is outside 1 to the block size 8"):
        DocumentSampler(np.array([100]), 8, 2, stride=stride)


def test_streams_too_short_for_a_window():
    with pytest.raises(DataError, match="text has 0 tokens"):
        DocumentSampler(np.array([], dtype=np.int64), 8, 2)
    with pytest.raises(DataError, match="text has 8 tokens"):
        DocumentSampler(np.array([8]), 8, 2)
    with pytest.raises(DataError, match="block 0 and batch 2"):
        DocumentSampler(np.array([8]), 0, 2)


@pytest.mark.parametrize(
    ("tokens", "pack_below", "ends"),
    [
        ([5, 0, 6, 6, 0], None, [2, 5]),
        ([5, 0, 6, 6], None, [2, 4]),
        ([0, 0], None, [1, 2]),
        ([], None, [0]),
        ([5, 0, 6, 0, 7, 7, 7, 0, 8, 0], 3, [4, 8, 10]),
        ([5, 0, 6, 0, 7, 7, 7, 0, 8, 0], 9, [10]),
        ([5, 0, 6, 0], 1, [2, 4]),
    ],
)
def test_documents_end_with_their_separator(tokens, pack_below, ends):
    found = document_ends(np.array(tokens, dtype=np.int32), 0, pack_below)
    assert found.tolist() == ends
    assert found.dtype == np.int64
