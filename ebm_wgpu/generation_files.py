"""Prompts from files, and what was written after them as JSON lines or text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.files import write_atomically
from ebm_wgpu.text.folders import read_text
from ebm_wgpu.text.tokenizer_base import END_OF_TEXT

if TYPE_CHECKING:
    from ebm_wgpu.generation_batch import GeneratedText

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


def write_texts(path: Path, texts: Sequence[GeneratedText]) -> None:
    """Write texts to `path`, whole or not at all.

    A name that ends in .jsonl gets a JSON object a line (`record`), any other the texts with their
    prompts, separated by lines <|endoftext|> as in a prepared corpus.

    Raises:
        ConfigError: the file cannot be written.
    """
    as_json = path.suffix == ".jsonl"
    lines = _json_lines(texts) if as_json else separated(text.whole for text in texts)
    try:
        write_atomically(path, "".join(lines).encode())
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}): choose another --output"
        ) from error


def _json_lines(texts: Sequence[GeneratedText]) -> Iterator[str]:
    for text in texts:
        yield json.dumps(record(text), ensure_ascii=False, allow_nan=False) + "\n"


def record(text: GeneratedText) -> dict[str, Any]:
    """A text as JSON holds it; the energies of its tokens only if they were asked for."""
    fields: dict[str, Any] = {
        "prompt": text.prompt,
        "text": text.text,
        "tokens": list(text.tokens),
        "reason": text.reason,
        "seed": text.seed,
        "seconds": text.seconds,
        "tokens_per_second": text.tokens_per_second,
    }
    if text.energies is not None:
        fields["token_energies"] = list(text.energies.tokens)
        own = text.energies.model
        fields["model_energies"] = None if own is None else list(own)
        fields["total_energy"] = text.energies.total
    return fields


def separated(texts: Iterator[str]) -> Iterator[str]:
    """Texts with a line <|endoftext|> between them, each ending in a line end."""
    for number, text in enumerate(texts):
        yield f"{END_OF_TEXT}\n{text}\n" if number else f"{text}\n"
