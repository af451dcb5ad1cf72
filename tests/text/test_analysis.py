import tracemalloc

import numpy as np
import pytest

from ebm_wgpu.errors import DataError
from ebm_wgpu.text import counting
from ebm_wgpu.text.analysis import analyze_corpus, suggest_windows
from ebm_wgpu.text.corpora import load_corpus
from ebm_wgpu.text.documents import DocumentRule
from ebm_wgpu.text.tokenizers import CharTokenizer, WordTokenizer, make_tokenizer

VALID = load_corpus("wikitext-2", "valid")


def analyzed(tmp_path, text, tokenizer, rule=None):
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    return analyze_corpus([path], tokenizer, rule)


def test_a_small_corpus_by_hand(tmp_path):
    text = "a a b\n\nc\n<|endoftext|>\na a b\n<|endoftext|>\na a b\n<|endoftext|>\nd \xa0é\n"
    report = analyzed(tmp_path, text, WordTokenizer.train("a b\nc"))
    assert (report.files, report.bytes) == (1, len(text.encode()))
    assert (report.documents, report.lines, report.words) == (4, 6, 12)
    assert report.characters == sum(map(len, ["a a b\n\nc\n", "a a b\n", "a a b\n", "d \xa0é\n"]))
    # <eos> for every line end; d and é are unknown.
    assert report.tokens == 12 + 6
    assert report.document_tokens["0"] == 3
    assert report.document_tokens["1"] == 7
    assert report.line_characters["1"] == 5
    coverage = report.coverage
    assert coverage.token_share == pytest.approx(16 / 18)
    assert coverage.vocabulary_used == 1.0
    assert coverage.word_share == pytest.approx(10 / 12)
    assert coverage.word_type_share == pytest.approx(3 / 5)
    assert coverage.whole_word_share == coverage.word_share
    assert (coverage.types, coverage.types_exact) == (5, True)
    assert coverage.types_for == {"0.9": 4, "0.95": 5, "0.99": 5}
    repetition = report.repetition
    assert repetition.documents == pytest.approx(1 / 4)
    assert repetition.lines == pytest.approx(2 / 5)
    assert repetition.exact
    assert report.unusual == {"\xa0": 1}
    assert report.distinct_characters == len(set(text.replace("<|endoftext|>\n", "")))


@pytest.mark.parametrize("name", ["gpt2", "bpe"])
def test_coverage_by_bytes(tmp_path, name):
    tokenizer = make_tokenizer(name, VALID[:50_000], 400)
    report = analyzed(tmp_path, "plain words ꙮ\n", tokenizer)
    ids = tokenizer.encode("plain words ꙮ\n")
    pieces = sum(int(index) in tokenizer.unknown_ids for index in ids)
    assert pieces == 3
    assert report.coverage.token_share == pytest.approx(1 - 3 / ids.size)
    assert report.coverage.word_share == pytest.approx(2 / 3)
    if name == "gpt2":
        assert report.coverage.whole_word_share == pytest.approx(2 / 3)


def test_types_for_a_share_are_the_fewest_that_reach_it(tmp_path):
    report = analyzed(tmp_path, VALID, CharTokenizer.train(VALID), DocumentRule("line"))
    words, counts = np.unique(VALID.split(), return_counts=True)
    reached = np.cumsum(np.sort(counts)[::-1]) / counts.sum()
    expected = {f"{share:g}": int(np.argmax(reached >= share)) + 1 for share in (0.9, 0.95, 0.99)}
    assert report.coverage.types_for == expected
    assert report.coverage.types == words.size
    lines = [line for line in VALID.split("\n") if line.strip()]
    assert (report.documents, report.lines) == (len(lines), len(lines))
    assert report.repetition.lines == pytest.approx(1 - len(set(lines)) / len(lines))
    assert report.tokens == report.characters == sum(len(line) + 1 for line in lines)
    lengths = [len(line) for line in lines]
    assert report.line_characters["0.75"] == np.quantile(lengths, 0.75)


@pytest.mark.parametrize(
    ("document_tokens", "tokens", "block", "stride"),
    [
        (300, 10**8, 512, 512),
        (512, 10**8, 512, 512),
        (513, 10**8, 1024, 1024),
        (10**6, 10**8, 1024, 1024),
        (10**6, 10**6, 1024, 512),
        (10**6, 50_000, 256, 128),
        (3, 10**8, 16, 16),
        (3, 10, 16, 8),
    ],
)
def test_windows_follow_the_stated_rule(document_tokens, tokens, block, stride):
    found = suggest_windows(document_tokens, tokens)
    assert (found.block_size, found.window_stride) == (block, stride)


def test_a_corpus_without_text_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no text to analyze in .*a\.txt"):
        analyzed(tmp_path, "\n<|endoftext|>\n", CharTokenizer.train("a"))


def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "_BATCH_CHARACTERS", 1 << 16)

    def peak(times):
        path = tmp_path / "a.txt"
        path.write_text(VALID[:200_000] * times, encoding="utf-8")
        tracemalloc.start()
        analyze_corpus([path], CharTokenizer.train(VALID))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(10) < peak(2) + (1 << 18)
