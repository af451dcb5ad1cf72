"""`ebm corpus` as a user runs it."""

import gzip
import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from ebm_wgpu.cli import main

TEXT = "\ufeffFirst  lÃ­ne \r\nsecond\r\n\r\n\r\nThird &amp; last\r\n\r\n\r\nThird &amp; last\r\n"


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(main, ["corpus", *map(str, arguments)])
    assert result.exit_code == status, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text(TEXT, encoding="utf-8", newline="")
    return path


def test_prepare_with_everything(source, tmp_path):
    output = tmp_path / "out.txt"
    printed = run(
        *("prepare", source, "--output", output, "--documents", "blank-lines", "--lowercase"),
        *("--unescape-html", "--whitespace", "collapse", "--unique", "documents"),
    )
    expected = "first líne\nsecond\n<|endoftext|>\nthird & last\n<|endoftext|>\n"
    assert output.read_text(encoding="utf-8") == expected
    assert f"{output} ({len(expected.encode())} bytes) from 1 files" in printed
    assert "documents                  3               2" in printed
    assert "3 lines repaired" in printed
    assert "1 duplicate documents dropped" in printed
    assert "too short" not in printed


def test_prepare_reports_json_and_reads_folders(source, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt.gz").write_bytes(gzip.compress("né\n".encode("latin-1")))
    (folder / "b.jsonl").write_text('{"body": "x", "id": 1}\n{"body": "longer"}\n')
    output = tmp_path / "out.txt"
    record = json.loads(
        run(
            *("prepare", folder, "--output", output, "--encoding", "latin-1", "--field", "body"),
            *("--mark", "", "--min-characters", 3, "--json"),
        )
    )
    assert output.read_text(encoding="utf-8") == "né\nlonger\n"
    assert record["output"] == str(output)
    assert (record["files"], record["documents_in"], record["documents_out"]) == (2, 3, 2)
    assert record["short_documents"] == 1
    assert record["bytes_out"] == output.stat().st_size


def test_what_prepare_wrote_can_be_analyzed_and_prepared_again(source, tmp_path):
    first, second = tmp_path / "1.txt", tmp_path / "2.txt"
    run("prepare", source, "--output", first, "--documents", "blank-lines")
    run("prepare", first, "--output", second)
    assert first.read_bytes() == second.read_bytes()
    report = json.loads(run("analyze", second, "--json"))
    assert (report["documents"], report["lines"], report["words"]) == (3, 4, 9)
    assert report["tokenizer"] == "gpt2"
    assert report["repetition"]["documents"] == pytest.approx(1 / 3)
    assert report["suggestion"] == {"block_size": 16, "window_stride": 8}


def test_analyze_prints_what_matters(tmp_path):
    path, tokenizer = tmp_path / "a.txt", tmp_path / "run" / "tokenizer.json"
    tokenizer.parent.mkdir()
    path.write_text("one two\u200b two\n<|endoftext|>\none two\u200b two\n", encoding="utf-8")
    CliRunner().invoke(
        main, ["tokenizer", "train", str(path), "--output", str(tokenizer), "--kind", "word"]
    )
    printed = run("analyze", path, "--tokenizer", tokenizer.parent)
    for line in (
        "documents                          2",
        "tokens (word)                      8",
        "suggested: data.block_size=16 data.window_stride=8",
        "3 distinct words: 100.00% are covered, which make 100.00% of the text",
        "repeated: 50.0% of documents, 50.0% of lines",
        "unusual: U+200B ZERO WIDTH SPACE: 2",
    ):
        assert line in printed


@pytest.mark.parametrize("command", ["prepare", "analyze"])
def test_inputs_that_are_no_text(command, tmp_path):
    bad = tmp_path / "bad.txt"
    options = ("--output", tmp_path / "out.txt") if command == "prepare" else ()
    assert "cannot be read" in run(command, bad, *options, status=1)
    for data, message in (
        (b"text\0", "is binary: NUL"),
        (b"text\xff", "is not UTF-8: invalid byte 0xff at byte offset 4"),
        (b"", "nothing is left to write" if options else "no text to analyze"),
    ):
        bad.write_bytes(data)
        printed = run(command, bad, *options, status=1)
        assert message in printed
        assert printed.startswith("Error: ")
        assert printed.count("\n") == 1
    assert not (tmp_path / "out.txt").exists()
    assert "Missing argument" in run(command, *options, status=2)
    bad.write_text("x")
    assert "unknown text encoding" in run(command, bad, *options, "--encoding", "u8x", status=1)
    assert "must be one line" in run(command, bad, *options, "--separator", " ", status=1)


def test_outputs_that_cannot_be_written(source, tmp_path):
    for output, message in (
        (source, "is an input and the output"),
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "out.txt", "create it first"),
        (source / "out.txt", "is no folder"),
    ):
        assert message in run("prepare", source, "--output", output, status=1)
    assert source.read_bytes().decode() == TEXT


def test_tokenizers_that_are_none(source, tmp_path):
    assert "cannot be read" in run("analyze", source, "--tokenizer", "none", status=1)
    assert "cannot be read" in run("analyze", source, "--tokenizer", tmp_path, status=1)
    assert "is damaged" in run("analyze", source, "--tokenizer", source, status=1)


def test_the_installed_command_shows_no_bar_where_nobody_looks(source, tmp_path):
    code = "from ebm_wgpu.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "corpus", "prepare", source, "--output", tmp_path / "o.txt"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TERM": "dumb"},
    )
    assert done.stderr == ""
    assert "documents" in done.stdout
