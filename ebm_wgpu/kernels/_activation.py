"""Activations by number, the twins of wgsl/lib/activation.wgsl."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels.spec import Array

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")
"""Names in the order of their numbers. gelu(x) = x Phi(x); gelu_tanh is its tanh form (Hendrycks
and Gimpel 2016); silu(x) = x / (1 + exp(-x))."""

_SQRT_HALF, _SQRT_2_OVER_PI = math.sqrt(0.5), math.sqrt(2 / math.pi)


def activation_number(name: str) -> int:
    """The number of an activation.

    Raises:
        KernelError: there is none of that name.
    """
    if name not in ACTIVATIONS:
        raise KernelError(f"no activation is called {name!r}; choose {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS.index(name)


@njit(cache=True, error_model="numpy")
def activate(x: Any, kind: int) -> Any:
    """One value, in float64."""
    if kind == 1:
        return x if x > 0.0 or x != x else 0.0
    if kind == 2:
        return 0.5 * x * math.erfc(-_SQRT_HALF * x)
    if kind == 3:
        return 0.5 * x * (1.0 + math.tanh(_SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)))
    if kind == 4:
        return x / (1.0 + math.exp(-x))
    return x


def activate_reference(x: Array, kind: int) -> Array:
    """Float64 reference of a whole array."""
    from scipy.special import expit, ndtr

    if kind == 1:
        return np.maximum(x, 0.0)
    if kind == 2:
        return x * ndtr(x)
    if kind == 3:
        return x * expit(2.0 * _SQRT_2_OVER_PI * (x + 0.044715 * x**3))
    return x * expit(x) if kind == 4 else x
