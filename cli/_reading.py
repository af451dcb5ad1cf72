"""What the commands that read text share: inputs, how they are read, and progress by bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ebm_wgpu.text.documents import DocumentRule
    from ebm_wgpu.text.streaming import Decoding
    from ebm_wgpu.text.tokenizer_base import TextTokenizer

Command = TypeVar("Command", bound=Callable[..., Any])

inputs = click.argument(
    "inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path(path_type=Path)
)


def _all(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for add in reversed(options):
            command = add(command)
        return command

    return decorate


decoding_options = _all(
    click.option("--encoding", default="utf-8", show_default=True, help="Of the input's bytes."),
    click.option(
        "--invalid",
        type=click.Choice(["error", "replace", "drop"]),
        default="error",
        show_default=True,
        help="What to do with bytes that are no text.",
    ),
)

document_options = _all(
    click.option(
        "--documents",
        "kind",
        type=click.Choice(["auto", "separator", "file", "blank-lines", "line", "jsonl"]),
        default="auto",
        show_default=True,
        help="What ends a document, besides the end of a file: a separator line, nothing, blank "
        "lines, every line, or every JSON line; auto: jsonl by name, else separator.",
    ),
    click.option(
        "--separator",
        default="<|endoftext|>",
        show_default=True,
        help="The line, for --documents separator.",
    ),
    click.option(
        "--blank-lines",
        type=click.IntRange(min=1),
        default=2,
        show_default=True,
        help="How many in a row, for --documents blank-lines.",
    ),
    click.option(
        "--field", default="text", show_default=True, help="Key of the text in JSON lines."
    ),
)


def decoding(encoding: str, invalid: Any) -> Decoding:
    """What `decoding_options` ask for."""
    from ebm_wgpu.text.streaming import Decoding

    return Decoding(encoding, invalid)


def document_rule(kind: Any, separator: str, blank_lines: int, field: str) -> DocumentRule:
    """What `document_options` ask for."""
    from ebm_wgpu.text.documents import DocumentRule

    return DocumentRule(kind, separator, blank_lines, field)


def open_tokenizer(name: str) -> TextTokenizer:
    """The tokenizer that `name` means: gpt2, a tokenizer file, or a run folder.

    Raises:
        DataError: there is none.
    """
    from ebm_wgpu.text.tokenizers import Gpt2Tokenizer, load_tokenizer

    path = Path(name).expanduser()
    if name == Gpt2Tokenizer.name and not path.exists():
        return Gpt2Tokenizer()
    return load_tokenizer(path / "tokenizer.json" if path.is_dir() else path)


@contextmanager
def progress_over(paths: Sequence[Path], doing: str) -> Iterator[Callable[[int], None]]:
    """A bar over the bytes of `paths` on a terminal's standard error; gives what to tell of bytes.

    When all bytes are read, the bar says that work goes on.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from ebm_wgpu.text.streaming import total_bytes

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        total = total_bytes(paths)
        task = progress.add_task(doing, total=total)
        seen = 0

        def advance(n_bytes: int) -> None:
            nonlocal seen
            seen += n_bytes
            progress.update(task, completed=seen)
            if seen >= total:
                progress.update(task, description=f"{doing}: finishing")

        yield advance
