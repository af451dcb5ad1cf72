"""The backward of `gated_log_p`, with r = sigmoid(gate + b - a), the share of the second predictor:

grad_a = (1 - r) grad_out,   grad_b = r grad_out,   grad_gate = (r - sigmoid(gate)) grad_out.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._rows import WG, entries
from ebm_wgpu.kernels.gated_log_p import CASE_DIMS, gated_inputs
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Tolerance, Work
from ebm_wgpu.kernels.swiglu import silu_gate

_ZERO, _MUTE = np.float32(0), np.float32(-80)


@njit(cache=True, error_model="numpy")
def mirror(
    a: Array,
    b: Array,
    gate: Array,
    grad_out: Array,
    grad_a: Array,
    grad_b: Array,
    grad_gate: Array,
) -> None:
    """Numba mirror."""
    for i in range(grad_out.shape[0]):
        ahead = gate[i] + (b[i] - a[i])
        # The gradient of a predictor that is mute is 0 and not merely small.
        share = silu_gate(ahead) if ahead > _MUTE else _ZERO
        grad_a[i] = silu_gate(-ahead) * grad_out[i]
        grad_b[i] = share * grad_out[i]
        grad_gate[i] = (share - silu_gate(gate[i])) * grad_out[i]


def reference(a: Array, b: Array, gate: Array, grad_out: Array) -> Arrays:
    """Float64 reference."""
    share, opened = (np.exp(-np.logaddexp(0, -z)) for z in (gate + b - a, gate))
    return {
        "grad_a": (1 - share) * grad_out,
        "grad_b": share * grad_out,
        "grad_gate": (share - opened) * grad_out,
    }


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    return gated_inputs(rng, dims) | {"grad_out": normal(rng, dims["N"])}


KERNEL = Kernel(
    stem="gated_log_p_backward",
    bindings=(
        Binding("a", "f32", ("N",)),
        Binding("b", "f32", ("N",)),
        Binding("gate", "f32", ("N",)),
        Binding("grad_out", "f32", ("N",)),
        Binding("grad_a", "f32", ("N",), "out"),
        Binding("grad_b", "f32", ("N",), "out"),
        Binding("grad_gate", "f32", ("N",), "out"),
    ),
    constants={"WG": WG},
    workgroups=entries("N"),
    mirror=mirror,
    reference=reference,
    cases=tuple(
        Case(
            name,
            dims,
            _inputs,
            Tolerance(
                64 * EPS32,
                64 * EPS32,
                "shares of exp of a difference up to 60, which is rounded as such a number is",
            ),
        )
        for name, dims in CASE_DIMS
    ),
    work=lambda dims: Work(60.0 * dims["N"], 28.0 * dims["N"]),
    speed_case={"N": 16_777_216},
)
