"""What the commands around splats share: finding splats, naming tokens, and files to write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ebm_wgpu.splats.splat_file import SplatFile
    from ebm_wgpu.text.tokenizer_base import TextTokenizer
    from ebm_wgpu.training.run_folder import RunFolder

Command = TypeVar("Command", bound=Callable[..., Any])

path_argument = click.argument("path", type=click.Path(exists=True, path_type=Path))

force = click.option("--force", is_flag=True, help="Replace a file that is there.")

limit = click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Rows to print."
)

token = click.option(
    "--token",
    metavar="ID|TEXT",
    help="A token: its id, or its exact text if PATH is a run (' the' and 'the' may differ).",
)


def output(what: str, *, required: bool = True) -> Callable[[Command], Command]:
    """The option --output, with what it is for."""
    return click.option(
        "--output", required=required, type=click.Path(dir_okay=False, path_type=Path), help=what
    )


@dataclass(frozen=True)
class SplatPath:
    """What a path on the command line means.

    Attributes:
        file: the HDF5 file of splats.
        run: the run it belongs to, if the path is a run or a checkpoint.
        checkpoint: the folder of its checkpoint, likewise.
        tokenizer: the run's tokenizer, likewise.
    """

    file: Path
    run: RunFolder | None = None
    checkpoint: Path | None = None
    tokenizer: TextTokenizer | None = None

    def open(self) -> SplatFile:
        """The splats, to be read block by block."""
        from ebm_wgpu.splats.splat_file import SplatFile

        return SplatFile(self.file)

    def text(self, token: int) -> str:
        """The text of a token, or nothing if there is no tokenizer."""
        return "" if self.tokenizer is None else self.tokenizer.decode([token])

    def shown(self, token: int) -> str:
        """The text of a token in quotes, or nothing if there is no tokenizer."""
        return "" if self.tokenizer is None else repr(self.text(token))

    def name(self, token: int) -> str:
        """The text of a token for pictures: without spaces around it, its id if there is none."""
        text = self.text(token)
        return text.strip() or (repr(text) if text else str(token))

    def token_id(self, given: str) -> int:
        """The token that --token means.

        Raises:
            ConfigError: a text, and there is no tokenizer, or it is not a single token.
        """
        from ebm_wgpu.errors import ConfigError

        if given.isdecimal():
            return int(given)
        if self.tokenizer is None:
            raise ConfigError(
                f"--token {given!r} is a text, and {self.file} alone has no tokenizer: give the "
                "token's id, or the run folder in place of the file"
            )
        found = self.tokenizer.token_id(given)
        if found is None:
            ids = self.tokenizer.encode(given).tolist()
            raise ConfigError(
                f"--token {given!r} is not one token but {ids}: give one of these ids, or a text "
                "with a leading space if the token has one"
            )
        return found


def find_splats(path: Path) -> SplatPath:
    """The splats of a run folder (its last checkpoint), of a checkpoint, or of an HDF5 file.

    Raises:
        CheckpointError: no run or checkpoint there, or one of a family without splats.
    """
    if path.is_file():
        return SplatPath(path)
    from ebm_wgpu.errors import CheckpointError
    from ebm_wgpu.models.registry import FAMILIES
    from ebm_wgpu.training.checkpoints import SPLATS_FILE
    from ebm_wgpu.training.run_folder import RunFolder

    run, step = RunFolder.locate(path)
    checkpoint = run.checkpoint_path("last" if step is None else step)
    if not (checkpoint / SPLATS_FILE).exists():
        family = run.read_config().model.family
        if not FAMILIES[family].splats:
            made_of_splats = " or ".join(name for name in FAMILIES if FAMILIES[name].splats)
            raise CheckpointError(
                f"{path} is a run of model.family={family}, which has no splats: give a run of "
                f"model.family={made_of_splats}"
            )
    return SplatPath(checkpoint / SPLATS_FILE, run, checkpoint, run.read_tokenizer())


def check_output(path: Path, force: bool) -> None:
    """Find out, before long work, that `path` can be written and may be.

    Raises:
        ConfigError: a file is there, and `force` was not given.
        DataError: the folder is missing, or cannot be written to.
    """
    from ebm_wgpu.errors import ConfigError
    from ebm_wgpu.text import streaming

    if path.exists() and not force:
        raise ConfigError(f"{path} exists: choose another file, or replace it with --force")
    streaming.check_output(path)


@contextmanager
def progress(total: int | None, doing: str) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's standard error; gives what to tell of things done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda done: bar.advance(task, done)


def counted(count: int, what: str) -> str:
    """A number and a noun, in the plural where it is one."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
