"""The case table of the batched products of `_matmul`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ebm_wgpu.kernels._activation import ACTIVATIONS
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels.spec import Arrays, Case, Dims, Tolerance


def product_tolerance(k: int) -> Tolerance:
    """Tolerance of sums of k products of unit normals."""
    return Tolerance(
        2 * EPS32 * max(k, 4),
        4 * EPS32,
        f"sum of {k} products of unit normals: partial sums of size sqrt(j), each rounded, err by "
        "0.2 eps k in standard deviation, by 2 eps k nowhere in these tables",
    )


def _draw(rng: np.random.Generator, dims: Dims) -> Arrays:
    return {
        "a": normal(rng, dims["AZ"], dims["AR"], dims["AC"]),
        "b": normal(rng, dims["BZ"], dims["BR"], dims["BC"]),
        "bias": normal(rng, dims["BN"]),
        "out": normal(rng, dims["L"], dims["M"], dims["N"]),
    }


def _over_nan(rng: np.random.Generator, dims: Dims) -> Arrays:
    """What lies in `out` must not count unless asked for."""
    drawn = _draw(rng, dims)
    drawn["out"][:] = np.nan
    return drawn


def _whole_numbers(rng: np.random.Generator, dims: Dims) -> Arrays:
    drawn = _draw(rng, dims)
    return {name: np.clip(np.rint(2 * value), -3, 3) for name, value in drawn.items()}


def case(
    name: str,
    m: int,
    k: int,
    n: int,
    *,
    lanes: int = 1,
    trans: tuple[int, int] = (0, 0),
    batch: tuple[int, int] = (1, 1),
    splits: int = 1,
    bias: bool = False,
    activation: str = "none",
    alpha: float = 1.0,
    accumulate: int = 0,
    inputs: Callable[[np.random.Generator, Dims], Arrays] = _draw,
    tolerance: Tolerance | None = None,
) -> Case:
    """A case of a batched product; rows of the operands are brought to multiples of `lanes`."""
    trans_a, trans_b = trans

    def up(size: int, contiguous: bool) -> int:
        return -(-size // lanes) * lanes if contiguous else size

    m, n = up(m, trans_a == 1), up(n, trans_b == 0)
    k = up(k, trans_a == 0 or trans_b == 1)
    dims = {
        "AZ": batch[0],
        "AR": k if trans_a else m,
        "AC": m if trans_a else k,
        "BZ": batch[1],
        "BR": n if trans_b else k,
        "BC": k if trans_b else n,
        "BN": n if bias else 0,
        "L": splits * max(batch),
        "M": m,
        "N": n,
    }
    params = {
        "trans_a": trans_a,
        "trans_b": trans_b,
        "alpha": alpha,
        "activation": ACTIVATIONS.index(activation),
        "accumulate": accumulate,
        "splits": splits,
    }
    return Case(name, dims, inputs, tolerance or product_tolerance(k), params)


def cases(tile_m: int, tile_n: int, lanes: int) -> tuple[Case, ...]:
    """Proofs of a batched product by tiles (strips) of tile_m x tile_n."""

    def make(name: str, m: int, k: int, n: int, **rest: object) -> Case:
        return case(name, m, k, n, lanes=lanes, **rest)  # type: ignore[arg-type]

    exact = Tolerance(0.0, 0.0, "sums of small whole numbers are exact in float32 and float16")
    return (
        make("several tiles, odd", tile_m + 5, 35, tile_n + 3),
        make("a transposed, bias", tile_m + 1, 18, 7, trans=(1, 0), bias=True),
        make("b transposed, batch", 9, 50, tile_n + 1, trans=(0, 1), batch=(3, 3)),
        make("both transposed, onto out", 7, 33, 35, trans=(1, 1), accumulate=1),
        make("exactly one tile", tile_m, 16, tile_n, inputs=_over_nan),
        make("one a for three b", 5, 20, 9, batch=(1, 3), alpha=-0.5, bias=True),
        make("one b for two a", 3, 17, 6, batch=(2, 1), trans=(0, 1), activation="relu"),
        make("three shares of the depth", 11, 70, 13, batch=(2, 2), splits=3, alpha=2.0),
        make("more shares than depths", 4, 9, 5, splits=4, trans=(1, 0)),
        make("one row", 1, 641, 70, trans=(0, 1), activation="gelu", bias=True),
        make("one column", 37, 100, 1, activation="gelu_tanh", bias=True, accumulate=1),
        make("one number", 1, 1, 1, activation="silu"),
        make("no depth", 3, 0, 4, bias=True, accumulate=1, inputs=_draw),
        make("whole numbers, exact", 13, 45, 66, inputs=_whole_numbers, tolerance=exact),
    )
