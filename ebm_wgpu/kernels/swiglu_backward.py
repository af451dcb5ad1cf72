"""The backward of `swiglu`, grad_x = [grad_gate | grad_up], with s = sigmoid(gate):

grad_gate = grad_out up s (1 + gate (1 - s)),   grad_up = grad_out gate s.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._rows import WG, entries
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
from ebm_wgpu.kernels.swiglu import CASE_DIMS, SPEED_CASE, silu_gate, swiglu_inputs, two_halves

_ONE = np.float32(1)


@njit(cache=True, error_model="numpy")
def mirror(x: Array, grad_out: Array, grad_x: Array) -> None:
    """Numba mirror."""
    width = grad_out.shape[1]
    for row in range(x.shape[0]):
        for k in range(width):
            z, back = x[row, k], grad_out[row, k]
            s = silu_gate(z)
            grad_x[row, k] = back * x[row, width + k] * s * (_ONE + z * (_ONE - s))
            grad_x[row, width + k] = back * z * s


def reference(x: Array, grad_out: Array) -> Arrays:
    """Float64 reference."""
    gate, up = np.split(x, 2, axis=1)
    s = 1 / (1 + np.exp(-gate))
    slopes = (up * s * (1 + gate * (1 - s)), gate * s)
    return {"grad_x": np.concatenate([grad_out * slope for slope in slopes], axis=1)}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    gradients = run("swiglu_double_backward", **inputs, pull=cotangents["grad_x"])
    return {"x": gradients["grad_x"], "grad_out": gradients["grad_grad"]}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    return swiglu_inputs(rng, dims) | {"grad_out": normal(rng, dims["R"], dims["N"])}


_TOLERANCE = Tolerance(
    16 * EPS32, 24 * EPS32, "1 + gate (1 - s) cancels near gate = -1.28, gate s is below 1 there"
)

KERNEL = Kernel(
    stem="swiglu_backward",
    bindings=(
        Binding("x", "f32", ("R", "M"), half=True),
        Binding("grad_out", "f32", ("R", "N"), half=True),
        Binding("grad_x", "f32", ("R", "M"), "out", half=True),
    ),
    constants={"WG": WG},
    workgroups=entries("R", "N"),
    derive=two_halves,
    mirror=mirror,
    reference=reference,
    cases=tuple(Case(name, dims, _inputs, _TOLERANCE) for name, dims in CASE_DIMS),
    gradient=Gradient(
        wrt=("x", "grad_out"),
        vjp=_vjp,
        outputs=("grad_x",),
        tolerance=Tolerance(2e-6, 1e-5, "a few float32 roundings"),
    ),
    work=lambda dims: Work(20.0 * dims["R"] * dims["N"], 20.0 * dims["R"] * dims["N"]),
    speed_case=SPEED_CASE,
)
