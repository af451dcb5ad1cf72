"""Text from local files: one UTF-8 file, or a folder that holds the splits of a corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ebm_wgpu.errors import DataError

SPLIT_ALIASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"train": ("train",), "valid": ("valid", "validation"), "test": ("test",)}
)
"""The splits of a corpus, each with the names files and data sets use for it."""


def read_text(path: Path) -> str:
    """The text of the UTF-8 file at `path`, without byte order mark, line ends as newlines.

    Raises:
        DataError: the file is missing, unreadable, empty, or binary (it names the byte offset).
    """
    try:
        data = path.read_bytes()
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder: give the path of a text file") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the path") from error
    if (offset := data.find(b"\0")) >= 0:
        raise DataError(f"{path} is binary: NUL at byte offset {offset}; give a UTF-8 text file")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: invalid byte 0x{data[error.start]:02x} at byte offset "
            f"{error.start}; convert it to UTF-8"
        ) from error
    if not text.strip():
        raise DataError(f"{path} is empty: give a file that holds text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


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


def corpus_from_folder(folder: Path, split: str) -> str:
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
                if not text.strip():
                    raise DataError(f"the {split} split in {folder} is empty")
                return text
    raise DataError(
        f"no {split} split in {folder}: expected wiki.{split}.tokens, {split}.txt, "
        f"{split}-*.parquet or a folder written by datasets.save_to_disk"
    )


def _from_text_files(folder: Path, split: str) -> str | None:
    for pattern in (f"wiki.{split}.tokens", f"wiki.{split}.raw", f"{split}.txt", f"*.{split}.txt"):
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise DataError(
                f"{folder} holds {len(found)} files {pattern}: keep one, or name it {split}.txt"
            )
        if found:
            return read_text(found[0])
    return None


def _from_parquet(folder: Path, split: str) -> str | None:
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
    return join_rows(rows)


def _from_saved_dataset(folder: Path, split: str) -> str | None:
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
        return join_rows(data["text"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} is not a saved data set with a column 'text' ({_first_line(error)})"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


_READERS: tuple[Callable[[Path, str], str | None], ...] = (
    _from_text_files,
    _from_parquet,
    _from_saved_dataset,
)
