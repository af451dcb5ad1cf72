"""Splats as NPZ, a zip archive of .npy members, written and read without holding mu."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ebm_wgpu.errors import StoreError
from ebm_wgpu.splats.hdf5 import BLOCK_BYTES
from ebm_wgpu.splats.splat_file import OnRows, SplatFile
from ebm_wgpu.splats.store import COLUMN_TYPES, Float32Array, History, SplatColumns

_HISTORY: Mapping[str, type] = {
    "latents": np.float32,
    "energies": np.float32,
    "tokens": np.int64,
}


def write_npz(file: SplatFile, path: Path, on_rows: OnRows | None = None) -> None:
    """Write splats and their history to an NPZ file.

    Args:
        file: the splats.
        path: the file to write.
        on_rows: is told of the rows written.
    """
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


class NpzSource:
    """The splats of an NPZ file."""

    def __init__(self, path: Path) -> None:
        """Open `path`, whatever wrote it."""
        self._path = path
        with zipfile.ZipFile(path) as archive:
            self._names = {Path(name).stem for name in archive.namelist()}

    def columns(self) -> SplatColumns:
        """All but the directions.

        Raises:
            StoreError: an array of another type or shape than splats have, or a truncated one.
        """
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
        """Directions, (rows, d) a block."""
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
        """The states seen in training, if the file holds them."""
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
