"""Where the members of a hierarchical index lie: cells of pages of 32 rows in one device array.

A cell owns whole pages, so that it grows without moving and its members are read in runs; pages
that a cell gives up are used again. The rows live on the device only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ebm_wgpu.kernels import DeviceArray, KernelDevice
from ebm_wgpu.kernels.hrm2_scan import PAGE

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

_CHUNK = 65536
_GROWTH = 1.5
_WORKGROUPS = 2048
_MOST_CANDIDATES = 64


class Cells:
    """Members by cell on a device, known outside by consecutive ids.

    Attributes:
        sizes: (C,) members of each cell.
        cell: (N,) cell of each member by its id.
        slot: (N,) row of the device array that holds it, by its id.
    """

    def __init__(self, device: KernelDevice, dimension: int, *, half: bool = False) -> None:
        """No cells yet.

        Args:
            device: where rows are kept and scanned.
            dimension: d.
            half: keep rows as float16, where the device can.
        """
        self._device, self._dimension, self._dtype = device, dimension, "f16" if half else "f32"
        self._pages: list[list[int]] = []
        self._free: list[int] = []
        self._n_pages = 0
        self._mu, self._ids = self._empty(1)
        self.sizes = np.zeros(0, np.int64)
        self.cell = np.zeros(0, np.int64)
        self.slot = np.zeros(0, np.int64)
        self._table: dict[str, DeviceArray] = {}

    def __len__(self) -> int:
        """How many members all cells have."""
        return len(self.cell)

    @property
    def nbytes(self) -> int:
        """Bytes that the pages take on the device."""
        return self._mu.shape[0] * self._dimension * (2 if self._dtype == "f16" else 4)

    def open(self, count: int) -> None:
        """Add `count` cells without members."""
        self._pages += [[] for _ in range(count)]
        self.sizes = np.append(self.sizes, np.zeros(count, np.int64))
        self._table = {}

    def append(self, rows: Float32Array, cell: Int64Array) -> None:
        """Put new members (n, d) into the cells named for each, (n,); their ids count on."""
        ids = len(self) + np.arange(len(rows))
        self.cell = np.append(self.cell, cell)
        self.slot = np.append(self.slot, np.full(len(rows), -1))
        self._place(rows, ids)

    def move(self, source: int, ids: Int64Array, target: int) -> None:
        """Put the members of these ids, of cell `source`, into another; the others close up."""
        members = self.members(source)
        rows = self.rows(members)
        self._free += self._pages[source]
        self._pages[source] = []
        self.sizes[source] = 0
        self.cell[ids] = target
        self._place(rows, members)

    def members(self, cell: int) -> Int64Array:
        """Ids of the members of a cell, ascending."""
        return np.flatnonzero(self.cell == cell)

    def rows(self, ids: Int64Array) -> Float32Array:
        """The members of these ids, (n, d), read back from the device."""
        found = np.empty((len(ids), self._dimension), np.float32)
        for start in range(0, len(ids), _CHUNK):
            part = slice(start, start + _CHUNK)
            slots = self.slot[ids[part]].astype(np.int32)
            found[part] = self._device.run("embedding", weight=self._mu, ids=slots)["out"].numpy()
        return found

    def scan(
        self, x: DeviceArray | Float32Array, cells: DeviceArray | NDArray[np.int32], k: int
    ) -> tuple[Float32Array, NDArray[np.int64]]:
        """The k members of highest x.mu in the cells of each query, best first, ties by lower id.

        x: (B, d). cells: (B, P), no cell twice in a row, -1 for none. Where there are fewer than k
        members, id -1 and value NaN fill up. Returns (B, k) twice.
        """
        table = self._table or self._upload_table()
        queries, probes = cells.shape
        segments = 1
        if self._device.name == "wgpu":
            segments = min(probes, _MOST_CANDIDATES, max(1, _WORKGROUPS // queries))
        found = self._device.run(
            "hrm2_scan",
            x=x,
            mu=self._mu,
            ids=self._ids,
            cells=cells,
            **table,
            most=int(self.sizes.max()),
            K=k,
            R=queries * segments,
        )
        if segments > 1:
            found = self._device.run(
                "topk_merge",
                candidate_values=found["values"],
                candidate_indices=found["indices"],
                B=queries,
                K=k,
            )
        return found["values"].numpy(), found["indices"].numpy().astype(np.int64)

    def _place(self, rows: Float32Array, ids: Int64Array) -> None:
        """Give the members of these ids a slot in their cells and write them there."""
        cell = self.cell[ids]
        order = np.argsort(cell, kind="stable")
        touched, begin, count = np.unique(cell[order], return_index=True, return_counts=True)
        rank = np.arange(len(order)) - np.repeat(begin, count)
        number = np.repeat(self.sizes[touched], count) + rank
        self.sizes[touched] += count
        tables = [self._pages[at] for at in touched]
        for own, size in zip(tables, self.sizes[touched], strict=True):
            own += self._take_pages(-(-int(size) // PAGE) - len(own))
        offsets = np.cumsum([0, *map(len, tables[:-1])])
        pages = np.concatenate(tables)[np.repeat(offsets, count) + number // PAGE]
        self.slot[ids[order]] = pages * PAGE + number % PAGE
        self._reserve(self._n_pages)
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            self._write(rows[part], self.slot[ids[part]], ids[part])
        self._table = {}

    def _take_pages(self, count: int) -> list[int]:
        """Pages that nobody has, those given up by others first."""
        reused = [self._free.pop() for _ in range(min(count, len(self._free)))]
        fresh = count - len(reused)
        self._n_pages += fresh
        return [*reused, *range(self._n_pages - fresh, self._n_pages)]

    def _reserve(self, n_pages: int) -> None:
        rows = self._mu.shape[0]
        if n_pages * PAGE <= rows:
            return
        old_mu, old_ids = self._mu, self._ids
        self._mu, self._ids = self._empty(max(n_pages, int(_GROWTH * rows / PAGE)))
        slots = np.arange(rows, dtype=np.int32)
        self._device.run(
            "hrm2_store", rows=old_mu, slots=slots, row_ids=old_ids, mu=self._mu, ids=self._ids
        )

    def _write(self, rows: Float32Array, slots: Int64Array, ids: Int64Array) -> None:
        self._device.run(
            "hrm2_store",
            rows=rows,
            slots=slots.astype(np.int32),
            row_ids=ids.astype(np.int32),
            mu=self._mu,
            ids=self._ids,
        )

    def _empty(self, n_pages: int) -> tuple[DeviceArray, DeviceArray]:
        rows = n_pages * PAGE
        return (
            self._device.empty((rows, self._dimension), self._dtype),
            self._device.empty((rows,), "i32"),
        )

    def _upload_table(self) -> dict[str, DeviceArray]:
        counts = [len(own) for own in self._pages]
        first = np.concatenate([[0], np.cumsum(counts)])
        pages = np.concatenate([np.asarray(own, np.int64) for own in self._pages])
        self._table = {
            "first": self._device.array(first, "i32"),
            "pages": self._device.array(pages, "i32"),
            "sizes": self._device.array(self.sizes, "i32"),
        }
        return self._table
