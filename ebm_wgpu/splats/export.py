"""Splats as tables for other programs, and back: CSV, Parquet and NPZ.

    NPZ       mu (N,d), alpha, kappa, sid, frequency, age, log_weight, kappa_range (2,), and of a
              history history_latents, history_energies, history_tokens; what `numpy.load` reads
    Parquet   a row a splat: sid, token, alpha, kappa, log_weight, frequency, age, kappa_min,
              kappa_max, and mu as a list of d float32
    CSV       the same with mu_0 to mu_<d-1>; numbers in the fewest digits that give them exactly

Everything goes in blocks of rows, both ways. Going there and back gives the same file to the bit,
except for the history, which the two kinds of table do not hold. token (text) and log_weight are
derived: they are for readers, and not read back; nor is any other column. kappa_min and kappa_max,
the range of kappa, are the same in all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from ebm_wgpu.errors import ConfigError, StoreError
from ebm_wgpu.files import replacing
from ebm_wgpu.splats.export_npz import NpzSource, write_npz
from ebm_wgpu.splats.export_tables import (
    CsvSource,
    ParquetSource,
    TokenText,
    write_csv,
    write_parquet,
)
from ebm_wgpu.splats.hdf5 import write_rows
from ebm_wgpu.splats.splat_file import OnRows, SplatFile
from ebm_wgpu.splats.store import Float32Array, History, SplatColumns


class _Source(Protocol):
    """An exported file, open for reading."""

    def columns(self) -> SplatColumns: ...

    def blocks(self) -> Iterator[Float32Array]: ...

    def history(self) -> History | None: ...


class _Format(NamedTuple):
    write: Callable[[SplatFile, Path, TokenText | None, OnRows | None], None]
    open: Callable[[Path], _Source]
    holds_history: bool


def formats() -> tuple[str, ...]:
    """The suffixes of files that can be exported to and imported from."""
    return tuple(_FORMATS)


def holds_history(path: Path) -> bool:
    """Whether files of this kind keep the history too.

    Raises:
        ConfigError: an unknown suffix.
    """
    return _format(path).holds_history


def export_splats(
    file: SplatFile,
    path: Path,
    *,
    token_text: TokenText | None = None,
    on_rows: OnRows | None = None,
) -> None:
    """Write splats to a CSV, Parquet or NPZ file, by its suffix, whole or not at all.

    Args:
        file: the splats.
        path: the file to write.
        token_text: text of a token id, for the column "token" of tables; left out without it.
        on_rows: is told of the rows written.

    Raises:
        ConfigError: an unknown suffix.
        StoreError: the file is damaged, or `path` cannot be written.
    """
    kind = _format(path)
    try:
        with replacing(path) as temporary:
            kind.write(file, temporary, token_text, on_rows)
    except OSError as error:
        raise StoreError(f"{path}: cannot write: {error.strerror or error}") from error


def import_splats(source: Path, path: Path, *, on_rows: OnRows | None = None) -> SplatColumns:
    """Write the splats of a CSV, Parquet or NPZ file, by its suffix, to the HDF5 file `path`.

    Args:
        source: what `export_splats` wrote, or another program in the same form.
        path: the file to write.
        on_rows: is told of the rows read.

    Returns:
        All but the directions of what was written.

    Raises:
        ConfigError: an unknown suffix.
        StoreError: `source` is missing, damaged or of another form, holds values that splats cannot
            have, or `path` cannot be written.
    """
    kind = _format(source)
    if not source.is_file():
        raise StoreError(f"{source}: no such file: check the path")

    def blocks(opened: _Source) -> Iterator[Float32Array]:
        for rows in opened.blocks():
            yield rows
            if on_rows is not None:
                on_rows(len(rows))

    try:
        opened = kind.open(source)
        columns = opened.columns()
        write_rows(path, columns, blocks(opened), opened.history())
    except StoreError as error:
        named = str(error).startswith((str(path), str(source)))
        raise error if named else StoreError(f"{source}: {error}") from error
    # zipfile, NumPy and Arrow fail in many ways on files of other kinds; all mean the same here.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise StoreError(
            f"{source}: damaged, or not splats as `ebm splats export` writes them ({reason})"
        ) from error
    return columns


def _format(path: Path) -> _Format:
    found = _FORMATS.get(path.suffix.lower())
    if found is None:
        raise ConfigError(f"{path}: unknown kind of file: use {', '.join(_FORMATS)}")
    return found


def _write_npz(
    file: SplatFile, path: Path, token_text: TokenText | None, on_rows: OnRows | None
) -> None:
    write_npz(file, path, on_rows)


_FORMATS: Mapping[str, _Format] = {
    ".csv": _Format(write_csv, CsvSource, False),
    ".parquet": _Format(write_parquet, ParquetSource, False),
    ".npz": _Format(_write_npz, NpzSource, True),
}
