import bz2
import gzip
import itertools
import lzma
import os
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import DataError
from ebm_wgpu.text import streaming
from ebm_wgpu.text.folders import read_text
from ebm_wgpu.text.streaming import (
    LONGEST_PIECE,
    AtomicWriter,
    Decoding,
    check_output,
    content_suffix,
    expand_inputs,
    read_lines,
    token_safe_pieces,
    total_bytes,
)
from ebm_wgpu.text.tokenizer_base import safe_chunks

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from("\r\n a"))


def lines_of(path, **options):
    return list(read_lines(path, **options))


@given(TEXTS.filter(str.strip), st.integers(1, 9))
def test_lines_joined_are_the_text(tmp_path, text, chunk):
    """Whatever the size of the chunks that a CR LF or a character may be split between."""
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "_READ_BYTES", chunk)
        lines = lines_of(path)
    expected = read_text(path)
    assert "".join(lines) == expected + "\n" * (not expected.endswith("\n"))
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)


def test_an_empty_file_has_no_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"")
    assert lines_of(path) == []
    path.write_bytes(b"\xef\xbb\xbf")
    assert lines_of(path) == []


@given(st.text(" ab\u0301", max_size=200), st.integers(2, 40))
def test_long_lines_come_in_parts_cut_before_spaces(tmp_path, line, longest):
    path = tmp_path / "a.txt"
    path.write_text(f"{line}\nend\n", encoding="utf-8")
    pieces = lines_of(path, longest=longest)
    assert "".join(pieces) == f"{line}\nend\n"
    assert all(0 < len(piece) <= longest + 1 for piece in pieces)
    for left, right in itertools.pairwise(pieces):
        if not left.endswith("\n") and " " in left[longest // 2 :].strip():
            assert right.startswith(" ")
    assert lines_of(path, longest=None) == [f"{line}\n", "end\n"]


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_compressed_files_read_as_their_content(tmp_path, suffix, pack):
    text = "".join(f"line {number}\n" for number in range(50_000))
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(pack(text.encode()))
    told: list[int] = []
    assert "".join(read_lines(path, on_bytes=told.append)) == text
    assert sum(told) == total_bytes([path]) == path.stat().st_size
    damaged = path.read_bytes()
    for data in (damaged[: len(damaged) // 2], b"plain text\n"):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"is damaged or not compressed|cannot be read"):
            lines_of(path)


def test_progress_reaches_the_size_of_the_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"word\n" * 200_000)
    told: list[int] = []
    assert len(lines_of(path, on_bytes=told.append)) == 200_000
    assert len(told) > 2
    assert sum(told) == 1_000_000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"abc\0def", "is binary: NUL at byte offset 3"),
        (b"x" * 300_000 + b"\0a", "is binary: NUL at byte offset 300000"),
        (b"abc\xff\0", "is binary: NUL at byte offset 4"),
        (b"abc\xff", "is not UTF-8: invalid byte 0xff at byte offset 3; convert it"),
        (b"x" * 300_000 + b"\xe9a", "invalid byte 0xe9 at byte offset 300000"),
        (b"abc\xe2\x82", "invalid byte 0xe2 at byte offset 3"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(tmp_path, data, message):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        lines_of(path)


def test_a_character_split_between_chunks_is_placed_where_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "_READ_BYTES", 4)
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc\xe2\x82x")
    with pytest.raises(DataError, match="invalid byte 0xe2 at byte offset 3"):
        lines_of(path)


def test_other_encodings_and_invalid_bytes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("né\n".encode("utf-16"))
    assert lines_of(path, decoding=Decoding("utf-16")) == ["né\n"]
    path.write_bytes("né\n".encode("latin-1"))
    assert lines_of(path, decoding=Decoding("latin-1")) == ["né\n"]
    assert lines_of(path, decoding=Decoding(invalid="replace")) == ["n\ufffd\n"]
    assert lines_of(path, decoding=Decoding(invalid="drop")) == ["n\n"]
    path.write_bytes("n\0\n".encode("utf-16"))
    with pytest.raises(DataError, match="is binary: NUL before byte offset 8"):
        lines_of(path, decoding=Decoding("utf-16"))
    for name in ("utf-99", "hex"):
        with pytest.raises(DataError, match=f"unknown text encoding '{name}'"):
            Decoding(name)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.txt cannot be read \(No such file"):
        lines_of(tmp_path / "nowhere.txt")
    with pytest.raises(DataError, match="is a folder"):
        lines_of(tmp_path)


def test_a_record_longer_than_memory_should_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "_LONGEST_LINE", 1000)
    path = tmp_path / "a.jsonl"
    path.write_text("x" * 2000)
    with pytest.raises(DataError, match="has a line of more than 1,000 characters"):
        lines_of(path, longest=None)


def test_folders_give_their_text_files_in_order(tmp_path):
    for name in ("b.txt", "a.jsonl.gz", "deep/c.md", "image.png", ".hidden.txt", ".git/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = expand_inputs([tmp_path, tmp_path / "image.png"])
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["a.jsonl.gz", "b.txt", "deep/c.md", "image.png"]
    assert content_suffix(found[0]) == ".jsonl"
    (tmp_path / "empty").mkdir()
    for bad, message in (
        ([tmp_path / "none.txt"], "no such file"),
        ([tmp_path / "empty"], "holds no text file"),
        ([], "no input"),
    ):
        with pytest.raises(DataError, match=message):
            expand_inputs(bad)


@given(st.lists(st.text(" \nab,", max_size=60), max_size=20), st.integers(1, 30))
def test_token_safe_pieces_are_the_safe_chunks_of_the_whole(pieces, size):
    assert list(token_safe_pieces(pieces, size)) == list(safe_chunks("".join(pieces), size))


def test_text_without_safe_cuts_is_cut_all_the_same():
    pieces = list(token_safe_pieces(["x" * LONGEST_PIECE] * 50))
    assert "".join(pieces) == "x" * (50 * LONGEST_PIECE)
    assert max(map(len, pieces)) <= 3 << 20


def test_reading_takes_no_more_memory_for_more_text(tmp_path):
    def peak(n_lines, separator):
        path = tmp_path / "a.txt"
        path.write_text(separator.join(["some words of text"] * n_lines))
        tracemalloc.start()
        for piece in token_safe_pieces(read_lines(path)):
            assert len(piece) < 1 << 18
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    for separator in ("\n", " "):
        assert peak(200_000, separator) < peak(25_000, separator) + (1 << 20)


def test_a_written_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out.txt"
    with AtomicWriter(path) as writer:
        writer.write("abc")
        kept = writer.position
        writer.write("déf")
        assert writer.position == 7
        writer.cut_back(kept)
        writer.write("gh")
        assert not path.exists()
    assert path.read_bytes() == b"abcgh"
    with pytest.raises(KeyboardInterrupt), AtomicWriter(path) as writer:
        writer.write("new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"abcgh"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.txt"]


def test_outputs_that_cannot_be_written(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("x")
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "out.txt", "is no folder, create it first"),
        (file / "out.txt", "is no folder"),
    ):
        with pytest.raises(DataError, match=message):
            AtomicWriter(path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DataError, match="no permission for the folder"):
        check_output(tmp_path / "out.txt")


def test_a_full_disk_is_a_users_error(tmp_path, monkeypatch):
    writer = AtomicWriter(tmp_path / "out.txt")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device"), writer:
        writer.write("abc")
    assert list(tmp_path.iterdir()) == []
