"""Written texts as files: JSON lines, or the texts with lines that separate them."""

from __future__ import annotations

import contextlib
import json
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from ebm_wgpu.files import replacing, writing
from ebm_wgpu.generation.batch import GeneratedText
from ebm_wgpu.text.streaming import check_output
from ebm_wgpu.text.tokenizer_base import END_OF_TEXT


class TextsFile:
    """A file of texts that is written while they come, each on the disk at once.

    A name that ends in .jsonl gets a JSON object a line (`record`), any other the texts with their
    prompts, separated by lines <|endoftext|> as in a prepared corpus.

    A context manager: the file takes its place when the block ends. If an exception ends it, Ctrl-C
    too, it has the texts that were whole by then; without any, what was there before stays. A
    process that is killed leaves them beside it, in .tmp-NAME.*.

    Attributes:
        kept: texts in the file, once the block has ended.
    """

    def __init__(self, path: Path) -> None:
        """Find out whether `path` can be written to; nothing is before the first text.

        Raises:
            DataError: the folder is missing or cannot be written to, or `path` is a folder.
        """
        check_output(path)
        self.kept = 0
        self._path = path
        self._count = self._size = 0
        self._opened = contextlib.ExitStack()
        self._file: FileIO | None = None

    def add(self, text: GeneratedText) -> None:
        """Append a text.

        Raises:
            CheckpointError: the disk is full or fails; what was whole before stays so.
        """
        if self._path.suffix == ".jsonl":
            content = json.dumps(record(text), ensure_ascii=False, allow_nan=False) + "\n"
        else:
            content = framed(text.whole, first=not self._count)
        data = memoryview(content.encode())
        size = self._size + len(data)
        with writing(self._path):
            if self._file is None:
                temporary = self._opened.enter_context(replacing(self._path))
                self._file = self._opened.enter_context(temporary.open("wb", buffering=0))
            # A disk that becomes full takes a part first, and complains about the rest.
            while data:
                data = data[self._file.write(data) :]
        self._count, self._size = self._count + 1, size

    def __enter__(self) -> TextsFile:
        """The file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the file in its place if it has a whole text.

        Raises:
            CheckpointError: the disk fails.
        """
        with writing(self._path):
            if self._file is None or not self._count:
                self._opened.__exit__(kind, error, traceback)
                return
            self._file.truncate(self._size)
            self._opened.close()
        self.kept = self._count


def record(text: GeneratedText) -> dict[str, Any]:
    """A text as JSON holds it; the energies of each token only if they were asked for."""
    fields: dict[str, Any] = {
        "prompt": text.prompt,
        "text": text.text,
        "tokens": list(text.tokens),
        "reason": text.reason,
        "seed": text.seed,
        "seconds": text.seconds,
        "tokens_per_second": text.tokens_per_second,
        "energy_per_token": text.energy,
    }
    if text.energies is not None:
        fields["token_energies"] = list(text.energies.tokens)
        own = text.energies.model
        fields["model_energies"] = None if own is None else list(own)
    return fields


def framed(text: str, *, first: bool) -> str:
    """A text ending in a line end, after a line <|endoftext|> unless it is the first."""
    return f"{text}\n" if first else f"{END_OF_TEXT}\n{text}\n"
