"""The backward of `bias_activation`: grad_x = grad_out f'(x + bias).

`column_sum` of it is the gradient of the bias. With a bias of zeros it is the backward of the
activation that `matmul_tiled` fuses, from what came before the activation.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._rows import WG, entries
from ebm_wgpu.kernels.bias_activation import CASES, activation_inputs, known_activation
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Kernel,
    Param,
    Tolerance,
    Work,
)

_SQRT_HALF, _TWICE_ROOT = math.sqrt(0.5), 2 * math.sqrt(2 / math.pi)
_DENSITY = 1 / math.sqrt(2 * math.pi)


@njit(cache=True, error_model="numpy")
def _slope(x: float, kind: int) -> float:
    if kind == 1:
        return 1.0 if x > 0.0 else 0.0
    if kind == 2:
        return 0.5 * math.erfc(-_SQRT_HALF * x) + x * _DENSITY * math.exp(-0.5 * x * x)
    if kind == 3:
        gate = 1 / (1 + math.exp(-_TWICE_ROOT * (x + 0.044715 * x * x * x)))
        return gate + x * gate * (1 - gate) * _TWICE_ROOT * (1 + 0.134145 * x * x)
    if kind == 4:
        gate = 1 / (1 + math.exp(-x))
        return gate * (1 + x * (1 - gate))
    return 1.0


@njit(cache=True, error_model="numpy")
def mirror(x: Array, bias: Array, grad_out: Array, activation: int, grad_x: Array) -> None:
    """Numba mirror."""
    for row in range(x.shape[0]):
        for k in range(x.shape[1]):
            grad_x[row, k] = grad_out[row, k] * _slope(x[row, k] + bias[k], activation)


def _exact_slope(x: Array, kind: int) -> Array:
    from scipy.special import expit, ndtr

    if kind == 1:
        return (x > 0).astype(np.float64)
    if kind == 2:
        return ndtr(x) + x * np.exp(-(x**2) / 2) * _DENSITY
    if kind == 3:
        gate = expit(_TWICE_ROOT * (x + 0.044715 * x**3))
        return gate + x * gate * (1 - gate) * _TWICE_ROOT * (1 + 0.134145 * x**2)
    if kind == 4:
        return expit(x) * (1 + x * expit(-x))
    return np.ones_like(x)


def reference(x: Array, bias: Array, grad_out: Array, activation: int) -> Arrays:
    """Float64 reference."""
    return {"grad_x": grad_out * _exact_slope(x + bias, activation)}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    return activation_inputs(rng, dims) | {"grad_out": normal(rng, dims["R"], dims["N"])}


_TOLERANCE = Tolerance(
    16 * EPS32,
    8 * EPS32,
    "1 - gate errs by eps/2, times 1.6 x (1 + 0.13 x^2) < 12 where it is not nearly 0, times 4",
)

KERNEL = Kernel(
    stem="bias_activation_backward",
    bindings=(
        Binding("x", "f32", ("R", "N"), half=True),
        Binding("bias", "f32", ("N",), half=True),
        Binding("grad_out", "f32", ("R", "N"), half=True),
        Binding("grad_x", "f32", ("R", "N"), "out", half=True),
    ),
    params=(Param("activation", "u32"),),
    constants={"WG": WG},
    workgroups=entries("R", "N"),
    derive=known_activation,
    mirror=mirror,
    reference=reference,
    cases=tuple(Case(name, dims, _inputs, _TOLERANCE, params) for name, dims, params in CASES),
    work=lambda dims: Work(40.0 * dims["R"] * dims["N"], 12.0 * dims["R"] * dims["N"]),
    speed_case={"R": 16384, "N": 2560},
)
