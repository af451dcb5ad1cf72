import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.documents import DocumentRule, read_documents


def documents_of(tmp_path, text, rule=None, name="a.txt", **options):
    path = tmp_path / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    documents, lines = [], []
    for piece in read_documents(path, rule, **options):
        if piece is None:
            documents.append("".join(lines))
            lines = []
        else:
            lines.append(piece)
    assert lines == []
    return documents


MARK = "  <|endoftext|> \n"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (DocumentRule(), ["a\n\nb\n", "c\n\n\n%%\nd\n"]),
        (DocumentRule("file"), [f"a\n\nb\n{MARK}\nc\n\n\n%%\nd\n"]),
        (DocumentRule("separator", "%%"), [f"a\n\nb\n{MARK}\nc\n", "d\n"]),
        (DocumentRule("blank-lines"), [f"a\n\nb\n{MARK}\nc\n", "%%\nd\n"]),
        (DocumentRule("blank-lines", blank_lines=1), ["a\n", f"b\n{MARK}", "c\n", "%%\nd\n"]),
        (DocumentRule("line"), ["a\n", "b\n", MARK, "c\n", "%%\n", "d\n"]),
    ],
)
def test_rules_cut_where_they_say(tmp_path, rule, expected):
    text = f"\n\na\n \nb\n{MARK}\nc\n\n\n%%\nd\n\n"
    assert documents_of(tmp_path, text, rule) == expected


def test_texts_without_text_have_no_documents(tmp_path):
    for text in ("", "\n \n\t\n", "<|endoftext|>\n<|endoftext|>\n"):
        assert documents_of(tmp_path, text) == []


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.JSONL.gz"])
def test_json_lines_are_known_by_name(tmp_path, name):
    records = [{"text": "a\r\nb", "id": 1}, {"text": ""}, {"text": "<|endoftext|>\nc\n\n"}]
    text = "\n\n".join(map(json.dumps, records))
    assert documents_of(tmp_path, text, name=name) == ["a\nb\n", "<|endoftext|>\nc\n"]
    rule = DocumentRule("jsonl", field="body")
    assert documents_of(tmp_path, '{"body": "x"}', rule) == ["x\n"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a"}\nplain\n', r"line 2 is not JSON \('plain'\)"),
        ('{"body": "a"}\n', r"line 1 has no text in field 'text' \(keys body\): name the field"),
        ('{"text": 3}\n', "has no text in field 'text'"),
        ("[1]\n", r"\(no object\)"),
    ],
)
def test_json_lines_that_are_none(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        documents_of(tmp_path, text, name="a.jsonl")


@given(st.lists(st.text("ab \n", max_size=20).filter(str.strip), max_size=6))
def test_marked_documents_come_back(tmp_path, texts):
    text = "".join(f"{text}\n<|endoftext|>\n" for text in texts)
    blank = [[line if line.strip() else "" for line in text.split("\n")] for text in texts]
    expected = ["\n".join(lines).strip("\n") + "\n" for lines in blank]
    assert documents_of(tmp_path, text) == expected


def test_long_lines_stay_one_line(tmp_path):
    line = "word " * 40_000 + "end"
    text = f"{line}\n\n{line}\n"
    assert documents_of(tmp_path, text) == [text]
    assert documents_of(tmp_path, text, DocumentRule("line")) == [f"{line}\n"] * 2
    # The end of a long line is no separator, even if it reads like one.
    tail = "x" * 65_537 + " %%\n"
    assert documents_of(tmp_path, tail, DocumentRule("separator", "%%")) == [tail]


def test_cleaning_comes_between_separators_and_blank_lines(tmp_path):
    text = "A\n-\nb|c||d\n<|endoftext|>\nE"
    clean = lambda line: line.lower().replace("-", "").replace("|", "\n")  # noqa: E731
    assert documents_of(tmp_path, text, clean=clean) == ["a\n\nb\nc\n\nd\n", "e\n"]
    rule = DocumentRule("line")
    assert documents_of(tmp_path, "b|c\n-\n", rule, clean=clean) == ["b\n", "c\n"]


def test_rules_that_cannot_be():
    with pytest.raises(DataError, match="0 blank lines"):
        DocumentRule("blank-lines", blank_lines=0)
    for separator in ("", " ", "a\nb"):
        with pytest.raises(DataError, match="must be one line with text on it"):
            DocumentRule(separator=separator)
