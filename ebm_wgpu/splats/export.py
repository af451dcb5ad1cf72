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

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ebm_wgpu.errors import ConfigError, StoreError
from ebm_wgpu.files import replacing
from ebm_wgpu.splats.hdf5 import BLOCK_BYTES, write_rows
from ebm_wgpu.splats.splat_file import OnRows, SplatFile
from ebm_wgpu.splats.store import COLUMN_TYPES, Float32Array, History, SplatColumns

TokenText = Callable[[int], str]

_HISTORY: Mapping[str, type] = {
    "latents": np.float32,
    "energies": np.float32,
    "tokens": np.int64,
}
_RANGE = ("kappa_min", "kappa_max")
_READ_ROWS = 4096


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


# NPZ: a zip archive of .npy members, written and read without holding mu.


def _write_npz(
    file: SplatFile, path: Path, token_text: TokenText | None, on_rows: OnRows | None
) -> None:
    columns, history = file.columns, file.history()
    arrays: dict[str, Any] = {name: getattr(columns, name) for name in COLUMN_TYPES}
    arrays["log_weight"] = columns.log_weight_f32
    arrays["kappa_range"] = np.array(columns.kappa_range, np.float64)
    if history is not None:
        arrays.update({f"history_{name}": getattr(history, name) for name in _HISTORY})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        with archive.open("mu.npy", "w", force_zip64=True) as member:
            shape = (len(file), file.dimension)
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for _, rows in file.blocks(on_rows):
                member.write(rows.astype("<f4", copy=False).tobytes())


class _Npz:
    def __init__(self, path: Path) -> None:
        self._path = path
        with zipfile.ZipFile(path) as archive:
            self._names = {Path(name).stem for name in archive.namelist()}

    def columns(self) -> SplatColumns:
        with zipfile.ZipFile(self._path) as archive:
            low, high = _read_npy(archive, "kappa_range", np.float64, 1)
            with _member(archive, "mu", np.float32, 2) as (_, shape):
                width = shape[1]
            return SplatColumns(
                **{name: _read_npy(archive, name, kind, 1) for name, kind in COLUMN_TYPES.items()},
                width=width,
                kappa_range=(float(low), float(high)),
            )

    def blocks(self) -> Iterator[Float32Array]:
        with (
            zipfile.ZipFile(self._path) as archive,
            _member(archive, "mu", np.float32, 2) as (member, (count, width)),
        ):
            rows = max(1, BLOCK_BYTES // (4 * width))
            for first in range(0, count, rows):
                size = min(rows, count - first) * width
                block = np.frombuffer(member.read(4 * size), "<f4").reshape(-1, width)
                yield block.astype(np.float32)

    def history(self) -> History | None:
        if "history_tokens" not in self._names:
            return None
        with zipfile.ZipFile(self._path) as archive:
            return History(
                **{
                    name: _read_npy(archive, f"history_{name}", kind, 2 if name == "latents" else 1)
                    for name, kind in _HISTORY.items()
                }
            )


class _member:
    """A context manager: an open .npy member past its header, and the shape that it states."""

    def __init__(self, archive: zipfile.ZipFile, name: str, dtype: type, ndim: int) -> None:
        self._file: IO[bytes] = archive.open(f"{name}.npy")
        version = np.lib.format.read_magic(self._file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        self.shape, fortran, found = read(self._file)
        if found != np.dtype(dtype) or len(self.shape) != ndim or fortran:
            raise StoreError(
                f"{name} is {found} {self.shape}: expected {np.dtype(dtype)} with {ndim} axes, "
                "rows first"
            )
        size = archive.getinfo(f"{name}.npy").file_size
        if np.dtype(dtype).itemsize * int(np.prod(self.shape, dtype=object)) > size:
            raise StoreError(f"{name} claims shape {self.shape} in {size} bytes: truncated")

    def __enter__(self) -> tuple[IO[bytes], tuple[int, ...]]:
        return self._file, self.shape

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _read_npy(archive: zipfile.ZipFile, name: str, dtype: type, ndim: int) -> NDArray[Any]:
    with _member(archive, name, dtype, ndim) as (member, shape):
        # Reading to the end is what makes zipfile compare the checksum.
        return np.frombuffer(member.read(), dtype).reshape(shape).copy()


# Tables by Arrow: a row a splat.


def _table_blocks(
    file: SplatFile, token_text: TokenText | None, on_rows: OnRows | None
) -> Iterator[tuple[dict[str, Any], Float32Array]]:
    """Columns and directions, block by block."""
    columns = file.columns
    log_weight = columns.log_weight_f32
    for first, rows in file.blocks(on_rows):
        part = slice(first, first + len(rows))
        block: dict[str, Any] = {"sid": columns.sid[part]}
        if token_text is not None:
            block["token"] = [token_text(int(token)) for token in columns.sid[part]]
        block.update({name: getattr(columns, name)[part] for name in ("alpha", "kappa")})
        block["log_weight"] = log_weight[part]
        block.update({name: getattr(columns, name)[part] for name in ("frequency", "age")})
        for name, end in zip(_RANGE, columns.kappa_range, strict=True):
            block[name] = np.full(len(rows), end)
        yield block, rows


def _write_parquet(
    file: SplatFile, path: Path, token_text: TokenText | None, on_rows: OnRows | None
) -> None:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    writer = None
    try:
        for block, rows in _table_blocks(file, token_text, on_rows):
            mu = pyarrow.FixedSizeListArray.from_arrays(rows.reshape(-1), rows.shape[1])
            table = pyarrow.table({**block, "mu": mu})
            if writer is None:
                repeated = [name for name in ("token", *_RANGE) if name in block]
                writer = parquet.ParquetWriter(
                    path, table.schema, use_dictionary=repeated, write_page_checksum=True
                )
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _write_csv(
    file: SplatFile, path: Path, token_text: TokenText | None, on_rows: OnRows | None
) -> None:
    import pyarrow
    from pyarrow import csv

    writer = None
    try:
        for block, rows in _table_blocks(file, token_text, on_rows):
            mu = {f"mu_{i}": np.ascontiguousarray(rows[:, i]) for i in range(rows.shape[1])}
            table = pyarrow.table({**block, **mu})
            if writer is None:
                writer = csv.CSVWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


class _Table:
    """What CSV and Parquet have in common: batches of some of their columns."""

    def __init__(self, width: int, batches: Callable[[list[str]], Iterator[Any]]) -> None:
        self._width, self._batches = width, batches

    def columns(self) -> SplatColumns:
        types = {**COLUMN_TYPES, **dict.fromkeys(_RANGE, np.float64)}
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in types}
        for batch in self._batches(list(types)):
            for name, kind in types.items():
                parts[name].append(_numbers(name, batch.column(name), kind))
        found = {name: np.concatenate([np.empty(0, types[name]), *parts[name]]) for name in types}
        ends = [np.unique(found.pop(name)) for name in _RANGE]
        if any(len(end) != 1 for end in ends):
            raise StoreError("kappa_min and kappa_max must be the same in all rows")
        low, high = (float(end[0]) for end in ends)
        return SplatColumns(**found, width=self._width, kappa_range=(low, high))

    def history(self) -> None:
        return None


class _Parquet(_Table):
    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        def batches(names: list[str]) -> Iterator[Any]:
            with parquet.ParquetFile(path, page_checksum_verification=True) as file:
                if missing := set(names) - set(file.schema_arrow.names):
                    raise StoreError(f"column {min(missing)} is missing")
                yield from file.iter_batches(_READ_ROWS, columns=names)

        first = next(batches(["mu"]), None)
        if first is None:
            raise StoreError("it holds no splats: give at least one row")
        super().__init__(len(first.column("mu")[0]), batches)

    def blocks(self) -> Iterator[Float32Array]:
        for batch in self._batches(["mu"]):
            values = _numbers("mu", batch.column("mu").flatten(), np.float32)
            if len(values) != len(batch) * self._width:
                raise StoreError(f"mu: lists of other lengths than the first, {self._width}")
            yield values.reshape(-1, self._width)


class _Csv(_Table):
    def __init__(self, path: Path) -> None:
        import pyarrow
        from pyarrow import csv

        # Token texts may hold line ends.
        parsing = csv.ParseOptions(newlines_in_values=True)
        reading = csv.ReadOptions(block_size=BLOCK_BYTES)
        with csv.open_csv(path, read_options=reading, parse_options=parsing) as file:
            names = file.schema.names
        self._axes = [name for name in names if name.startswith("mu_")]
        if self._axes != [f"mu_{i}" for i in range(len(self._axes))]:
            raise StoreError("columns mu_0, mu_1, ... are not all there, in this order")
        types = {
            name: pyarrow.from_numpy_dtype(kind)
            for name, kind in {
                **COLUMN_TYPES,
                **dict.fromkeys(_RANGE, np.float64),
                **dict.fromkeys(self._axes, np.float32),
            }.items()
        }

        def batches(wanted: list[str]) -> Iterator[Any]:
            if missing := set(wanted) - set(names):
                raise StoreError(f"column {min(missing)} is missing")
            converting = csv.ConvertOptions(column_types=types, include_columns=wanted)
            with csv.open_csv(path, reading, parsing, converting) as file:
                yield from file

        super().__init__(len(self._axes), batches)

    def blocks(self) -> Iterator[Float32Array]:
        for batch in self._batches(self._axes):
            rows = np.empty((len(batch), self._width), np.float32)
            for i, name in enumerate(self._axes):
                rows[:, i] = _numbers(name, batch.column(name), np.float32)
            yield rows


def _numbers(name: str, column: Any, dtype: type) -> NDArray[Any]:
    """A column as numbers of exactly the type that splats have."""
    if column.null_count:
        raise StoreError(f"column {name} has cells without a number: fill them in")
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype != dtype:
        raise StoreError(f"column {name} is {values.dtype}: expected {np.dtype(dtype)}")
    return np.asarray(values)


_FORMATS: Mapping[str, _Format] = {
    ".csv": _Format(_write_csv, _Csv, False),
    ".parquet": _Format(_write_parquet, _Parquet, False),
    ".npz": _Format(_write_npz, _Npz, True),
}
