from itertools import islice

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.datasets import BlockDataset, TokenStream, evaluation_batches
from ebm_wgpu.text.samplers import BatchSampler, DocumentSampler
from ebm_wgpu.text.streaming import token_safe_pieces
from ebm_wgpu.text.tokenizers import END_OF_TEXT, CharTokenizer, WordTokenizer


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


def documents_stream(lengths):
    """Documents of these lengths, separator (id 0) included; other ids say which document it is."""
    parts = [[number + 1] * (length - 1) + [0] for number, length in enumerate(lengths)]
    tokens = [token for part in parts for token in part]
    return TokenStream(np.array(tokens), len(lengths) + 1, len(tokens), "documents")


def test_windows_stay_within_documents_if_asked():
    stream = documents_stream([30, 3, 9, 2, 50])
    dataset = BlockDataset(stream, 8, 5, documents="within", separator_id=0)
    for batch in islice(dataset, 20):
        assert batch.shape == (5, 9)
        assert all(len({*row.tolist()} - {0}) == 1 for row in batch)
        assert np.all(batch[:, :-1] != 0)
    seen = {int(token) for batch in islice(dataset, 20) for token in batch.ravel()}
    assert seen == {0, 1, 3, 5}


def test_short_documents_share_windows_if_asked():
    stream = documents_stream([30, 3, 5, 4, 50, 2])
    dataset = BlockDataset(stream, 8, 5, stride=2, documents="packed", separator_id=0)
    documents = {frozenset({*row.tolist()} - {0}) for batch in islice(dataset, 40) for row in batch}
    shared = {frozenset({2, 3, 4}), frozenset({3, 4})}
    assert documents == {frozenset({1}), frozenset({5}), *shared}


def test_the_sampler_is_the_simple_one_unless_more_is_asked():
    stream = stream_of(100)
    assert type(BlockDataset(stream, 8, 2).sampler) is BatchSampler
    overlapping = BlockDataset(stream, 8, 2, stride=3)
    assert type(overlapping.sampler) is DocumentSampler
    overlapping.next_batch()
    again = BlockDataset(stream, 8, 2, stride=3)
    again.load_state_dict(overlapping.state_dict())
    assert np.array_equal(again.next_batch(), overlapping.next_batch())


def test_documents_need_a_separator():
    tokenizer = CharTokenizer.train("abc")
    assert tokenizer.token_id(END_OF_TEXT) is None
    with pytest.raises(DataError, match=r"data.documents=within needs a tokenizer with the token"):
        BlockDataset(stream_of(100), 8, 2, documents="within")


def test_the_shortest_stream_is_one_window():
    assert BlockDataset(stream_of(9), 8, 2).next_batch().tolist() == [list(range(9))] * 2
    with pytest.raises(DataError, match="counting has 8 tokens, a window of block size 8 needs 9"):
        BlockDataset(stream_of(8), 8, 2)
    with pytest.raises(DataError, match="block 0 and batch 2"):
        BlockDataset(stream_of(8), 0, 2)


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


@given(st.lists(st.text(alphabet="abé \n", max_size=20), max_size=20), st.integers(1, 30))
def test_pieces_make_the_stream_of_the_whole_text(parts, size):
    text = "".join(parts)
    for tokenizer in (CharTokenizer.train("abé \n"), WordTokenizer.train("a b ab\n")):
        whole = TokenStream.from_text(text, tokenizer)
        pieces, n_bytes = TokenStream.from_pieces(token_safe_pieces(parts, size), tokenizer)
        assert np.array_equal(pieces.tokens, whole.tokens)
        assert pieces.tokens.dtype == np.int32
        assert (pieces.n_words, n_bytes) == (whole.n_words, len(text.encode()))
