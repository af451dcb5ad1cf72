"""Prompts: from files, as tokens, and whether a model can go on from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.folders import read_text
from ebm_wgpu.text.tokenizer_base import TextTokenizer

PromptKind = Literal["auto", "line", "jsonl", "file"]


class Prompt(NamedTuple):
    """A text to go on from, and what errors call it."""

    text: str
    name: str = "the prompt"


def read_prompts(path: Path, kind: PromptKind = "auto") -> list[Prompt]:
    """The prompts in a UTF-8 file.

    Args:
        path: the file.
        kind: what a prompt is. line: every line that is not blank, as it stands; jsonl: the text
            under "prompt" of every JSON line, which may hold line ends or be empty; file: the whole
            file without its last line end; auto: jsonl for a name that ends in .jsonl, else line.

    Raises:
        DataError: the file is missing, binary, holds no prompt, or a line is no JSON object with a
            text under "prompt".
    """
    text = read_text(path)
    if kind == "file":
        return [Prompt(text.removesuffix("\n"), str(path))]
    numbered = [
        (f"{path} line {number}", line)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    if kind == "jsonl" or (kind == "auto" and path.suffix == ".jsonl"):
        return [Prompt(_json_prompt(line, name), name) for name, line in numbered]
    return [Prompt(line, name) for name, line in numbered]


def _json_prompt(line: str, name: str) -> str:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f'{name} is not JSON ({error}): give {{"prompt": TEXT}}') from error
    prompt = record.get("prompt") if isinstance(record, dict) else None
    if not isinstance(prompt, str):
        raise DataError(f'{name} has no text under "prompt": give {{"prompt": TEXT}}')
    return prompt


def check_prompt(prompt: npt.NDArray[np.integer], context: int, name: str = "the prompt") -> None:
    """Check that a model that reads `context` tokens can go on from a prompt.

    Raises:
        DataError: it is empty or too long.
    """
    if prompt.size == 0:
        raise DataError(f"{name} has no tokens: give some text")
    if prompt.size > context:
        raise DataError(
            f"{name} has {prompt.size} tokens and the model reads {context}: shorten the "
            "prompt, or train with a larger data.eval_context"
        )


def prompt_ids(tokenizer: TextTokenizer, prompt: str) -> npt.NDArray[np.int32]:
    """The tokens of a prompt; an empty one starts after a line end."""
    ids = tokenizer.encode(prompt)
    return ids if ids.size else np.array([tokenizer.start_id], ids.dtype)
