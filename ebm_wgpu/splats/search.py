"""Nearest splats by cosine: one interface over an exact kernel search and FAISS indexes.

All back ends return similarities in descending order, ties by the lower index. `BruteForceSearch`
runs the `similarity_topk` kernel on a device; `FaissSearch` runs on the CPU, exactly ("flat") or
approximately ("ivf", "hnsw"); `ebm_wgpu.splats.hrm2` holds a two-level index on a device ("hrm2"),
`ebm_wgpu.splats.search_auto` the choice between that and brute force ("auto").
`ebm_wgpu.splats.search_quality` measures what truncation to K neighbours and an approximate search
lose.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.errors import ConfigError

if TYPE_CHECKING:
    from ebm_wgpu.kernels import DeviceArray, KernelDevice

Float32Array = NDArray[np.float32]

MAX_KERNEL_NEIGHBOURS = 128


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The K nearest splats of each query, nearest first.

    similarities: (B, K) float32 cosines. indices: (B, K) int64 positions in the order of adding.
    products: mean number of directions and centres a query was compared with, where that is known.
    """

    similarities: Float32Array
    indices: NDArray[np.int64]
    products: float | None = None


class NeighbourSearch(Protocol):
    """What every search back end offers."""

    def __len__(self) -> int:
        """How many directions the index holds."""

    def add(self, mu: ArrayLike) -> None:
        """Append directions, (n, d) unit rows; the first call fixes d."""

    def search(self, queries: ArrayLike, k: int) -> SearchResult:
        """The k directions of highest q.mu for each of the queries, (B, d).

        Raises `ConfigError` for a k below 1 or above the number of directions held.
        """


class BruteForceSearch:
    """Exact search by the `similarity_topk` kernel, on the GPU or its Numba mirror; k <= 128.

    device: what `ebm_wgpu.kernels.open_device` returns. The directions are uploaded once an `add`.
    """

    def __init__(self, device: "KernelDevice") -> None:
        self._device = device
        self._mu = np.zeros((0, 0), np.float32)
        self._uploaded: DeviceArray

    def __len__(self) -> int:
        return len(self._mu)

    @property
    def mu(self) -> Float32Array:
        """The directions held, (N, d), in the order of adding."""
        return self._mu

    def add(self, mu: ArrayLike) -> None:
        """Append directions, (n, d) unit rows; the first call fixes d."""
        rows = check_rows("mu", mu, self._mu.shape[1])
        self._mu = np.concatenate([self._mu, rows]) if len(self) else rows
        self._uploaded = self._device.array(self._mu)

    def search(self, queries: ArrayLike, k: int) -> SearchResult:
        """The k nearest directions of each query, (B, d), exactly.

        Raises `ConfigError` for a k below 1, above 128 or above the number of directions held.
        """
        from ebm_wgpu.kernels.topk import similarity_topk

        check_k(k, len(self))
        rows = check_rows("queries", queries, self._mu.shape[1])
        if k > MAX_KERNEL_NEIGHBOURS:
            raise ConfigError(
                f"k = {k} neighbours: the kernel keeps at most {MAX_KERNEL_NEIGHBOURS}, "
                "use the flat search for more"
            )
        values, indices = similarity_topk(self._device, rows, self._uploaded, k)
        return SearchResult(values.numpy(), indices.numpy().astype(np.int64), float(len(self)))


class FaissSearch:
    """Search by a FAISS index of inner products, on the CPU.

    kind: "flat" compares with all directions and is exact; "ivf" (inverted lists) and "hnsw" (a
    navigable graph) compare with some of them, and may miss neighbours. Inverted lists are trained
    on the directions of the first `add`: let that be a representative sample, or all of them.

    n_lists, n_probes: lists in all and lists read a query (default 4 sqrt(n), an eighth of them).
    links, effort: edges a node of the graph, and candidates kept while searching it.
    Raises `ConfigError` for an unknown kind or an option below 1.
    """

    def __init__(
        self,
        kind: str = "flat",
        *,
        n_lists: int | None = None,
        n_probes: int | None = None,
        links: int = 32,
        effort: int = 256,
    ) -> None:
        if kind not in _FAISS_KINDS:
            raise ConfigError(f"unknown FAISS index {kind!r}: use one of {', '.join(_FAISS_KINDS)}")
        options = {"n_lists": n_lists, "n_probes": n_probes, "links": links, "effort": effort}
        for name, value in options.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name} = {value} of the FAISS index: use at least 1")
        self._options = _FaissOptions(n_lists, n_probes, links, effort)
        self._kind = _FAISS_KINDS[kind]
        self._index: Any = None

    def __len__(self) -> int:
        return 0 if self._index is None else int(self._index.ntotal)

    def add(self, mu: ArrayLike) -> None:
        """Append directions, (n, d) unit rows; the first call fixes d and trains inverted lists."""
        rows = check_rows("mu", mu, 0 if self._index is None else self._index.d)
        if self._index is None:
            self._index = self._kind.create(rows, self._options)
        self._index.add(rows)

    def search(self, queries: ArrayLike, k: int) -> SearchResult:
        """The k nearest directions of each query, (B, d); where an index falls short, exactly.

        Raises `ConfigError` for a k below 1 or above the number of directions held.
        """
        check_k(k, len(self))
        rows = check_rows("queries", queries, self._index.d)
        similarities = np.empty((len(rows), k), np.float32)
        indices = np.empty((len(rows), k), np.int64)
        todo = np.arange(len(rows))
        fetch = min(k + 1, len(self))
        while todo.size:
            found, where = self._fetch(rows[todo], fetch)
            order = np.lexsort((where, -found), axis=-1)[:, :k]
            similarities[todo] = np.take_along_axis(found, order, axis=1)
            indices[todo] = np.take_along_axis(where, order, axis=1)
            # A tie at the last place fetched may hide an equal neighbour of lower index.
            cut = (found[:, -1] == found[:, k - 1]) & (fetch < len(self))
            todo = todo[cut]
            fetch = min(2 * fetch, len(self))
        return SearchResult(similarities, indices)

    def _fetch(self, rows: Float32Array, count: int) -> tuple[Float32Array, NDArray[np.int64]]:
        """The count nearest; the few queries for which the index finds fewer scan everything."""
        parameters = self._kind.parameters(self._index, self._options, count)
        found, where = self._index.search(rows, count, params=parameters)
        short = (where < 0).any(axis=1)
        if short.any():
            products = rows[short] @ self._index.reconstruct_n(0, len(self)).T
            nearest = np.argsort(-products, axis=1, kind="stable")[:, :count]
            found[short] = np.take_along_axis(products, nearest, axis=1)
            where[short] = nearest
        return found, where


def make_search(
    kind: str, device: "KernelDevice | None" = None, **options: float | None
) -> NeighbourSearch:
    """A search back end by name: "auto", "brute", "hrm2", "flat", "ivf" or "hnsw".

    The first three run on a device and need one. "auto" is brute force, and HRM2 from the size on
    where it wins. options: those of `FaissSearch` or of `ebm_wgpu.splats.hrm2.Hrm2Search`. Raises
    `ConfigError` for an unknown name, a device that is missing, and for options that the back end
    does not have.
    """
    if kind not in _BACK_ENDS:
        raise ConfigError(f"unknown search {kind!r}: use one of {', '.join(_BACK_ENDS)}")
    back_end = _BACK_ENDS[kind]
    unknown = options.keys() - set(back_end.options)
    if unknown:
        raise ConfigError(f"search {kind!r} has no option {min(unknown)!r}: leave it out")
    if back_end.on_device and device is None:
        raise ConfigError(f"search {kind!r} runs on a device: pass one from kernels.open_device")
    return back_end.make(device, options)


class _FaissOptions(NamedTuple):
    n_lists: int | None
    n_probes: int | None
    links: int
    effort: int


class _FaissKind(NamedTuple):
    """How an index is created for its first rows, and the parameters of a search for k."""

    create: Callable[[Float32Array, _FaissOptions], Any]
    parameters: Callable[[Any, _FaissOptions, int], Any]


def _faiss() -> Any:
    """The FAISS module, loaded when first needed."""
    return importlib.import_module("faiss")


def _create_flat(rows: Float32Array, options: _FaissOptions) -> Any:
    return _faiss().IndexFlatIP(rows.shape[1])


def _create_ivf(rows: Float32Array, options: _FaissOptions) -> Any:
    faiss = _faiss()
    n_lists = min(options.n_lists or max(1, round(4 * len(rows) ** 0.5)), len(rows))
    dimension = rows.shape[1]
    coarse = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFFlat(coarse, dimension, n_lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical = True
    # FAISS would print warnings below 39 rows a list; few rows only make the lists less even.
    index.cp.min_points_per_centroid = 1
    index.train(rows)
    index.set_direct_map_type(faiss.DirectMap.Array)
    return index


def _create_hnsw(rows: Float32Array, options: _FaissOptions) -> Any:
    faiss = _faiss()
    return faiss.IndexHNSWFlat(rows.shape[1], options.links, faiss.METRIC_INNER_PRODUCT)


def _flat_parameters(index: Any, options: _FaissOptions, k: int) -> None:
    return None


def _ivf_parameters(index: Any, options: _FaissOptions, k: int) -> Any:
    return _faiss().SearchParametersIVF(nprobe=options.n_probes or max(1, index.nlist // 8))


def _hnsw_parameters(index: Any, options: _FaissOptions, k: int) -> Any:
    return _faiss().SearchParametersHNSW(efSearch=max(options.effort, k))


_FAISS_KINDS = {
    "flat": _FaissKind(_create_flat, _flat_parameters),
    "ivf": _FaissKind(_create_ivf, _ivf_parameters),
    "hnsw": _FaissKind(_create_hnsw, _hnsw_parameters),
}


def _make_brute(device: Any, options: Mapping[str, Any]) -> NeighbourSearch:
    return BruteForceSearch(device)


def _make_hrm2(device: Any, options: Mapping[str, Any]) -> NeighbourSearch:
    from ebm_wgpu.splats.hrm2 import Hrm2Search

    return Hrm2Search(device, **options)


def _make_auto(device: Any, options: Mapping[str, Any]) -> NeighbourSearch:
    from ebm_wgpu.splats.search_auto import AutoSearch

    return AutoSearch(device)


def _make_faiss(kind: str) -> Callable[[Any, Mapping[str, Any]], NeighbourSearch]:
    return lambda device, options: FaissSearch(kind, **options)


class _BackEnd(NamedTuple):
    """How a search is made, whether on a device, and the options it takes."""

    make: Callable[[Any, Mapping[str, Any]], NeighbourSearch]
    on_device: bool
    options: tuple[str, ...] = ()


_HRM2_OPTIONS = ("n_cells", "n_probes", "recall", "recall_at", "half", "seed")
_BACK_ENDS = {
    "auto": _BackEnd(_make_auto, True),
    "brute": _BackEnd(_make_brute, True),
    "hrm2": _BackEnd(_make_hrm2, True, _HRM2_OPTIONS),
    **{kind: _BackEnd(_make_faiss(kind), False, _FaissOptions._fields) for kind in _FAISS_KINDS},
}


def check_rows(name: str, values: ArrayLike, dimension: int) -> Float32Array:
    """The values as float32 rows of the given dimension (0: any).

    Raises `ConfigError` for another shape, no rows, NaN or infinity.
    """
    rows = np.ascontiguousarray(values, np.float32)
    if rows.ndim != 2 or (dimension and rows.shape[1] != dimension) or 0 in rows.shape:
        raise ConfigError(f"{name} of shape {rows.shape}: give (rows, {dimension or 'd'})")
    if not np.isfinite(rows).all():
        raise ConfigError(f"{name} hold NaN or infinity: check where they come from")
    return rows


def check_k(k: int, count: int) -> None:
    """Raise `ConfigError` unless 1 <= k <= count."""
    if not 1 <= k <= count:
        raise ConfigError(f"k = {k} neighbours of {count} splats: use 1 to {count}")
