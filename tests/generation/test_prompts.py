"""Prompt files by each rule, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebm_wgpu.errors import DataError
from ebm_wgpu.generation.prompts import Prompt, read_prompts


def file(folder: Path, text: str, name: str = "prompts.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


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
