"""One step of Adam along geodesics for each row x of unit length, with a second moment a row:

    t <- g - (x.g) x,   m <- m + (1 - b1)(t - m),   v <- b2 v + (1 - b2) |t|^2,
    y = exp_x(-lr / (1 - b1^n) m / (sqrt(v / (1 - b2^n)) + epsilon)),
    m <- m transported from x to y,   x <- y / |y|.

Source: Becigneul and Ganea, "Riemannian Adaptive Optimization Methods" (2019), algorithm 1a, with
the bias correction of Kingma and Ba (2015). `adam_rates` makes the parameters. A move is at
most 8192 radians long.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from ebm_wgpu.kernels._adam import adam_rates
from ebm_wgpu.kernels._cases import EPS32, normal, tangent_rows, unit_rows
from ebm_wgpu.kernels._math import F32, sincos_accurate
from ebm_wgpu.kernels._rows import row_kernel
from ebm_wgpu.kernels._sphere import coordinate_bound, dot
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Param, Tolerance
from ebm_wgpu.sphere import expmap, proju, transp

_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _moved(
    x: Array, grad: Array, mean: Array, mean_rate: F32, keep: F32, share: F32, square: F32
) -> tuple[F32, F32]:
    """Move the momentum of a row; its length, and the second moment."""
    along = dot(x, grad)
    length, rise = _ZERO, _ZERO
    for i in range(x.shape[0]):
        tangent = grad[i] - along * x[i]
        mean[i] += mean_rate * (tangent - mean[i])
        rise += tangent * tangent
        length += mean[i] * mean[i]
    return np.sqrt(length), keep * square + share * rise


@njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _sums(x: Array, mean: Array, cosine: F32, ratio: F32) -> tuple[F32, F32, F32]:
    """1/|y|, and with the middle z = x + y/|y|: m.z and |z|^2."""
    square = _ZERO
    for i in range(x.shape[0]):
        y = cosine * x[i] + ratio * mean[i]
        square += y * y
    scale = _ONE / np.sqrt(square)
    along, total = _ZERO, _ZERO
    for i in range(x.shape[0]):
        middle = x[i] + scale * (cosine * x[i] + ratio * mean[i])
        along += mean[i] * middle
        total += middle * middle
    return scale, along, total


@njit(parallel=True, cache=True, error_model="numpy", fastmath={"contract"})
def mirror(
    x: Array,
    grad: Array,
    mean: Array,
    square: Array,
    step_size: float,
    mean_rate: float,
    square_keep: float,
    square_rate: float,
    square_correction: float,
    epsilon: float,
) -> None:
    """Numba mirror."""
    rates = np.array([mean_rate, square_keep, square_rate], np.float32)
    correction, least = np.float32(square_correction), np.float32(epsilon)
    for row in prange(x.shape[0]):
        length, square[row] = _moved(
            x[row], grad[row], mean[row], rates[0], rates[1], rates[2], square[row]
        )
        rate = -np.float32(step_size) / (np.sqrt(square[row]) * correction + least)
        angle = abs(rate) * length
        sine, cosine = sincos_accurate(angle)
        ratio = rate * (sine / angle if angle > 0 else _ONE)
        scale, along, total = _sums(x[row], mean[row], cosine, ratio)
        factor = _TWO * along / total if total > 0 else _ZERO
        for i in range(x.shape[1]):
            y = scale * (cosine * x[row, i] + ratio * mean[row, i])
            mean[row, i] -= factor * (x[row, i] + y)
            x[row, i] = y


def reference(
    x: Array,
    grad: Array,
    mean: Array,
    square: Array,
    step_size: float,
    mean_rate: float,
    square_keep: float,
    square_rate: float,
    square_correction: float,
    epsilon: float,
) -> Arrays:
    """Float64 reference, by the geometry of `ebm_wgpu.sphere`."""
    tangent = proju(x, grad)
    mean = mean + mean_rate * (tangent - mean)
    square = square_keep * square + square_rate * np.sum(tangent**2, axis=1)
    divisor = np.sqrt(square) * square_correction + epsilon
    moved = expmap(x, -step_size * mean / divisor[:, None])
    # Rows of float32 are of length 1 to rounding only, which the geometry takes for granted.
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    return {"x": moved, "mean": transp(x, moved, mean), "square": square}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    x = unit_rows(rng, dims["B"], dims["D"])
    return {
        "x": x,
        "grad": normal(rng, dims["B"], dims["D"], scale=dims["D"] ** -0.5),
        "mean": tangent_rows(rng, x, 0.3),
        "square": rng.uniform(0.1, 2.0, dims["B"]).astype(np.float32),
    }


def _start(rng: np.random.Generator, dims: Dims) -> Arrays:
    arrays = _inputs(rng, dims)
    arrays["mean"][:] = 0
    arrays["square"][:] = 0
    arrays["grad"][::3] = 0
    return arrays


def _tolerance(d: int, angle: float) -> dict[str, Tolerance]:
    bound = coordinate_bound(d)
    why = "sums over rows are good to 4 eps, and an angle to 4 eps of itself"
    return {
        "x": Tolerance((16 + 8 * angle) * EPS32 * bound, 8 * EPS32, why),
        "mean": Tolerance((16 + 8 * angle) * EPS32 * bound, 8 * EPS32, why),
        "square": Tolerance(0.0, 16 * EPS32, "a sum of positive numbers"),
    }


def _case(name: str, rows: int, d: int, angle: float, step: int = 9, first: bool = False) -> Case:
    params = adam_rates(step, angle, (0.9, 0.95), 1e-8)
    return Case(
        name, {"B": rows, "D": d}, _start if first else _inputs, _tolerance(d, angle), params
    )


KERNEL = row_kernel(
    "riemannian_adam",
    (
        Binding("x", "f32", ("B", "D"), "inout"),
        Binding("grad", "f32", ("B", "D")),
        Binding("mean", "f32", ("B", "D"), "inout"),
        Binding("square", "f32", ("B",), "inout"),
    ),
    mirror,
    reference,
    cases=(
        _case("odd", 7, 641, 0.1),
        _case("d8", 33, 8, 0.02),
        _case("first step, some rows without gradient", 7, 65, 0.1, step=1, first=True),
        _case("far", 5, 130, 3.0),
        _case("no move", 3, 9, 0.0),
    ),
    passes=5,
    reductions=6,
    params=tuple(
        Param(name, "f32")
        for name in (
            *("step_size", "mean_rate", "square_keep"),
            *("square_rate", "square_correction", "epsilon"),
        )
    ),
    workgroup=64,
    cost=(30.0, 20.0),
    speed_case={"B": 65536, "D": 640},
)
