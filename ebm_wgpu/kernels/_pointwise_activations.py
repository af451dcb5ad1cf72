"""Rows of `_pointwise_float` for activations of neural networks, and their slopes."""

from __future__ import annotations

import numpy as np
from scipy import special

from ebm_wgpu.kernels._pointwise_operator import Operator, normal, unary, uniform
from ebm_wgpu.kernels.spec import Array

TAU = 0.7978845608028654  # sqrt(2 / pi)

_ELU = {"below": 1.5, "above": 1.25, "rate": 0.5}


def _gelu(a: Array) -> Array:
    return 0.5 * a * special.erfc(-a * a.dtype.type(0.5**0.5))


def _gelu_backward(a: Array, b: Array) -> Array:
    half = a.dtype.type(0.5)
    gate = half * special.erfc(-b * b.dtype.type(0.5**0.5))
    return a * (gate + b * np.exp(-half * b * b) * (TAU / 2))


def _tanh_gate(a: Array) -> Array:
    return special.expit(2 * TAU * (a + 0.044715 * a**3))


def _gelu_tanh_backward(a: Array, b: Array) -> Array:
    gate = _tanh_gate(b)
    return a * (gate + b * gate * (1 - gate) * 2 * TAU * (1 + 0.134145 * b * b))


def _silu_backward(a: Array, b: Array) -> Array:
    gate = special.expit(b)
    return a * gate * (1 + b * (1 - gate))


ACTIVATIONS: tuple[Operator, ...] = (
    unary(
        "relu",
        "select(max(a, 0.0), a, is_nan(a))",
        lambda a: np.maximum(a, 0),
        needs=("FLOATS",),
        ulps=0,
        edges=((np.nan,),),
    ),
    unary(
        "gelu",
        "0.5 * a * erfc_accurate(-0.707106781 * a)",
        _gelu,
        needs=("SPECIAL",),
        ulps=32,
        scale=1.0,
    ),
    unary(
        "gelu_tanh",
        "a * sigmoid(1.5957691216 * (a + 0.044715 * a * a * a))",
        lambda a: a * _tanh_gate(a),
        needs=("SPECIAL",),
        ulps=32,
        scale=1.0,
    ),
    unary("silu", "a * sigmoid(a)", lambda a: a * special.expit(a), needs=("SPECIAL",), ulps=8),
    unary(
        "leaky_relu",
        "select(slope * a, a, a > 0.0)",
        lambda a, slope: np.where(a > 0, a, slope * a),
        scalars={"slope": 0.125},
        ulps=1,
        edges=((np.nan,), (-np.inf,)),
    ),
    unary(
        "elu",
        "select(below * expm1_accurate(a * rate), a * above, a > 0.0)",
        lambda a, below, above, rate: np.where(a > 0, a * above, below * np.expm1(a * rate)),
        scalars=_ELU,
        needs=("MATH",),
        ulps=8,
        edges=((np.nan,), (0.0,), (-100.0,)),
    ),
    Operator(
        "sigmoid_backward",
        "a * b * (1.0 - b)",
        lambda a, b: a * b * (1 - b),
        (normal(), uniform(0, 1)),
        scale=1.0,
    ),
    Operator(
        "tanh_backward",
        "a * (1.0 - b * b)",
        lambda a, b: a * (1 - b * b),
        (normal(), uniform(-1, 1)),
        scale=4.0,
    ),
    Operator(
        "threshold_backward",
        "select(0.0, a, b > threshold)",
        lambda a, b, threshold: np.where(b <= threshold, 0, a),
        (normal(), normal()),
        {"threshold": 0.25},
        ulps=0,
    ),
    Operator(
        "leaky_relu_backward",
        "select(slope * a, a, b > 0.0)",
        lambda a, b, slope: np.where(b > 0, a, slope * a),
        (normal(), normal()),
        {"slope": 0.125},
        ulps=1,
    ),
    Operator(
        "elu_backward",
        "a * select(below * rate * exp_accurate(b * rate), above, b > 0.0)",
        lambda a, b, below, above, rate: (
            a * np.where(b > 0, above, below * rate * np.exp(b * rate))
        ),
        (normal(), normal()),
        _ELU,
        needs=("MATH",),
        ulps=8,
    ),
    Operator(
        "elu_backward_of_result",
        "a * select(rate * (b + below), above, b > 0.0)",
        lambda a, b, below, above, rate: a * np.where(b > 0, above, rate * (b + below)),
        (normal(), uniform(-1.5, 1.5)),
        _ELU,
        scale=2.0,
    ),
    Operator(
        "hardtanh_backward",
        "select(0.0, a, b > low && b < high)",
        lambda a, b, low, high: np.where((b <= low) | (b >= high), 0, a),
        (normal(), normal(2.0)),
        {"low": -1.0, "high": 1.5},
        ulps=0,
    ),
    Operator(
        "gelu_backward",
        "a * (0.5 * erfc_accurate(-0.707106781 * b) + b * exp_accurate(-0.5 * b * b)"
        " * 0.398942280)",
        _gelu_backward,
        (normal(), normal(2.0)),
        needs=("SPECIAL",),
        ulps=32,
        scale=4.0,
    ),
    Operator(
        "gelu_tanh_backward",
        "let gate = sigmoid(1.5957691216 * (b + 0.044715 * b * b * b));"
        " return a * (gate + b * gate * (1.0 - gate) * 1.5957691216"
        " * (1.0 + 0.134145 * b * b));",
        _gelu_tanh_backward,
        (normal(), normal(2.0)),
        needs=("SPECIAL",),
        ulps=32,
        scale=4.0,
    ),
    Operator(
        "silu_backward",
        "let gate = sigmoid(b); return a * gate * (1.0 + b * (1.0 - gate));",
        _silu_backward,
        (normal(), normal(2.0)),
        needs=("SPECIAL",),
        ulps=8,
        scale=4.0,
    ),
)
