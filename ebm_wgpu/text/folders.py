"""Text from local files: one UTF-8 file, or a folder that holds the splits of a corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ebm_wgpu.errors import DataError
from ebm_wgpu.text.streaming import read_pieces

Text = Callable[[], Iterator[str]]
"""A text that can be read any number of times: each call gives its pieces, from the beginning."""

SPLIT_ALIASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"train": ("train",), "valid": ("valid", "validation"), "test": ("test",)}
)
"""The splits of a corpus, each with the names files and data sets use for it."""


def text_file(path: Path) -> Text:
    """The UTF-8 file at `path`, without byte order mark, line ends as newlines.

    Damage beyond the first text in it is found when that is read.

    Raises:
        DataError: the file is missing, unreadable, empty, or binary (it names the byte offset).
    """
    if not any(piece.strip() for piece in read_pieces(path)):
        raise DataError(f"{path} is empty: give a file that holds text")
    return partial(read_pieces, path)


def read_text(path: Path) -> str:
    """All of `text_file` at once.

    Raises:
        DataError: as `text_file`.
    """
    return "".join(text_file(path)())


def join_rows(rows: Iterable[str]) -> str:
    """The text whose lines are `rows`; a row that lacks its newline gets one.

    Raises:
        DataError: a row is not a string.
    """
    lines: list[str] = []
    for number, row in enumerate(rows):
        if not isinstance(row, str):
            raise DataError(
                f"row {number} of column 'text' is of type {type(row).__name__}, not a string"
            )
        lines.append(row if row.endswith("\n") else row + "\n")
    return "".join(lines)


def corpus_from_folder(folder: Path, split: str) -> Text:
    """The text of `split` ("train", "valid" or "test") from a local folder.

    Looked for, in this order: `wiki.<split>.tokens`, `wiki.<split>.raw`, `<split>.txt`,
    `*.<split>.txt`; Parquet files `<split>-*.parquet` or `<split>.parquet` with a column `text`, in
    the folder or one below; a data set written by `datasets.save_to_disk`.
    "validation" may stand for "valid".

    Raises:
        DataError: no such folder, nothing of that split in it, or a damaged file.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: check data.data_dir")
    for reader in _READERS:
        for alias in SPLIT_ALIASES[split]:
            text = reader(folder, alias)
            if text is not None:
                return text
    raise DataError(
        f"no {split} split in {folder}: expected wiki.{split}.tokens, {split}.txt, "
        f"{split}-*.parquet or a folder written by datasets.save_to_disk"
    )


def whole_text(text: str) -> Text:
    """A text that is in memory."""
    return lambda: iter((text,))


def _from_text_files(folder: Path, split: str) -> Text | None:
    for pattern in (f"wiki.{split}.tokens", f"wiki.{split}.raw", f"{split}.txt", f"*.{split}.txt"):
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise DataError(
                f"{folder} holds {len(found)} files {pattern}: keep one, or name it {split}.txt"
            )
        if found:
            return text_file(found[0])
    return None


def _from_parquet(folder: Path, split: str) -> Text | None:
    patterns = (f"{split}.parquet", f"{split}-*.parquet")
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    if not found:
        found = [path for pattern in patterns for path in sorted(folder.glob(f"*/{pattern}"))]
    if len({path.parent for path in found}) > 1:
        raise DataError(
            f"several folders below {folder} hold {split} Parquet files: give one of them"
        )
    if not found:
        return None
    import pyarrow.parquet  # type: ignore[import-untyped]

    rows: list[str] = []
    for path in found:
        try:
            column = pyarrow.parquet.read_table(path, columns=["text"]).column("text")
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{path} is not a Parquet file with a column 'text' ({_first_line(error)})"
            ) from error
        rows += column.to_pylist()
    return _from_rows(rows, folder, split)


def _from_saved_dataset(folder: Path, split: str) -> Text | None:
    if not any((folder / name).exists() for name in ("dataset_dict.json", "state.json")):
        return None
    import datasets

    try:
        data: Any = datasets.load_from_disk(str(folder))
        if isinstance(data, datasets.DatasetDict):
            if split not in data:
                return None
            data = data[split]
        elif str(data.split) != split:
            return None
        return _from_rows(data["text"], folder, split)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} is not a saved data set with a column 'text' ({_first_line(error)})"
        ) from error


def _from_rows(rows: Iterable[str], folder: Path, split: str) -> Text:
    text = join_rows(rows)
    if not text.strip():
        raise DataError(f"the {split} split in {folder} is empty")
    return whole_text(text)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


_READERS: tuple[Callable[[Path, str], Text | None], ...] = (
    _from_text_files,
    _from_parquet,
    _from_saved_dataset,
)
