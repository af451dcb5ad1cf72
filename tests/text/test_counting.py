import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.text import counting
from ebm_wgpu.text.corpora import load_corpus
from ebm_wgpu.text.counting import CharacterCounts, LengthCounts, TokenCounts, WordCounts
from ebm_wgpu.text.tokenizers import make_tokenizer

SAMPLE = load_corpus("wikitext-2", "valid")[:100_000]


@given(st.lists(st.integers(0, 50), min_size=1), st.lists(st.floats(0, 1), max_size=5))
def test_quantiles_are_those_of_numpy(lengths, orders):
    counts = LengthCounts()
    for length in lengths:
        counts.add(length)
    np.testing.assert_allclose(counts.quantiles(orders), np.quantile(lengths, orders), rtol=1e-12)


def test_no_lengths_have_zero_quantiles():
    assert LengthCounts().quantiles([0, 0.5]) == [0.0, 0.0]


@given(st.lists(st.lists(st.text("abc", min_size=1, max_size=3), max_size=9)))
def test_words_are_counted_exactly_while_they_fit(calls):
    counts = WordCounts(1000)
    for words in calls:
        counts.add(words)
    expected = Counter(word for words in calls for word in words)
    assert counts.exact
    assert dict(counts.ranked()) == expected
    assert (counts.total, counts.types) == (sum(expected.values()), len(expected))
    numbers = [n for _, n in counts.ranked()]
    assert numbers == sorted(numbers, reverse=True)


def test_rare_words_are_let_go_within_the_stated_bounds():
    words = (np.random.default_rng(0).zipf(1.3, 40_000) % 100_000).astype(str).tolist()
    exact = Counter(words)
    counts = WordCounts(500)
    for first in range(0, len(words), 100):
        counts.add(words[first : first + 100])
        assert len(counts.ranked()) <= 500
    found = dict(counts.ranked())
    assert not counts.exact
    assert counts.total == 40_000
    assert counts.types >= len(exact)
    lost = max(exact[word] - n for word, n in found.items())
    assert 0 <= lost <= counts.bound
    assert all(word in found for word, n in exact.items() if n > counts.bound)


def test_long_words_are_counted_by_their_beginning():
    counts = WordCounts()
    counts.add(["x" * 101, "x" * 200, "y"])
    assert counts.ranked() == [("x" * 100, 2), ("y", 1)]


@given(st.lists(st.text(max_size=30)), st.integers(1, 40))
def test_characters_are_counted(texts, batch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_BATCH_CHARACTERS", batch)
        counts = CharacterCounts()
        for text in texts:
            counts.add(text)
    whole = "".join(texts)
    assert (counts.total, counts.distinct) == (len(whole), len(set(whole)))
    above = sum(ord(character) > 127 for character in whole)
    assert counts.non_ascii_share == above / max(len(whole), 1)


def test_unusual_characters():
    counts = CharacterCounts()
    usual = "plain\n\ttext é “日本” 😀 a\u0301"
    counts.add(usual + "\u200b\x07\xa0\xa0\ufffd\ue000\u0378")
    found = counts.unusual()
    assert next(iter(found.items())) == ("\xa0", 2)
    assert found.keys() == {"\u200b", "\x07", "\xa0", "\ufffd", "\ue000", "\u0378"}
    assert not any(unicodedata.category(c) == "Lo" for c in found)


@pytest.mark.parametrize(
    ("name", "size"), [("bpe", 600), ("gpt2", None), ("char", None), ("word", 500)]
)
def test_tokens_are_those_of_each_document_for_itself(name, size, monkeypatch):
    """However long documents are put together and cut."""
    monkeypatch.setattr(counting, "_BATCH_CHARACTERS", 5000)
    monkeypatch.setattr(counting, "_DOCUMENT_PART", 2000)
    tokenizer = make_tokenizer(name, SAMPLE, size)
    documents = [SAMPLE[:50_000], "a\n", "\n", SAMPLE[50_000:53_000], "b"]
    counts = TokenCounts(tokenizer)
    for document in documents:
        for first in range(0, len(document), 700):
            counts.add(document[first : first + 700])
        counts.end_document()
    counts.finish()
    ids = [tokenizer.encode(document) for document in documents]
    lengths = sorted(part.size for part in ids)
    assert counts.total == sum(lengths)
    assert counts.lengths.quantiles([0, 0.25, 0.5, 0.75, 1]) == lengths
    whole = np.concatenate(ids)
    assert np.array_equal(counts.by_id, np.bincount(whole, minlength=tokenizer.vocab_size))


def test_a_document_without_spaces_is_cut_all_the_same():
    counts = TokenCounts(make_tokenizer("char", "x"))
    for _ in range(40):
        counts.add("x" * 65_536)
    counts.end_document()
    counts.finish()
    assert counts.total == 40 * 65_536
