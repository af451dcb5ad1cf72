"""out[r] = softmax(x[r]) = exp(x[r] - logsumexp x[r]), over the last axis.

An entry of -inf has no share; a row of nothing else gives NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._readout import row_max, row_sum, shares
from ebm_wgpu.kernels._rows import WG
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


@njit(cache=True, error_model="numpy")
def mirror(x: Array, out: Array) -> None:
    """Numba mirror."""
    for row in range(x.shape[0]):
        shares(x[row], row_max(x[row]), out[row])
        scale = np.float32(1) / row_sum(out[row])
        for k in range(x.shape[1]):
            out[row, k] *= scale


def exact_softmax(x: Array) -> Array:
    """Float64 softmax of each row."""
    shifted = np.exp(x - x.max(1, keepdims=True))
    result: Array = shifted / shifted.sum(1, keepdims=True)
    return result


def reference(x: Array) -> Arrays:
    """Float64 reference."""
    return {"out": exact_softmax(x)}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    y = run("softmax", **inputs)["out"]
    return {"x": run("softmax_backward", y=y, grad_out=cotangents["out"])["grad_x"]}


def row_inputs(scale: float, masked: bool = False) -> Callable[[np.random.Generator, Dims], Arrays]:
    """Draws rows of the given standard deviation, with some entries -inf if masked."""

    def draw(rng: np.random.Generator, dims: Dims) -> Arrays:
        x = normal(rng, dims["R"], dims["N"], scale=scale)
        if masked:
            hidden = rng.random(x.shape) < 0.3
            hidden[:, -1] = False
            x[hidden] = -np.inf
        return {"x": x}

    return draw


CASES = (
    ("odd", {"R": 9, "N": 601}, 2.0, False),
    ("one column", {"R": 4, "N": 1}, 1.0, False),
    ("one row", {"R": 1, "N": 70}, 1.0, False),
    ("far apart", {"R": 17, "N": 65}, 30.0, False),
    ("masked", {"R": 5, "N": 300}, 2.0, True),
)
SMOOTH = ("odd", "one row", "far apart")
"""Cases whose gradient is not zero and has no infinite entry."""


def _case(name: str, dims: Dims, scale: float, masked: bool) -> Case:
    tolerance = Tolerance(
        1e-36,
        EPS32 * (8 + 8 * scale),
        f"differences of numbers up to {5 * scale:g}, rounded, are the errors of logarithms",
    )
    return Case(name, dims, row_inputs(scale, masked), tolerance)


KERNEL = Kernel(
    stem="softmax",
    bindings=(
        Binding("x", "f32", ("R", "N"), half=True),
        Binding("out", "f32", ("R", "N"), "out", half=True),
    ),
    constants={"WG": WG},
    workgroups=lambda dims, params: dims["R"],
    mirror=mirror,
    reference=reference,
    rounds=_rounds.row_passes("N", 2, 2, WG),
    subgroup=True,
    cases=tuple(_case(*case) for case in CASES),
    gradient=Gradient(
        wrt=("x",),
        vjp=_vjp,
        outputs=("out",),
        tolerance=Tolerance(2e-5, 2e-5, "entries up to 150 leave shares exact to 2e-5"),
        cases=SMOOTH,
    ),
    work=lambda dims: Work(40.0 * dims["R"] * dims["N"], 8.0 * dims["R"] * dims["N"]),
    speed_case={"R": 16384, "N": 1024},
)
