"""Prompt files by each rule, output files whole or not at all, and what is wrong with either."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.generation_batch import GeneratedText, TokenEnergies
from ebm_wgpu.generation_files import Prompt, read_prompts, record, separated, write_texts


def file(folder: Path, text: str, name: str = "prompts.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def text(prompt: str, written: str, energies: TokenEnergies | None = None) -> GeneratedText:
    return GeneratedText(prompt, written, (1, 2), "stop", 7, 0.5, 0.1, energies)


def test_lines_are_prompts_as_they_stand_and_blank_ones_are_not(tmp_path: Path) -> None:
    path = file(tmp_path, "one \r\n\n  \n two é\n")
    assert read_prompts(path) == [
        Prompt("one ", f"{path} line 1"),
        Prompt(" two é", f"{path} line 4"),
    ]


def test_a_whole_file_is_one_prompt_without_its_last_line_end(tmp_path: Path) -> None:
    path = file(tmp_path, "one\n\ntwo\n\n", "prompts.jsonl")
    assert read_prompts(path, "file") == [Prompt("one\n\ntwo\n", str(path))]


def test_json_lines_hold_line_ends_and_empty_prompts(tmp_path: Path) -> None:
    content = '{"prompt": "one\\ntwo", "id": 3}\n\n{"prompt": ""}'
    for path, kind in (
        (file(tmp_path, content, "prompts.jsonl"), "auto"),
        (file(tmp_path, content), "jsonl"),
    ):
        prompts = read_prompts(path, kind)  # type: ignore[arg-type]
        assert [prompt.text for prompt in prompts] == ["one\ntwo", ""]
        assert prompts[1].name == f"{path} line 3"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", r"prompts\.jsonl is empty"),
        (" \n\n", r"prompts\.jsonl is empty"),
        ('{"prompt": "a"}\nb', r"prompts\.jsonl line 2 is not JSON .*give \{\"prompt\": TEXT\}"),
        ('{"text": "a"}', r"line 1 has no text under \"prompt\""),
        ('{"prompt": 3}', r"line 1 has no text under \"prompt\""),
        ('["a"]', r"line 1 has no text under \"prompt\""),
        ("a\0b", r"is binary: NUL at byte offset 1"),
    ],
)
def test_what_holds_no_prompts_is_an_error(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_prompts(file(tmp_path, content, "prompts.jsonl"))


def test_a_name_in_jsonl_gets_json_lines(tmp_path: Path) -> None:
    energies = TokenEnergies((0.5, 1.25), None)
    texts = [text("a\n", "é"), text("b", "c", energies)]
    path = tmp_path / "out.jsonl"
    write_texts(path, texts)
    plain = {
        "prompt": "a\n", "text": "é", "tokens": [1, 2], "reason": "stop", "seed": 7,
        "seconds": 0.5, "tokens_per_second": 4.0,
    }  # fmt: skip
    more = {"token_energies": [0.5, 1.25], "model_energies": None, "total_energy": 1.75}
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        plain,
        plain | {"prompt": "b", "text": "c"} | more,
    ]
    assert record(text("", "", TokenEnergies((0.5,), (-3.0,))))["total_energy"] == -3


def test_other_names_get_texts_with_separator_lines(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    write_texts(path, [text("one", " two"), text("three\n", "four")])
    assert path.read_text() == "one two\n<|endoftext|>\nthree\nfour\n"
    assert list(separated(iter(["a"]))) == ["a\n"]


def test_a_folder_that_is_not_there_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"out\.txt cannot be written .*choose another --output"):
        write_texts(tmp_path / "none" / "out.txt", [text("a", "b")])
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="folder cannot be written"):
        write_texts(tmp_path / "folder", [text("a", "b")])
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
