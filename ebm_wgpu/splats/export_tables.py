"""Splats as tables by Arrow, a row a splat: CSV and Parquet, written and read in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_wgpu.errors import StoreError
from ebm_wgpu.splats.hdf5 import BLOCK_BYTES
from ebm_wgpu.splats.splat_file import OnRows, SplatFile
from ebm_wgpu.splats.store import COLUMN_TYPES, Float32Array, SplatColumns

TokenText = Callable[[int], str]
_RANGE = ("kappa_min", "kappa_max")
_READ_ROWS = 4096


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


def write_parquet(
    file: SplatFile, path: Path, token_text: TokenText | None, on_rows: OnRows | None
) -> None:
    """Write splats to a Parquet file, a row a splat; arguments as of `export_splats`."""
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


def write_csv(
    file: SplatFile, path: Path, token_text: TokenText | None, on_rows: OnRows | None
) -> None:
    """Write splats to a CSV file, a row a splat; arguments as of `export_splats`."""
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
        """All but the directions.

        Raises:
            StoreError: a column is missing, of another type, or has cells without a number.
        """
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
        """None: tables hold no history."""


class ParquetSource(_Table):
    """The splats of a Parquet file."""

    def __init__(self, path: Path) -> None:
        """Open `path`, whatever wrote it.

        Raises:
            StoreError: it holds no splats.
        """
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
        """Directions, (rows, d) a block."""
        for batch in self._batches(["mu"]):
            values = _numbers("mu", batch.column("mu").flatten(), np.float32)
            if len(values) != len(batch) * self._width:
                raise StoreError(f"mu: lists of other lengths than the first, {self._width}")
            yield values.reshape(-1, self._width)


class CsvSource(_Table):
    """The splats of a CSV file."""

    def __init__(self, path: Path) -> None:
        """Open `path`, whatever wrote it.

        Raises:
            StoreError: it has no columns of directions.
        """
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
        """Directions, (rows, d) a block."""
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
