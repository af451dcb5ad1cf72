"""HRM2: a two-level index of directions, coarse centres and then the members of the nearest cells.

Spherical k-means cuts the directions into about 4 sqrt(N) cells. A search takes the products of the
query with all C centres, then with the members of a few of the best cells, then with those of all
other cells that may well hold something nearer (`hrm2_probing`). How far that must go is a property
of the directions and of the queries, not of the index: `tune` measures it, on directions held or on
queries given. Clustered directions need little; for directions without any structure no index wins.

Products are kernels (`similarity`, `hrm2_scan`) on the device of the index. Directions added
later go to the nearest cell; a cell that grows too large is split in two; when the number of
directions has doubled all cells are made anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.splats.hrm2_cells import Cells
from ebm_wgpu.splats.hrm2_partition import (
    COSINE_ERROR,
    angles_to_centres,
    cosine_bound,
    default_cells,
    direction,
    nearest_centre,
    spherical_kmeans,
    upper_half,
)
from ebm_wgpu.splats.hrm2_probing import (
    Tuning,
    alignment_needed,
    best_cells,
    chosen_cells,
    least_limit,
)
from ebm_wgpu.splats.search import MAX_KERNEL_NEIGHBOURS, SearchResult, check_k, check_rows

if TYPE_CHECKING:
    from ebm_wgpu.kernels import DeviceArray, KernelDevice

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Found = tuple[Float32Array, NDArray[np.int64]]
"""Similarities and indices, (B, k) both."""

LARGEST_CELL = 4
"""A cell is split when it exceeds the mean size, at the time the cells were made, so many times."""
TUNING_QUERIES = 256
FIRST_CELLS = (2, 4, 8, 16, 32, 64)
"""Numbers of cells visited first that tuning tries."""
_SMALLEST_LIMIT = 64
_CELLS_AT_A_TIME = 128
_QUERIES_AT_A_TIME = 1024


class Hrm2Search:
    """Approximate search by a two-level index on a device; k <= 128.

    With `exact=True` a search goes on until no other cell can hold a nearer member, by the angle of
    a cell's farthest member from its centre; that is exact for unit rows, and in many dimensions it
    mostly ends up visiting all cells.

    Attributes:
        tuning: how far a search goes and what it was chosen by, None where `n_probes` was given.
    """

    def __init__(
        self,
        device: KernelDevice,
        *,
        n_cells: int | None = None,
        n_probes: int | None = None,
        recall: float = 0.99,
        recall_at: int = 64,
        half: bool = False,
        seed: int = 0,
    ) -> None:
        """An empty index; the first `add` makes the cells.

        Args:
            device: what `ebm_wgpu.kernels.open_device` returns.
            n_cells: C, by default 4 sqrt(N) of the first directions.
            n_probes: cells that every query visits; by default each as many as `recall` takes.
            recall: share of the true nearest to find, the lower end of a 95% interval.
            recall_at: how many nearest the recall is measured at.
            half: keep directions as float16 on a GPU, half the memory at a cosine error of 1e-4.
            seed: of k-means and of the choice of tuning queries.

        Raises:
            ConfigError: a count below 1, a recall that is none, or half where there is no float16.
        """
        given = {"n_cells": n_cells, "n_probes": n_probes, "recall_at": recall_at}
        for name, value in given.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name} = {value} of the hrm2 index: use at least 1")
        if not 0 < recall < 1:
            raise ConfigError(f"recall = {recall} of the hrm2 index: use more than 0, less than 1")
        if half and not getattr(device, "supports_half", False):
            raise ConfigError(f"half = True of the hrm2 index: {device.description} lacks float16")
        self._device, self._half, self._seed = device, half, seed
        self._n_cells, self._n_probes = n_cells, n_probes
        self._recall, self._recall_at = recall, recall_at
        self._cells: Cells | None = None
        self._centres = np.zeros((0, 0), np.float32)
        self._reach = np.zeros(0)
        self._cosines = np.zeros(0)
        self._uploaded: DeviceArray | None = None
        self._built = 0
        self._limit = 0
        self._tuning_queries: tuple[Float32Array, int, float] | None = None
        self.tuning: Tuning | None = None

    def __len__(self) -> int:
        """How many directions the index holds."""
        return 0 if self._cells is None else len(self._cells)

    @property
    def n_cells(self) -> int:
        """C, the number of cells now."""
        return len(self._centres)

    @property
    def n_probes(self) -> int:
        """Cells that a query visits now, the mean of tuning where not every one visits as many."""
        chosen = round(self.tuning.cells) if self.tuning else self._n_probes
        return max(1, min(chosen or 1, self.n_cells))

    @property
    def nbytes(self) -> int:
        """Bytes of the members on the device, with the slack of their pages."""
        return 0 if self._cells is None else self._cells.nbytes

    def add(self, mu: ArrayLike) -> None:
        """Append directions, (n, d) unit rows; the first call fixes d and makes the cells."""
        rows = check_rows("mu", mu, self._centres.shape[1])
        if self._cells is None or len(self) + len(rows) > 2 * self._built:
            if self._cells is not None:
                rows = np.concatenate([self._cells.rows(np.arange(len(self))), rows])
            self._build(rows)
        else:
            self._insert(rows)
        if self._n_probes is None and (
            self.tuning is None or len(self) > 1.25 * self.tuning.directions
        ):
            if self._tuning_queries is None:
                self._tune_on_members()
            else:
                self.tune(*self._tuning_queries)

    def search(self, queries: ArrayLike, k: int, *, exact: bool = False) -> SearchResult:
        """The k nearest directions of each query, (B, d), among the cells visited.

        A query whose cells hold fewer than k directions visits more of them.

        Args:
            queries: (B, d).
            k: 1 to 128.
            exact: go on until the result is certain, for unit rows.

        Raises:
            ConfigError: a k below 1, above 128 or above the number of directions held.
        """
        check_k(k, len(self))
        rows = check_rows("queries", queries, self._centres.shape[1])
        if k > MAX_KERNEL_NEIGHBOURS:
            raise ConfigError(
                f"k = {k} neighbours: the kernel keeps at most {MAX_KERNEL_NEIGHBOURS}, "
                "use the flat search for more"
            )
        return self._search_exactly(rows, k) if exact else self._search_best(rows, k)

    def tune(self, queries: ArrayLike, k: int, recall: float) -> Tuning:
        """Make as few products as find `recall` of the true k nearest of these queries, (n, d).

        The recall less three standard errors must reach it. Give queries as they will come, and
        measure what you report on others. Every pair of query and direction is compared, now and
        whenever a quarter more directions have come.

        Raises:
            ConfigError: as `search`.
        """
        check_k(k, len(self))
        rows = check_rows("queries", queries, self._centres.shape[1])
        self.tuning = self._measure(rows, self._scan_all(rows, k), k, recall)
        self._n_probes, self._tuning_queries = None, (rows, k, recall)
        return self.tuning

    def _build(self, rows: Float32Array) -> None:
        """Cells and their members, made anew."""
        wanted = self._n_cells or default_cells(len(rows))
        self._centres = spherical_kmeans(rows, max(1, min(wanted, len(rows))), self._seed)
        self._reach, self._cosines = np.zeros(self.n_cells), np.zeros(self.n_cells)
        self._uploaded = None
        self._cells = Cells(self._device, rows.shape[1], half=self._half)
        self._cells.open(self.n_cells)
        self._built = len(rows)
        self._limit = max(LARGEST_CELL * len(rows) // self.n_cells, _SMALLEST_LIMIT)
        self._insert(rows)

    def _insert(self, rows: Float32Array) -> None:
        """Put rows into the nearest cells, and split those that are too large then."""
        assert self._cells is not None
        cell = nearest_centre(rows, self._centres)
        self._cells.append(rows, cell)
        angles = angles_to_centres(rows, self._centres, cell)
        np.maximum.at(self._reach, cell, angles)
        np.add.at(self._cosines, cell, np.cos(angles))
        large: list[int] = np.flatnonzero(self._cells.sizes > self._limit).tolist()
        while large:
            at = large.pop()
            self._split(at)
            large += [c for c in (at, self.n_cells - 1) if self._cells.sizes[c] > self._limit]
            self._uploaded = None

    def _split(self, cell: int) -> None:
        """Halve a cell at the median along the line between the means of its two parts."""
        assert self._cells is not None
        ids = self._cells.members(cell)
        rows = self._cells.rows(ids)
        second = upper_half(rows)
        new = self.n_cells
        self._cells.open(1)
        self._cells.move(cell, ids[second], new)
        self._centres = np.concatenate([self._centres, np.zeros_like(self._centres[:1])])
        self._reach, self._cosines = np.append(self._reach, 0), np.append(self._cosines, 0)
        for at, part in ((cell, rows[~second]), (new, rows[second])):
            self._centres[at] = direction(part.sum(axis=0, dtype=np.float64), part[0])
            angles = angles_to_centres(part, self._centres, np.full(len(part), at))
            self._reach[at], self._cosines[at] = angles.max(), np.cos(angles).sum()

    def _search_best(self, rows: Float32Array, k: int) -> SearchResult:
        first = self.tuning.first if self.tuning else self.n_probes
        alignment = self.tuning.alignment if self.tuning else -np.inf
        parts, visited = [], 0
        for start in range(0, len(rows), _QUERIES_AT_A_TIME):
            part = rows[start : start + _QUERIES_AT_A_TIME]
            scores = self._scores(part)
            found, seen = self._visit_first(part, scores, first, k)
            if alignment > -np.inf:
                more = (self._needed(part, scores, found, seen) <= alignment) & ~seen
                if more.any():
                    found = _better(found, self._scan(part, chosen_cells(more), k))
                    seen |= more
            visited += self._count(seen)
            parts.append(found)
        similarities, indices = (np.concatenate(values) for values in zip(*parts, strict=True))
        return SearchResult(similarities, indices, self.n_cells + visited / len(rows))

    def _visit_first(
        self, rows: Float32Array, scores: Float32Array, count: int, k: int
    ) -> tuple[Found, NDArray[np.bool_]]:
        """What the best cells hold, as many as hold k members, and which were visited, (B, C)."""
        assert self._cells is not None
        values, indices = np.empty((len(rows), k), np.float32), np.empty((len(rows), k), np.int64)
        seen = np.zeros(scores.shape, np.bool_)
        todo = np.arange(len(rows))
        while todo.size:
            cells = best_cells(scores[todo], count)
            enough = self._cells.sizes[cells].sum(axis=1) >= k
            ready, cells, todo = todo[enough], cells[enough], todo[~enough]
            seen[ready[:, None], cells] = True
            if ready.size:
                values[ready], indices[ready] = self._scan(rows[ready], cells, k)
            count = min(2 * count, self.n_cells)
        return (values, indices), seen

    def _needed(
        self, rows: Float32Array, scores: Float32Array, found: Found, seen: NDArray[np.bool_]
    ) -> Float32Array:
        """The limit with which each cell is visited, (B, C); -inf where it was already."""
        length = np.maximum(np.linalg.norm(rows, axis=1), np.finfo(np.float32).tiny)
        last = found[0][:, -1] / length
        needed = alignment_needed(scores / length[:, None], self._mean_cosine(), last)
        return np.where(seen, np.float32(-np.inf), needed)

    def _mean_cosine(self) -> Float64Array:
        """Mean cosine of the members of each cell and its centre, (C,)."""
        assert self._cells is not None
        return self._cosines / np.maximum(self._cells.sizes, 1)

    def _scores(self, rows: Float32Array) -> Float32Array:
        found = self._device.run("similarity", x=rows, mu=self._centres_there())["out"]
        return np.asarray(found.numpy())

    def _centres_there(self) -> DeviceArray:
        """The centres on the device."""
        if self._uploaded is None:
            self._uploaded = self._device.array(self._centres)
        return self._uploaded

    def _scan(self, rows: Float32Array, cells: NDArray[np.int32], k: int) -> Found:
        assert self._cells is not None
        return self._cells.scan(rows, cells, k)

    def _scan_all(self, rows: Float32Array, k: int) -> NDArray[np.int64]:
        """Ids of the k nearest of all members, (B, k)."""
        best = np.full((len(rows), k), -np.inf, np.float32), np.full((len(rows), k), -1)
        for start in range(0, self.n_cells, _CELLS_AT_A_TIME):
            part = np.arange(start, min(start + _CELLS_AT_A_TIME, self.n_cells), dtype=np.int32)
            best = _better(best, self._scan(rows, np.tile(part, (len(rows), 1)), k))
        return best[1]

    def _count(self, visited: NDArray[np.bool_]) -> int:
        """Members of all cells visited, (B, C)."""
        assert self._cells is not None
        return int((visited @ self._cells.sizes).sum())

    def _search_exactly(self, rows: Float32Array, k: int) -> SearchResult:
        """Cells in the order of what they may hold, until the k-th found is above all of that."""
        assert self._cells is not None
        bound = cosine_bound(self._scores(rows), self._reach)
        order = np.argsort(-bound, axis=1, kind="stable").astype(np.int32)
        bound = np.take_along_axis(bound, order, axis=1)
        similarities = np.full((len(rows), k), -np.inf, np.float32)
        indices = np.full((len(rows), k), -1, np.int64)
        todo, begin, end, visited = np.arange(len(rows)), 0, self.n_probes, 0
        while todo.size:
            cells = order[todo, begin:end]
            found = self._scan(rows[todo], cells, k)
            visited += int(self._cells.sizes[cells].sum())
            similarities[todo], indices[todo] = _better((similarities[todo], indices[todo]), found)
            if end >= self.n_cells:
                break
            last = np.where(indices[todo, -1] < 0, -np.inf, similarities[todo, -1])
            todo = todo[last <= bound[todo, end] + COSINE_ERROR]
            begin, end = end, min(2 * end, self.n_cells)
        return SearchResult(similarities, indices, self.n_cells + visited / len(rows))

    def _tune_on_members(self) -> None:
        """Tune by directions held: each is a query for its nearest others."""
        assert self._cells is not None
        rng = np.random.default_rng(self._seed)
        chosen = rng.choice(len(self), min(TUNING_QUERIES, len(self)), replace=False)
        rows = self._cells.rows(chosen)
        k = min(self._recall_at + 1, MAX_KERNEL_NEIGHBOURS, len(self))
        found = self._scan_all(rows, k)
        if k > 1:
            others = np.argsort(found == chosen[:, None], axis=1, kind="stable")[:, : k - 1]
            found = np.take_along_axis(found, np.sort(others, axis=1), axis=1)
        self.tuning = self._measure(rows, found, k, self._recall)

    def _measure(
        self, rows: Float32Array, nearest: NDArray[np.int64], k: int, recall: float
    ) -> Tuning:
        """What finds enough of the nearest, (n, .) ids, with fewest products in searches for k."""
        assert self._cells is not None
        scores = self._scores(rows)
        cell = self._cells.cell[nearest]
        tried = []
        for first in {min(count, self.n_cells) for count in FIRST_CELLS}:
            needed = self._needed(rows, scores, *self._visit_first(rows, scores, first, k))
            limit, mean, error = least_limit(np.take_along_axis(needed, cell, axis=1), recall)
            visited = needed <= limit
            products = self.n_cells + self._count(visited) / len(rows)
            cells = float(visited.sum(axis=1).mean())
            tried.append(Tuning(first, limit, cells, mean, error, products, len(self)))
        return min(tried, key=lambda tuning: (tuning.products, tuning.first))


def _better(one: Found, other: Found) -> Found:
    """The best of two results of as many places, ties by the lower index, missing ones last."""
    values = np.concatenate([one[0], other[0]], axis=1)
    indices = np.concatenate([one[1], other[1]], axis=1)
    order = np.lexsort((indices, -values, indices < 0), axis=-1)[:, : one[1].shape[1]]
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(indices, order, axis=1)
