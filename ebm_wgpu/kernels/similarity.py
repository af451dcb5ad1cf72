"""out = x mu^T: cosines of a few unit queries (B up to about 64) with all splat directions.

The case where reading mu is the whole cost; for a large batch of queries use `matmul`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ebm_wgpu.kernels import _rounds, _search
from ebm_wgpu.kernels._cases import EPS32, dot_tolerance, normal, unit_rows
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Gradient,
    Kernel,
    Run,
    Scalar,
    Tolerance,
    Work,
)

QUERIES = 16
SPLATS = 64
_TILES = {"WG": 64, "TILE_K": 32, "TILE_A": QUERIES // 4, "TILE_B": SPLATS // 4}


def mirror(x: Array, mu: Array, out: Array) -> None:
    """Numba mirror, by chunks of splats in all threads."""

    def work(chunks: Iterator[tuple[int, int]]) -> None:
        for first, last in chunks:
            _search.fill_cosines(x, mu, out, first, last)

    _search.in_chunks(0, len(mu), x.size, work)


def reference(x: Array, mu: Array) -> Arrays:
    """Float64 reference."""
    return {"out": x @ mu.T}


def _vjp(
    run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays
) -> dict[str, Array]:
    d_out = cotangents["out"]
    return {
        "x": run("matmul", a=d_out, b=inputs["mu"], trans_a=0, trans_b=0)["out"],
        "mu": run("matmul", a=d_out, b=inputs["x"], trans_a=1, trans_b=0)["out"],
    }


def _units(rng: np.random.Generator, dims: Dims) -> Arrays:
    return {"x": unit_rows(rng, dims["B"], dims["D"]), "mu": unit_rows(rng, dims["N"], dims["D"])}


def _on_splats(rng: np.random.Generator, dims: Dims) -> Arrays:
    """The queries are splats, the opposite of splats, or zero: cosines of 1, -1 and 0."""
    mu = unit_rows(rng, dims["N"], dims["D"])
    x = np.concatenate([mu[: dims["B"] - 1], np.zeros((1, dims["D"]), np.float32)])
    x[1::2] *= -1
    return {"x": x, "mu": mu}


def _huge_and_tiny(rng: np.random.Generator, dims: Dims) -> Arrays:
    x = normal(rng, dims["B"], dims["D"], scale=1e-15)
    return {"x": x, "mu": normal(rng, dims["N"], dims["D"], scale=1e4)}


def _cosines(d: int) -> Tolerance:
    return dot_tolerance(d, 1.0 / np.sqrt(d))


KERNEL = Kernel(
    stem="similarity",
    bindings=(
        Binding("x", "f32", ("B", "D")),
        Binding("mu", "f32", ("N", "D"), half=True),
        Binding("out", "f32", ("B", "N"), "out"),
    ),
    constants=_TILES,
    workgroups=lambda dims, params: -(-dims["B"] // QUERIES) * -(-dims["N"] // SPLATS),
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: _rounds.tiles(dims["D"], _TILES) + _rounds.loop(4, _rounds.loop(4)),
    cases=(
        Case("odd, several tiles", {"B": 19, "N": 131, "D": 641}, _units, _cosines(641)),
        Case("d8, one query", {"B": 1, "N": 70, "D": 8}, _units, _cosines(8)),
        Case("exact tiles", {"B": 32, "N": 128, "D": 64}, _units, _cosines(64)),
        Case("one splat", {"B": 5, "N": 1, "D": 33}, _units, _cosines(33)),
        Case("cosines 1, -1 and 0", {"B": 9, "N": 40, "D": 65}, _on_splats, _cosines(65)),
        Case(
            "far from unit length",
            {"B": 3, "N": 7, "D": 40},
            _huge_and_tiny,
            Tolerance(
                2e-11 * EPS32 * 40,
                4 * EPS32,
                "sum of 40 products of size 1e-11: 2 eps k of that, as for a matrix product",
            ),
        ),
    ),
    gradient=Gradient(
        wrt=("x", "mu"),
        vjp=_vjp,
        outputs=("out",),
        tolerance=Tolerance(
            2e-6, 2e-6, "float32 sums of up to 131 products against float64 differences"
        ),
    ),
    work=lambda dims: Work(
        2.0 * dims["B"] * dims["N"] * dims["D"],
        4.0 * (dims["B"] * dims["D"] + dims["N"] * dims["D"] + dims["B"] * dims["N"]),
    ),
    speed_case={"B": 16, "N": 50000, "D": 640},
)
