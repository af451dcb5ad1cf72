"""The K members of chosen cells of a two-level index most similar to each query.

Query b visits the cells named in cells[b]; -1 names none. Cell c has sizes[c] members in pages of
PAGE = 32 consecutive rows of mu: member m is row PAGE pages[first[c] + m // PAGE] + m % PAGE, and
what it is called outside is ids[row]. values[r] and indices[r] are the K best cosines, and the ids,
of query b = r // S among the cells at places r % S, r % S + S, ... of cells[b], S = R // B. R
defaults to B; `topk_merge` makes one list of the S lists of a query.

Equal values are ordered by the lower id and NaN comes last; where the cells hold fewer than K
members, id -1 and value NaN fill up. No query may name a cell twice. The parameter `most` is the
size of the largest cell.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping

import numba
import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import _rounds, _search, _topk
from ebm_wgpu.kernels._cases import dot_tolerance, unit_rows
from ebm_wgpu.kernels.spec import (
    EXACT,
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Kernel,
    Param,
    Scalar,
    Tolerance,
    Work,
)

PAGE = 32
_CONSTANTS = {"WG": 128, "TILE_K": 16, "TILE_A": 1, "TILE_B": 32, "TOPK_STREAMS": 1, "PAGE": PAGE}
_SMALL = 1 << 20
_RUNS = 8


@njit(nogil=True, cache=True)
def _offer_page(bits: Array, ids: Array, keys: Array, indices: Array) -> None:
    """Offer values of any ids to one sorted list, (K,)."""
    last = keys.shape[0] - 1
    threshold = keys[last]
    hits = 0
    for i in range(bits.shape[0]):
        hits += _topk.sort_key(bits[i]) >= threshold
    if hits == 0:
        return
    for i in range(bits.shape[0]):
        key = _topk.sort_key(bits[i])
        if key >= keys[last]:
            _topk.offer_key(key, ids[i], keys, indices)


@njit(nogil=True, cache=True)
def _scan_visits(
    x: Array,
    mu: Array,
    ids: Array,
    first: Array,
    pages: Array,
    sizes: Array,
    visits: Array,
    keys: Array,
    indices: Array,
) -> None:
    """Offer the members of cells to lists; visits, (n, 3), are (cell, query, list), by cell."""
    done = 0
    while done < visits.shape[0]:
        cell, end = visits[done, 0], done + 1
        while end < visits.shape[0] and visits[end, 0] == cell:
            end += 1
        queries = x[visits[done:end, 1]]
        scores = np.empty((end - done, PAGE), np.float32)
        bits = scores.view(np.int32)
        for number in range((sizes[cell] + PAGE - 1) // PAGE):
            start = pages[first[cell] + number] * PAGE
            held = min(PAGE, sizes[cell] - number * PAGE)
            _search.fill_cosines(queries, mu[start : start + held], scores[:, :held], 0, held)
            names = ids[start : start + held]
            for i in range(end - done):
                row = visits[done + i, 2]
                _offer_page(bits[i, :held], names, keys[row], indices[row])
        done = end


def mirror(
    x: Array,
    mu: Array,
    ids: Array,
    cells: Array,
    first: Array,
    pages: Array,
    sizes: Array,
    values: Array,
    indices: Array,
) -> None:
    """Numba mirror: cell by cell, each for all queries that visit it, in all threads."""
    if len(x) == 0:
        return
    segments = len(values) // len(x)
    query, place = np.nonzero((cells >= 0) & (cells < len(sizes)))
    visits = np.stack([cells[query, place], query, query * segments + place % segments], axis=1)
    visits = np.ascontiguousarray(visits[np.argsort(visits[:, 0], kind="stable")], np.int32)
    cost = int(sizes[visits[:, 0]].sum()) * x.shape[1]
    # Each thread gets several runs of whole cells, so that one that is held up holds up no other.
    most = max(1, min(_RUNS * numba.get_num_threads(), len(visits)))
    cuts = np.linspace(0, len(visits), most + 1).astype(np.int64)
    inner = cuts[1:-1]
    cuts[1:-1] = np.searchsorted(visits[:, 0], visits[inner, 0])
    lists: list[tuple[Array, Array]] = []
    lock, counter = threading.Lock(), itertools.count()

    def work() -> None:
        own = np.empty_like(indices), np.empty_like(indices)
        _topk.start(*own)
        while (i := next(counter)) < most:
            part = visits[cuts[i] : cuts[i + 1]]
            _scan_visits(x, mu, ids, first, pages, sizes, part, *own)
        with lock:
            lists.append(own)

    _in_threads(work, cost)
    for own in lists[1:]:
        _search.merge(*own, *lists[0])
    keys, indices[:] = lists[0]
    _topk.decode(keys, values.view(np.int32))


def _in_threads(work: Callable[[], None], cost: int) -> None:
    """Run `work` in every thread, or in this one where there is little to do."""
    threads = numba.get_num_threads() if cost > _SMALL else 1
    if threads == 1:
        work()
        return
    for done in [_search.pool(threads).submit(work) for _ in range(threads)]:
        done.result()


def reference(
    x: Array,
    mu: Array,
    ids: Array,
    cells: Array,
    first: Array,
    pages: Array,
    sizes: Array,
    K: int,
    R: int,
) -> Arrays:
    """Float64 reference."""
    segments = R // len(x)
    values, indices = np.empty((R, K)), np.empty((R, K), np.int32)
    for row in range(R):
        chosen = cells[row // segments, row % segments :: segments]
        slots = np.concatenate(
            [np.empty(0, np.int64), *(_slots(c, first, pages, sizes) for c in chosen if c >= 0)]
        )
        cosines = mu[slots] @ x[row // segments]
        found = _topk.reference_best(cosines[None], ids[slots][None], K)
        values[row], indices[row] = found[0][0], found[1][0]
    return {"values": values, "indices": indices}


def _slots(cell: int, first: Array, pages: Array, sizes: Array) -> Array:
    """Rows of mu that hold the members of a cell, in order."""
    own = pages[first[cell] : first[cell + 1]].astype(np.int64)
    return (own[:, None] * PAGE + np.arange(PAGE)).reshape(-1)[: sizes[cell]]


def _derive(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    queries = dims["B"]
    if "K" not in dims:
        raise KernelError("kernel hrm2_scan: K, the number of splats wanted, is missing")
    _topk.check_count("hrm2_scan", dims["K"])
    rows = dims.get("R", queries)
    if queries and (rows < queries or rows % queries):
        raise KernelError(
            f"kernel hrm2_scan: R={rows} must be a multiple of B={queries}, the rows of 'x'"
        )
    if dims["F"] != dims["C"] + 1:
        raise KernelError(
            f"kernel hrm2_scan: {dims['F']} entries of 'first' for {dims['C']} cells: give one more"
        )
    return {"R": rows}


def _comparable(outputs: Arrays, inputs: Arrays, params: Mapping[str, Scalar]) -> Arrays:
    """Replace each id by the exact cosine it stands for, since float32 may swap near-ties.

    Whole numbers give exact cosines: then the ids themselves must agree. An id that repeats within
    a row, or that no row bears, stands for infinity, which no tolerance forgives.
    """
    x, mu = inputs["x"].astype(np.float64), inputs["mu"].astype(np.float64)
    if np.array_equal(x, np.trunc(x)) and np.array_equal(mu, np.trunc(mu)):
        return outputs
    slot_of = {int(name): slot for slot, name in enumerate(inputs["ids"]) if name >= 0}
    indices = outputs["indices"]
    segments = len(indices) // len(x)
    named = np.full(indices.shape, np.nan)
    for row, chosen in enumerate(indices):
        real = [int(i) for i in chosen if i >= 0]
        if len(set(real)) < len(real) or not set(real) <= slot_of.keys():
            named[row] = np.inf
        else:
            named[row, : len(real)] = mu[[slot_of[i] for i in real]] @ x[row // segments]
    return {"values": outputs["values"], "indices": named}


def _index(
    rng: np.random.Generator, dims: Dims, x: Array, members: Callable[[int, int], Array]
) -> Arrays:
    """Cells of random sizes in shuffled pages, one of them empty; rows no cell has hold NaN."""
    n_cells, n_pages = dims["C"], dims["G"]
    counts = rng.multinomial(n_pages - (n_cells - 1), np.ones(n_cells) / n_cells) + 1
    counts[-1] -= 1
    pages = rng.permutation(dims["M"] // PAGE)[: counts.sum()].astype(np.int32)
    pages = np.pad(pages, (0, n_pages - len(pages)))
    first = np.concatenate([[0], np.cumsum(counts)])
    sizes = np.maximum(counts * PAGE - rng.integers(0, PAGE, n_cells), 0)
    mu = np.full((dims["M"], dims["D"]), np.nan, np.float32)
    ids = np.full(dims["M"], -1, np.int32)
    slots = np.concatenate([_slots(c, first, pages, sizes) for c in range(n_cells)])
    mu[slots] = members(len(slots), dims["D"])
    ids[slots] = rng.permutation(3 * len(slots))[: len(slots)]
    cells = np.stack([rng.permutation(max(n_cells, dims["P"])) for _ in range(dims["B"])])
    cells = np.where(cells < n_cells, cells, -1)[:, : dims["P"]]
    return {
        "x": x,
        "mu": mu,
        "ids": ids,
        "cells": cells.astype(np.int32),
        "first": first.astype(np.int32),
        "pages": pages,
        "sizes": sizes.astype(np.int32),
    }


def _units(rng: np.random.Generator, dims: Dims) -> Arrays:
    x = unit_rows(rng, dims["B"], dims["D"])
    return _index(rng, dims, x, lambda n, d: unit_rows(rng, n, d))


def _whole_numbers(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Entries -1, 0 and 1: cosines are exact and nearly all of them tie."""
    x = rng.integers(-1, 2, (dims["B"], dims["D"])).astype(np.float32)
    return _index(rng, dims, x, lambda n, d: rng.integers(-1, 2, (n, d)).astype(np.float32))


def _all_equal(rng: np.random.Generator, dims: Dims) -> Arrays:
    x = np.ones((dims["B"], dims["D"]), np.float32)
    return _index(rng, dims, x, lambda n, d: np.ones((n, d), np.float32))


def _cosines(d: int) -> Tolerance:
    return dot_tolerance(d, 1.0 / np.sqrt(d))


def _dims(
    queries: int, d: int, n_cells: int, n_pages: int, probes: int, k: int, segments: int = 1
) -> Dims:
    return {
        "B": queries,
        "D": d,
        "M": (n_pages + 2) * PAGE,
        "P": probes,
        "F": n_cells + 1,
        "G": n_pages,
        "C": n_cells,
        "R": queries * segments,
        "K": k,
    }


def _case(
    name: str,
    dims: Dims,
    inputs: Callable[[np.random.Generator, Dims], Arrays],
    tolerance: Tolerance,
) -> Case:
    return Case(name, dims, inputs, tolerance, params={"most": PAGE * dims["G"]})


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    segments = dims["R"] // max(dims["B"], 1)
    cosines = _rounds.tiles(dims["D"], _CONSTANTS)
    cell = _rounds.topk_offers(int(params["most"]), 1, dims["K"], cosines)
    return _rounds.strided(dims["P"], max(segments, 1), cell) + _rounds.loop(1)


KERNEL = Kernel(
    stem="hrm2_scan",
    bindings=(
        Binding("x", "f32", ("B", "D")),
        Binding("mu", "f32", ("M", "D"), half=True),
        Binding("ids", "i32", ("M",)),
        Binding("cells", "i32", ("B", "P")),
        Binding("first", "i32", ("F",)),
        Binding("pages", "i32", ("G",)),
        Binding("sizes", "i32", ("C",)),
        Binding("values", "f32", ("R", "K"), "out"),
        Binding("indices", "i32", ("R", "K"), "out"),
    ),
    params=(Param("most", "u32"),),
    constants=_CONSTANTS,
    workgroups=lambda dims, params: dims["R"],
    derive=_derive,
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    comparable=_comparable,
    cases=(
        _case("odd", _dims(5, 65, 7, 19, 3, 37), _units, _cosines(65)),
        _case("d=641, segments", _dims(2, 641, 4, 9, 4, 5, segments=3), _units, _cosines(641)),
        _case("d8, K=128, every cell", _dims(3, 8, 6, 20, 6, 128), _units, _cosines(8)),
        _case("one query, one cell", _dims(1, 16, 1, 3, 1, 1), _units, _cosines(16)),
        _case("fewer than K, places empty", _dims(3, 12, 3, 4, 7, 128), _units, _cosines(12)),
        _case("more segments than cells", _dims(2, 9, 2, 5, 2, 8, segments=4), _units, _cosines(9)),
        _case("ties, exact", _dims(4, 8, 5, 17, 4, 64), _whole_numbers, EXACT),
        _case("segments with ties, exact", _dims(3, 12, 9, 21, 8, 40, 3), _whole_numbers, EXACT),
        _case("all equal", _dims(2, 8, 3, 12, 3, 100), _all_equal, EXACT),
    ),
    work=lambda dims: Work(
        2.0 * dims["B"] * dims["P"] * dims["M"] / dims["C"] * dims["D"],
        4.0 * dims["B"] * dims["P"] * dims["M"] / dims["C"] * dims["D"],
    ),
    speed_case=_dims(16, 640, 896, 1792, 32, 64, segments=32),
)
