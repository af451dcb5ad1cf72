"""A splats.h5 file read in blocks of rows: stores of any size, in memory that does not grow with d.

Opening one reads and checks all but the directions, 36 bytes a splat. Directions are read, and
checked, where they are asked for: one million in 640 dimensions are 2.56 GB on disk and 16 MiB at a
time in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.errors import ConfigError, StoreError
from ebm_wgpu.splats import hdf5
from ebm_wgpu.splats.store import Float32Array, History, SplatColumns, check_directions

OnRows = Callable[[int], None]
"""Is told how many rows of directions have been read since it was last told, for progress."""


class SplatFile:
    """The splats of a file, open for reading; a context manager.

    Attributes:
        path: the file.
        columns: alpha, kappa, sid, frequency and age of all splats, in memory and checked.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a file and check its layout and columns; `verify` checks every byte.

        Raises:
            StoreError: the file is missing, of another version, or damaged.
        """
        self.path = Path(path)
        with hdf5.reading(self.path):
            self._file = h5py.File(self.path, "r")
            try:
                size = self.path.stat().st_size
                self._groups, self._digest = hdf5.open_groups(self._file, size)
                self.columns: SplatColumns = hdf5.to_columns(self._groups)
                splats = self._groups["splats"].arrays
                self.columns.validate(len(splats["mu"]))
                hdf5.check_log_weight(self.columns, hdf5.load(splats["log_weight"]))
            except BaseException:
                self._file.close()
                raise

    def __len__(self) -> int:
        return len(self.columns)

    def __enter__(self) -> SplatFile:
        """The file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; the columns stay."""
        self._file.close()

    @property
    def dimension(self) -> int:
        """The dimension d of the directions."""
        return self.columns.dimension

    @property
    def history_length(self) -> int:
        """States in the history; 0 if there is none."""
        return len(self._groups["history"].arrays["tokens"]) if "history" in self._groups else 0

    def history(self) -> History | None:
        """The history, in memory, if the file has one.

        Raises:
            StoreError: it is damaged.
        """
        with hdf5.reading(self.path):
            history = hdf5.to_history(self._groups)
            if history is not None:
                history.validate(self.dimension)
        return history

    def blocks(self, on_rows: OnRows | None = None) -> Iterator[tuple[int, Float32Array]]:
        """All directions, block by block: the index of the first row, and the rows, (n, d).

        Raises:
            StoreError: a block is damaged, or holds rows that are no unit vectors.
        """
        with hdf5.reading(self.path):
            for first, rows in hdf5.row_blocks(self._groups["splats"].arrays["mu"]):
                check_directions(rows, first)
                yield first, rows
                if on_rows is not None:
                    on_rows(len(rows))

    def rows(self, indices: ArrayLike) -> Float32Array:
        """Some directions, (n, d), in the order asked for.

        Args:
            indices: (n,) from 0 to N-1, with or without repetitions.

        Raises:
            ConfigError: an index that is no splat's.
            StoreError: as `blocks`.
        """
        wanted = np.asarray(indices, np.int64).reshape(-1)
        outside = (wanted < 0) | (wanted >= len(self))
        if outside.any():
            raise ConfigError(
                f"splat {wanted[outside][0]} of {self.path}: it has splats 0 to {len(self) - 1}"
            )
        found = np.empty((len(wanted), self.dimension), np.float32)
        order = np.argsort(wanted, kind="stable")
        dataset = self._groups["splats"].arrays["mu"]
        chunk = dataset.chunks[0] if dataset.chunks else 1
        with hdf5.reading(self.path):
            for places in np.split(order, _ends_of_runs(wanted[order] // chunk)):
                if not len(places):
                    continue
                low, high = int(wanted[places[0]]), int(wanted[places[-1]])
                rows = hdf5.load(dataset, slice(low, high + 1))
                check_directions(rows, low)
                found[places] = rows[wanted[places] - low]
        return found

    def verify(self, on_block: Callable[[int, Float32Array], None] | None = None) -> None:
        """Compare every byte with the file's digest; `on_block` sees the directions pass by.

        Raises:
            StoreError: something was altered.
        """

        def check(first: int, rows: Float32Array) -> None:
            check_directions(rows, first)
            if on_block is not None:
                on_block(first, rows)

        with hdf5.reading(self.path):
            if hdf5.content_digest(self._groups, check) != self._digest:
                raise StoreError("content differs from its sha256 digest: restore it from a copy")


def _ends_of_runs(sorted_values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where a run of equal values ends and another begins."""
    return np.flatnonzero(np.diff(sorted_values)) + 1
