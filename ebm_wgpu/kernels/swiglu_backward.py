"""The backward of `swiglu`, with s = sigmoid(gate):

grad_up = grad_out gate s,   grad_gate = grad_out up s (1 + gate (1 - s)).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._rows import WG, entries
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Tolerance, Work
from ebm_wgpu.kernels.swiglu import CASE_DIMS, TOLERANCE, silu_gate, swiglu_inputs

_ONE = np.float32(1)


@njit(cache=True, error_model="numpy")
def mirror(gate: Array, up: Array, grad_out: Array, grad_gate: Array, grad_up: Array) -> None:
    """Numba mirror."""
    for row in range(gate.shape[0]):
        for k in range(gate.shape[1]):
            z, back = gate[row, k], grad_out[row, k]
            s = silu_gate(z)
            grad_up[row, k] = back * z * s
            grad_gate[row, k] = back * up[row, k] * s * (_ONE + z * (_ONE - s))


def reference(gate: Array, up: Array, grad_out: Array) -> Arrays:
    """Float64 reference."""
    s = 1 / (1 + np.exp(-gate))
    return {
        "grad_gate": grad_out * up * s * (1 + gate * (1 - s)),
        "grad_up": grad_out * gate * s,
    }


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    return swiglu_inputs(rng, dims) | {"grad_out": normal(rng, dims["R"], dims["N"])}


_SLOPE = Tolerance(
    16 * EPS32, 24 * EPS32, "1 + gate (1 - s) cancels near gate = -1.28, gate s is below 1 there"
)

KERNEL = Kernel(
    stem="swiglu_backward",
    bindings=(
        Binding("gate", "f32", ("R", "N"), half=True),
        Binding("up", "f32", ("R", "N"), half=True),
        Binding("grad_out", "f32", ("R", "N"), half=True),
        Binding("grad_gate", "f32", ("R", "N"), "out", half=True),
        Binding("grad_up", "f32", ("R", "N"), "out", half=True),
    ),
    constants={"WG": WG},
    workgroups=entries("R", "N"),
    mirror=mirror,
    reference=reference,
    cases=tuple(
        Case(name, dims, _inputs, {"grad_gate": _SLOPE, "grad_up": TOLERANCE})
        for name, dims in CASE_DIMS
    ),
    work=lambda dims: Work(20.0 * dims["R"] * dims["N"], 20.0 * dims["R"] * dims["N"]),
    speed_case={"R": 16384, "N": 1728},
)
