"""Truth and inputs of layer_norm, rms_norm and their backwards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._rows import COLUMNS, WG
from ebm_wgpu.kernels.spec import Array, Arrays, Dims, Scalar, Tolerance

EPSILON: dict[str, Scalar] = {"epsilon": 1e-5}
SUM_CONSTANTS = {"WG": WG, "COLUMNS": COLUMNS}
CASES: tuple[tuple[str, Dims, float], ...] = (
    ("odd", {"R": 9, "N": 641}, 0.3),
    ("narrow", {"R": 70, "N": 8}, 0.0),
    ("one row", {"R": 1, "N": 300}, 1.0),
    ("far from zero", {"R": 5, "N": 65}, 100.0),
)
"""Name, dimensions and the mean of the entries, whose deviation is one."""


def exact_layer_norm(x: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """Float64 (x - mean) rstd, mean and rstd of each row."""
    mean = x.mean(1)
    centred = x - mean[:, None]
    rstd = 1 / np.sqrt(np.mean(centred**2, 1) + epsilon)
    return centred * rstd[:, None], mean, rstd


def exact_rms_norm(x: Array, epsilon: float) -> tuple[Array, Array]:
    """Float64 x rstd and rstd of each row."""
    rstd = 1 / np.sqrt(np.mean(x**2, 1) + epsilon)
    return x * rstd[:, None], rstd


def norm_inputs(mean: float) -> Callable[[np.random.Generator, Dims], Arrays]:
    """Draws rows of unit deviation about `mean`, the last one of zeros where there are several."""

    def draw(rng: np.random.Generator, dims: Dims) -> Arrays:
        x = normal(rng, dims["R"], dims["N"]) + np.float32(mean)
        if dims["R"] > 20:
            x[-1] = 0
        return {"x": x, "weight": 1 + normal(rng, dims["N"], scale=0.3)}

    return draw


def backward_inputs(
    mean: float, of_columns: bool, layer: bool
) -> Callable[[np.random.Generator, Dims], Arrays]:
    """Draws what a backward is given: statistics of the rows, and the gradient of the output."""

    def draw(rng: np.random.Generator, dims: Dims) -> Arrays:
        arrays = norm_inputs(mean)(rng, dims)
        arrays["x"][-1] = normal(rng, dims["N"]) + np.float32(mean)
        arrays["grad_out"] = normal(rng, dims["R"], dims["N"])
        exact = arrays["x"].astype(np.float64)
        if layer:
            _, centre, rstd = exact_layer_norm(exact, float(EPSILON["epsilon"]))
            arrays["mean"] = centre.astype(np.float32)
        else:
            rstd = exact_rms_norm(exact, float(EPSILON["epsilon"]))[1]
        arrays["rstd"] = rstd.astype(np.float32)
        if of_columns:
            del arrays["weight"]
        return arrays

    return draw


def row_tolerance(mean: float, count: int) -> Tolerance:
    """Of `count` normalised entries, below 6, and of their gradients."""
    return Tolerance(
        EPS32 * (12 + mean * (1 + 0.5 * count**0.5)),
        8 * EPS32,
        f"entries about {mean:g}, whose float32 sum errs by eps sqrt(N)/2, over a deviation of 1",
    )


def sum_tolerance(mean: float, rows: int) -> Tolerance:
    """Of sums over rows of products of order one."""
    return Tolerance(
        EPS32 * (8 + 2 * mean) * rows**0.5,
        8 * EPS32,
        f"sums of {rows} products of numbers below 6, each rounded",
    )
