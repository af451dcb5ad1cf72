"""The backward of `swiglu_backward`: gradients of pull . grad_x, pull = [p_gate | p_up].

With f(z) = silu(z) = z s, s = sigmoid(z), of which f' = s (1 + z (1 - s)) and
f'' = s (1 - s)(2 + z (1 - 2 s)):

    grad_x = grad_out [p_gate up f'' + p_up f' | p_gate f'],   grad_grad = p_gate up f' + p_up f,

all of them at the gate. Energies that are descended in training are differentiated twice.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._rows import WG, entries
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Tolerance, Work
from ebm_wgpu.kernels.swiglu import CASE_DIMS, SPEED_CASE, silu_gate, swiglu_inputs, two_halves

_ONE, _TWO = np.float32(1), np.float32(2)


@njit(cache=True, error_model="numpy")
def mirror(x: Array, grad_out: Array, pull: Array, grad_x: Array, grad_grad: Array) -> None:
    """Numba mirror."""
    width = grad_out.shape[1]
    for row in range(x.shape[0]):
        for k in range(width):
            z, up, back = x[row, k], x[row, width + k], grad_out[row, k]
            to_gate, to_up = pull[row, k], pull[row, width + k]
            s = silu_gate(z)
            slope = s * (_ONE + z * (_ONE - s))
            bend = s * (_ONE - s) * (_TWO + z * (_ONE - _TWO * s))
            grad_x[row, k] = back * (to_gate * up * bend + to_up * slope)
            grad_x[row, width + k] = back * to_gate * slope
            grad_grad[row, k] = to_gate * up * slope + to_up * z * s


def reference(x: Array, grad_out: Array, pull: Array) -> Arrays:
    """Float64 reference."""
    (gate, up), (to_gate, to_up) = (np.split(rows, 2, axis=1) for rows in (x, pull))
    s = 1 / (1 + np.exp(-gate))
    slope = s * (1 + gate * (1 - s))
    bend = s * (1 - s) * (2 + gate * (1 - 2 * s))
    parts = (to_gate * up * bend + to_up * slope, to_gate * slope)
    return {
        "grad_x": np.concatenate([grad_out * part for part in parts], axis=1),
        "grad_grad": to_gate * up * slope + to_up * gate * s,
    }


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    grad_out, pull = (normal(rng, dims["R"], dims[width]) for width in "NM")
    return swiglu_inputs(rng, dims) | {"grad_out": grad_out, "pull": pull}


_TOLERANCE = Tolerance(
    128 * EPS32, 24 * EPS32, "two terms of size 10 at most, each exact to 24 units, may cancel"
)

KERNEL = Kernel(
    stem="swiglu_double_backward",
    bindings=(
        Binding("x", "f32", ("R", "M"), half=True),
        Binding("grad_out", "f32", ("R", "N"), half=True),
        Binding("pull", "f32", ("R", "M"), half=True),
        Binding("grad_x", "f32", ("R", "M"), "out", half=True),
        Binding("grad_grad", "f32", ("R", "N"), "out", half=True),
    ),
    constants={"WG": WG},
    workgroups=entries("R", "N"),
    derive=two_halves,
    mirror=mirror,
    reference=reference,
    cases=tuple(Case(name, dims, _inputs, _TOLERANCE) for name, dims in CASE_DIMS),
    work=lambda dims: Work(30.0 * dims["R"] * dims["N"], 32.0 * dims["R"] * dims["N"]),
    speed_case=SPEED_CASE,
)
