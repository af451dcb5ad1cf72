"""HRM2 against a flat search, FAISS IVF and FAISS HNSW: products and time at equal recall@64.

Three kinds of directions: clusters, as the Langevin benchmark has them; states of a transformer
trained for a minute on WikiText-2, of length one after their mean is taken off, as consolidation
and online memory store them; and uniform noise, in which no index can win. Every index is set by
one half of the queries to the least effort that reaches the recall, and judged by the other half.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import faiss
import numba
import numpy as np
import torch
from _common import Claim, compare_seconds, median, parse_arguments, print_table, write_result

from ebm_wgpu.kernels import KernelDevice, open_device
from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.transformer_config import TransformerConfig
from ebm_wgpu.splats import SplatStore
from ebm_wgpu.splats.hrm2 import Hrm2Search
from ebm_wgpu.splats.search_quality import measure_search
from ebm_wgpu.text.corpora import load_corpus
from ebm_wgpu.text.tokenizers import make_tokenizer

BATCHES = (1, 16, 64)
QUERIES = 1024
RECALL = 0.99
GAIN = 10.0
CHUNK = 50_000
MOST_FOR_MASS = 200_000
VOCABULARY = 4096
STATE_WIDTH = 256
WINDOW = 256

Directions = tuple[np.ndarray, np.ndarray]
"""Those that are searched, (n, d), and as many queries as asked for."""


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def clustered(n: int, d: int, queries: int) -> Directions:
    """Clusters of about 100 with a cosine of .64 within; queries are further members."""
    rng = np.random.default_rng(5)
    centres = unit(rng.standard_normal((max(1, n // 100), d), dtype=np.float32))

    def members(cluster: np.ndarray) -> np.ndarray:
        noise = rng.standard_normal((len(cluster), d), dtype=np.float32)
        return unit(centres[cluster] + 0.75 / d**0.5 * noise)

    mu = np.empty((n, d), np.float32)
    for start in range(0, n, CHUNK):
        rows = np.arange(start, min(start + CHUNK, n))
        mu[rows] = members(rows % len(centres))
    return mu, members(rng.integers(0, len(centres), queries))


def noise(n: int, d: int, queries: int) -> Directions:
    """Uniform directions and uniform queries."""
    rng = np.random.default_rng(6)
    mu = np.empty((n, d), np.float32)
    for start in range(0, n, CHUNK):
        rows = min(start + CHUNK, n) - start
        mu[start : start + rows] = unit(rng.standard_normal((rows, d), dtype=np.float32))
    return mu, unit(rng.standard_normal((queries, d), dtype=np.float32))


def states(n: int, queries: int, seconds: float) -> Directions:
    """States of a transformer after tokens of the training text; queries from validation text."""
    train = load_corpus("wikitext-2", "train")
    tokenizer = make_tokenizer("bpe", train, VOCABULARY)
    tokens = torch.from_numpy(tokenizer.encode(train).astype(np.int64))
    valid = torch.from_numpy(tokenizer.encode(load_corpus("wikitext-2", "valid")).astype(np.int64))
    config = TransformerConfig(dim=STATE_WIDTH, n_layers=3, n_heads=4)
    model = CausalTransformer(config, tokenizer.vocab_size)
    torch.manual_seed(0)
    counts = torch.bincount(tokens, minlength=tokenizer.vocab_size)
    model.initialize(tokens.numpy(), counts.numpy(), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        starts = torch.randint(len(tokens) - WINDOW - 1, (8, 1))
        loss = model.losses(tokens[starts + torch.arange(WINDOW + 1)])["token"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def read(text: torch.Tensor, count: int) -> np.ndarray:
        rows = -(-count // WINDOW)
        starts = torch.linspace(0, len(text) - WINDOW, rows).long()[:, None]
        windows = text[starts + torch.arange(WINDOW)]
        parts = [model.backbone(batch).flatten(0, 1) for batch in windows.split(16)]
        return torch.cat(parts)[:count].numpy()

    mu = read(tokens, n)
    mean = mu.mean(axis=0)
    everything = read(valid, min(100 * queries, len(valid) // WINDOW * WINDOW))
    chosen = np.random.default_rng(0).choice(len(everything), queries, replace=False)
    return unit(mu - mean), unit(everything[chosen] - mean)


class FaissContender:
    """An index of FAISS with one setting of effort."""

    def __init__(self, index: Any, setting: Callable[[int], Any], counter: Any, extra: int) -> None:
        self.index, self.effort = index, 1
        self._setting, self._counter, self._extra = setting, counter, extra

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Indices of the k nearest of each query."""
        return self.index.search(queries, k, params=self._setting(self.effort))[1]

    def tune(self, queries: np.ndarray, expected: np.ndarray) -> None:
        """The least effort, in steps of a quarter, that reaches the recall."""
        while recall(self.search(queries, expected.shape[1]), expected) < RECALL:
            grown = max(self.effort + 1, round(1.25 * self.effort))
            if self.effort >= self.index.ntotal:
                break
            self.effort = grown

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


def hnsw(mu: np.ndarray) -> FaissContender:
    index = faiss.IndexHNSWFlat(mu.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.add(mu)
    contender = FaissContender(
        index,
        lambda effort: faiss.SearchParametersHNSW(efSearch=effort),
        faiss.cvar.hnsw_stats,
        0,
    )
    contender.effort = 64
    return contender


def recall(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.mean([np.isin(e, f).mean() for f, e in zip(found, expected, strict=True)]))


def compare(
    name: str, data: Directions, k: int, repeats: int, device: KernelDevice, with_hnsw: bool
) -> dict[str, Any]:
    """Build, tune and time every contender over one set of directions."""
    mu, queries = data
    n, d = mu.shape
    tuning, test = queries[: QUERIES // 2], queries[QUERIES // 2 :]
    flat = faiss.IndexFlatIP(d)
    flat.add(mu)
    tuning_expected, expected = flat.search(tuning, k)[1], flat.search(test, k)[1]
    built: dict[str, float] = {}
    start = time.perf_counter()
    own = Hrm2Search(device, n_probes=1)
    own.add(mu)
    own.tune(tuning, k, RECALL)
    built["HRM2"] = time.perf_counter() - start
    others: dict[str, FaissContender] = {}
    makers: dict[str, Callable[[], FaissContender]] = {"IVF": lambda: ivf(mu, own.n_cells)}
    if with_hnsw:
        makers["HNSW"] = lambda: hnsw(mu)
    for kind, make in makers.items():
        start = time.perf_counter()
        others[kind] = make()
        others[kind].tune(tuning, tuning_expected)
        built[kind] = time.perf_counter() - start
    result = own.search(test, k)
    found = {"HRM2": result.indices, **{c: others[c].search(test, k) for c in others}}
    products = {"HRM2": result.products, **{c: others[c].products(test, k) for c in others}}
    effort = {"HRM2": own.n_probes, **{c: others[c].effort for c in others}}
    rows: list[dict[str, Any]] = []
    for kind in ("flat", *found):
        rows.append(
            {
                "index": kind,
                "effort": effort.get(kind, n),
                "recall": recall(found[kind], expected) if kind in found else 1.0,
                "products": products.get(kind, n),
                "fewer": n / products.get(kind, n),
                "build s": built.get(kind, 0.0),
            }
        )
    for batch in BATCHES:
        x = test[:batch]
        indexes: dict[str, Callable[[], object]] = {
            "HRM2": lambda x=x: own.search(x, k),
            **{c: lambda x=x, c=c: others[c].search(x, k) for c in others},
        }
        # Whoever followed a flat search would find its caches empty.
        times = compare_seconds({"flat": lambda x=x: flat.search(x, k)}, repeats)
        times |= compare_seconds(indexes, repeats)
        for row in rows:
            row[f"ms, {batch}"] = 1e3 * median(times[row["index"]])
    record: dict[str, Any] = {"data": name, "splats": n, "dimension": d, "rows": rows}
    record["cells"], record["bytes"] = own.n_cells, own.nbytes
    if n <= MOST_FOR_MASS:
        for kappa in (1.0, 5.0):
            quality = measure_search(own, SplatStore.from_directions(mu, kappa=kappa), test, k)
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
        data="clustered,states,noise",
        splats=50000,
        dimension=640,
        k=64,
        train_seconds=60.0,
        hnsw_at_most=1_000_000,
        repeats=5,
    )
    device = open_device(arguments.device)
    n, d = arguments.splats, arguments.dimension
    makers: dict[str, Callable[[], Directions]] = {
        "clustered": lambda: clustered(n, d, QUERIES),
        "states": lambda: states(n, QUERIES, arguments.train_seconds),
        "noise": lambda: noise(n, d, QUERIES),
    }
    records = [
        compare(
            name,
            makers[name](),
            arguments.k,
            arguments.repeats,
            device,
            with_hnsw=n <= arguments.hnsw_at_most,
        )
        for name in arguments.data.split(",")
    ]
    claims = [claim for r in records if r["data"] != "noise" for claim in claims_of(r)]
    payload = {
        "settings": {key: v for key, v in vars(arguments).items() if key != "output"},
        "statistic": "median; indexes in turn, flat by itself",
        "threads": {"numba": numba.get_num_threads(), "faiss": faiss.omp_get_max_threads()},
        "records": records,
    }
    write_result("hrm2", payload, device, claims=claims, output=arguments.output)


if __name__ == "__main__":
    main()
