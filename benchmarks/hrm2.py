"""HRM2 against flat searches, FAISS IVF and FAISS HNSW: products and time at equal recall@64.

Kinds of directions: clusters, as the Langevin benchmark has them; uneven clusters, of heavy-tailed
size and of all widths, elongated; states of a transformer trained for a minute on WikiText-2, of
length one after their mean is taken off, as online memory stores them; and uniform noise, in which
no index can win. A case is kind:directions:dimension. One rule for all indexes: each is set by one
half of the queries to the least effort whose recall, less three standard errors, reaches .99, and
judged by the other half, whose recall stands before the times with its standard error. Where no
effort up to --most-effort reaches it, the recall says so.

The mass that truncation to the nearest drops, and what of it is the index's, is measured on all
judging queries, or on --mass-queries of them from --large directions on.

A graph of a million directions takes long to build: from --large directions on HNSW has half the
links and searches less while it is built (links 16 and efConstruction 24 in place of 32 and 40),
and the case has 256 dimensions, to fit into a few GiB. The file, which names the seconds of each
case, is written after each of them, so that what is done is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import faiss
import numba
import numpy as np
from _common import Claim, compare_seconds, median, parse_arguments, print_table, write_result
from _directions import SYNTHETIC, Directions, states

from ebm_wgpu.kernels import KernelDevice, open_device
from ebm_wgpu.splats import SplatStore
from ebm_wgpu.splats.hrm2 import Hrm2Search
from ebm_wgpu.splats.hrm2_probing import CONFIDENCE
from ebm_wgpu.splats.search import BruteForceSearch, NeighbourSearch
from ebm_wgpu.splats.search_quality import measure_search

CASES = "clustered:50000:640,states:50000:256,noise:20000:256,uneven:1000000:256"
BATCHES = (1, 16, 64)
RECALL = 0.99
GAIN = 10.0
TRUTH_BATCH = 64


class FaissContender:
    """An index of FAISS with one setting of effort."""

    def __init__(self, index: Any, setting: Callable[[int], Any], counter: Any, extra: int) -> None:
        self.index, self.effort = index, 1
        self._setting, self._counter, self._extra = setting, counter, extra

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Indices of the k nearest of each query."""
        return self.index.search(queries, k, params=self._setting(self.effort))[1]

    def tune(self, queries: np.ndarray, expected: np.ndarray, most: int) -> None:
        """The least effort from the present one on that reaches the recall."""
        low, most = self.effort - 1, min(most, self.index.ntotal)
        self.effort = min(self.effort, most)
        while not self._reaches(queries, expected):
            if self.effort == most:
                return
            low, self.effort = self.effort, min(2 * self.effort, most)
        high = self.effort
        while high - low > 1:
            self.effort = (low + high) // 2
            if self._reaches(queries, expected):
                high = self.effort
            else:
                low = self.effort
        self.effort = high

    def _reaches(self, queries: np.ndarray, expected: np.ndarray) -> bool:
        mean, error = recall(self.search(queries, expected.shape[1]), expected)
        return mean - CONFIDENCE * error >= RECALL

    def products(self, queries: np.ndarray, k: int) -> float:
        """Mean number of products of a query, as FAISS counts them."""
        self._counter.reset()
        self.search(queries, k)
        return self._counter.ndis / len(queries) + self._extra


def ivf(mu: np.ndarray, n_lists: int) -> FaissContender:
    coarse = faiss.IndexFlatIP(mu.shape[1])
    index = faiss.IndexIVFFlat(coarse, mu.shape[1], n_lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.min_points_per_centroid = True, 1
    index.cp.max_points_per_centroid = 64
    index.train(mu)
    index.add(mu)
    return FaissContender(
        index,
        lambda effort: faiss.SearchParametersIVF(nprobe=effort),
        faiss.cvar.indexIVF_stats,
        n_lists,
    )


def hnsw(mu: np.ndarray, links: int, construction: int) -> FaissContender:
    index = faiss.IndexHNSWFlat(mu.shape[1], links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = construction
    index.add(mu)
    contender = FaissContender(
        index,
        lambda effort: faiss.SearchParametersHNSW(efSearch=effort),
        faiss.cvar.hnsw_stats,
        0,
    )
    contender.effort = 64
    return contender


def recall(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Mean share of the expected that were found, and its standard error."""
    shares = np.array([np.isin(e, f).mean() for f, e in zip(found, expected, strict=True)])
    return float(shares.mean()), float(shares.std() / max(len(shares) - 1, 1) ** 0.5)


def nearest(search: NeighbourSearch, queries: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k nearest by an exact search."""
    parts = range(0, len(queries), TRUTH_BATCH)
    return np.concatenate([search.search(queries[p : p + TRUTH_BATCH], k).indices for p in parts])


def compare(name: str, data: Directions, options: Any, device: KernelDevice) -> dict[str, Any]:
    """Build, tune and time every contender over one set of directions."""
    mu, queries = data
    (n, d), k = mu.shape, options.k
    large = n >= options.large
    tuning, test = queries[: len(queries) // 2], queries[len(queries) // 2 :]
    brute = BruteForceSearch(device)
    brute.add(mu)
    tuning_expected, expected = nearest(brute, tuning, k), nearest(brute, test, k)
    built: dict[str, float] = {}
    start = time.perf_counter()
    own = Hrm2Search(device, n_probes=1)
    own.add(mu)
    own.tune(tuning, k, RECALL)
    built["HRM2"] = time.perf_counter() - start
    graph = (16, 24) if large else (32, 40)
    makers: dict[str, Callable[[], FaissContender]] = {
        "IVF": lambda: ivf(mu, own.n_cells),
        "HNSW": lambda: hnsw(mu, *graph),
    }
    others: dict[str, FaissContender] = {}
    for kind, make in makers.items():
        if kind == "HNSW" and n > options.hnsw_at_most:
            continue
        start = time.perf_counter()
        others[kind] = make()
        others[kind].tune(tuning, tuning_expected, options.most_effort)
        built[kind] = time.perf_counter() - start
        print(f"  {kind}: built and tuned in {built[kind]:.0f} s")
    flat = faiss.IndexFlatIP(d)
    flat.add(mu)
    result = own.search(test, k)
    found = {"HRM2": result.indices, **{c: others[c].search(test, k) for c in others}}
    products = {"HRM2": result.products, **{c: others[c].products(test, k) for c in others}}
    effort = {"HRM2": own.n_probes, **{c: others[c].effort for c in others}}
    rows: list[dict[str, Any]] = []
    for kind in ("flat", "brute force", *found):
        mean, error = recall(found[kind], expected) if kind in found else (1.0, 0.0)
        rows.append(
            {
                "index": kind,
                "effort": effort.get(kind, n),
                "products": products.get(kind, n),
                "fewer": n / products.get(kind, n),
                "build s": built.get(kind, 0.0),
                "recall": mean,
                "±": error,
            }
        )
    repeats = min(options.repeats, 3) if large else options.repeats
    for batch in BATCHES:
        x = test[:batch]
        indexes: dict[str, Callable[[], object]] = {
            "HRM2": partial(own.search, x, k),
            **{name: partial(other.search, x, k) for name, other in others.items()},
        }
        # Whoever followed a search of everything would find its caches empty.
        times = compare_seconds({"flat": partial(flat.search, x, k)}, repeats)
        times |= compare_seconds({"brute force": partial(brute.search, x, k)}, repeats)
        times |= compare_seconds(indexes, repeats)
        for row in rows:
            row[f"ms, {batch}"] = 1e3 * median(times[row["index"]])
    record: dict[str, Any] = {"data": name, "splats": n, "dimension": d, "rows": rows}
    record["cells"], record["bytes"] = own.n_cells, own.nbytes
    record["HNSW links, efConstruction"] = graph
    # Room for the splats of a million directions.
    flat.reset()
    others.clear()
    sample = test[: options.mass_queries] if large else test
    record["queries for dropped mass"] = len(sample)
    for kappa in (1.0, 5.0):
        quality = measure_search(own, SplatStore.from_directions(mu, kappa=kappa), sample, k)
        record[f"dropped mass, kappa {kappa:g}"] = quality.dropped_mass
        record[f"dropped by the true {k}, kappa {kappa:g}"] = quality.dropped_by_exact
    print_table(f"{k} nearest of {n} {name}, d = {d}, {device.description}", rows)
    return record


def claims_of(record: dict[str, Any]) -> list[Claim]:
    """What is asked of directions that have structure."""
    own = next(row for row in record["rows"] if row["index"] == "HRM2")
    what = f"HRM2, {record['splats']} {record['data']}"
    return [
        Claim(f"{what}: recall@64", own["recall"], RECALL),
        Claim(f"{what}: times fewer products than flat", own["fewer"], GAIN),
    ]


def main() -> None:
    arguments = parse_arguments(
        "hrm2",
        __doc__,
        device="numba",
        cases=CASES,
        queries=1024,
        k=64,
        train_seconds=60.0,
        large=500_000,
        hnsw_at_most=1_000_000,
        most_effort=4096,
        mass_queries=64,
        repeats=5,
    )
    device = open_device(arguments.device)
    records: list[dict[str, Any]] = []
    claims: list[Claim] = []
    for case in arguments.cases.split(","):
        start = time.perf_counter()
        name, n, d = case.split(":")
        shape = int(n), int(d), arguments.queries
        if name == "states":
            data = states(*shape, arguments.train_seconds)
        else:
            data = SYNTHETIC[name](*shape)
        record = compare(name, data, arguments, device)
        record["seconds"] = time.perf_counter() - start
        records.append(record)
        if name != "noise":
            claims += claims_of(record)
        payload = {
            "settings": {key: v for key, v in vars(arguments).items() if key != "output"},
            "statistic": "median; indexes in turn, flat and brute force each by itself",
            "threads": {"numba": numba.get_num_threads(), "faiss": faiss.omp_get_max_threads()},
            "records": records,
        }
        write_result("hrm2", payload, device, claims=claims, output=arguments.output)


if __name__ == "__main__":
    main()
