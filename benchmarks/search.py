"""Exact search for the 64 nearest of 50,000 splats: the similarity_topk kernel against FAISS flat.

Both hold the splats already and get the same queries, noisy copies of splats; results must agree.
"""

from __future__ import annotations

import faiss
import numpy as np
from _common import Claim, compare_seconds, median, parse_arguments, print_table, write_result

from ebm_wgpu.kernels import open_device
from ebm_wgpu.kernels.topk import similarity_topk

BATCHES = (1, 4, 16, 32, 64)
CLAIMED = (16, 32, 64)


def unit_rows(rng: np.random.Generator, rows: int, d: int) -> np.ndarray:
    x = rng.standard_normal((rows, d), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def disagreement(
    mu: np.ndarray, x: np.ndarray, found: np.ndarray, values: np.ndarray, expected: np.ndarray
) -> float:
    """Largest difference between our j-th value and the exact cosine of FAISS's j-th splat."""
    cosines = np.einsum("bd,bkd->bk", x.astype(np.float64), mu[expected])
    if any(len(np.unique(row)) < len(row) for row in found):
        return float("inf")
    return float(np.abs(values - cosines).max())


def main() -> None:
    arguments = parse_arguments(
        "search", __doc__, device="numba", splats=50000, dimension=640, k=64, repeats=7
    )
    device = open_device(arguments.device)
    rng = np.random.default_rng(0)
    mu = unit_rows(rng, arguments.splats, arguments.dimension)
    index = faiss.IndexFlatIP(arguments.dimension)
    index.add(mu)
    held = device.array(mu)
    rows = []
    for batch in BATCHES:
        noise = 0.02 * rng.standard_normal((batch, arguments.dimension), dtype=np.float32)
        x = mu[rng.choice(len(mu), batch, replace=False)] + noise

        def ours(x: np.ndarray = x) -> tuple[np.ndarray, np.ndarray]:
            values, indices = similarity_topk(device, x, held, arguments.k)
            return values.numpy(), indices.numpy()

        def flat(x: np.ndarray = x) -> tuple[np.ndarray, np.ndarray]:
            return index.search(x, arguments.k)

        values, found = ours()
        _, expected = flat()
        times = compare_seconds({"ours": ours, "FAISS": flat}, arguments.repeats)
        ours_s, faiss_s = median(times["ours"]), median(times["FAISS"])
        flops = 2.0 * batch * arguments.splats * arguments.dimension
        rows.append(
            {
                "queries": batch,
                "ours ms": 1e3 * ours_s,
                "FAISS flat ms": 1e3 * faiss_s,
                "ratio": faiss_s / ours_s,
                "ours GFLOP/s": flops / ours_s / 1e9,
                "largest disagreement": disagreement(mu, x, found, values, expected),
            }
        )
    print_table(
        f"{arguments.k} nearest of {arguments.splats} splats, d = {arguments.dimension}, "
        f"{device.description}",
        rows,
    )
    claims = [
        Claim(f"times faster than FAISS flat, {row['queries']} queries", row["ratio"], 1.0)
        for row in rows
        if row["queries"] in CLAIMED
    ]
    worst = max(row["largest disagreement"] for row in rows)
    claims.append(Claim("largest disagreement with FAISS in cosine", worst, 1e-5, at_most=True))
    payload = {
        "splats": arguments.splats,
        "dimension": arguments.dimension,
        "k": arguments.k,
        "repeats": arguments.repeats,
        "statistic": "median, contenders in turn",
        "faiss_threads": faiss.omp_get_max_threads(),
        "rows": rows,
    }
    write_result("search", payload, device, claims=claims, output=arguments.output)


if __name__ == "__main__":
    main()
