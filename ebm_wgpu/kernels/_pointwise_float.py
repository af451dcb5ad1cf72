"""The pointwise operators that compute in float32, one row each.

A row gives the WGSL expression of an entry and the NumPy function of whole arrays. NumPy in float32
is the family's mirror, since one ufunc already is the processor's own loop, and NumPy in float64
its reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from ebm_wgpu.kernels._pointwise_activations import ACTIVATIONS
from ebm_wgpu.kernels._pointwise_operator import (
    COMPARISONS,
    Operator,
    integers,
    normal,
    spread,
    ties,
    truth,
    unary,
    uniform,
)
from ebm_wgpu.kernels.spec import Array

_AWAY = uniform(0.5, 3.0)
_DIVISIONS = (
    *((1.0, 0.1), (-1.0, 0.1), (6.0, -0.1), (7.5, 2.5), (-7.5, 2.0), (1e7, 3.0), (3.0, 1e7)),
    *((5.0, np.inf), (-5.0, np.inf), (np.inf, 2.0), (3.0, 0.0), (np.nan, 1.0), (1.0, np.nan)),
)
_DOWN = "rest != 0.0 && (rest < 0.0) != (b < 0.0)"
_NAN_PAIRS = ((1.0, np.nan), (np.nan, 1.0), (np.inf, -np.inf), (-np.inf, 2.0))


def _power(a: Array, b: Array | float) -> Array:
    return np.power(a, np.asarray(b, a.dtype))


def _lerp(a: Array, b: Array, weight: Any) -> Array:
    return np.where(np.abs(weight) < 0.5, a + weight * (b - a), b - (b - a) * (1 - weight))


def _added(combine: Callable[[Any, Any], Array]) -> Callable[..., Array]:
    return lambda a, b, c, value: a + combine(value * b, c)


_LERP = "return select(b - (b - a) * (1.0 - {0}), a + {0} * (b - a), abs({0}) < 0.5);"
_ADDED = {"alpha": 0.75}

FLOATING: tuple[Operator, ...] = (
    Operator("fill", "value", lambda value: np.asarray(value), (), {"value": -2.5}, ulps=0),
    Operator(
        "arange",
        "start + f32(i) * step",
        lambda start, step, i: start + i * step,
        (),
        {"start": 0.5, "step": 0.25},
    ),
    unary("copy", "a", lambda a: a, ulps=0, edges=((np.inf,), (np.nan,), (-0.0,))),
    unary("to_bool", "u32(a != 0.0)", lambda a: a != 0, result="u32", draw=ties),
    Operator(
        "add",
        "a + alpha * b",
        lambda a, b, alpha: a + alpha * b,
        (normal(), normal()),
        _ADDED,
        scale=4.0,
        edges=_NAN_PAIRS,
        scalar_operand=True,
    ),
    Operator("mul", "a * b", np.multiply, (normal(), normal()), scalar_operand=True),
    Operator("div", "a / b", np.divide, (normal(), _AWAY), scalar_operand=True, edges=((1, 0),)),
    Operator(
        "trunc_divide",
        "trunc(a / b)",
        lambda a, b: np.trunc(a / b),
        (integers(-50, 50), integers(1, 9)),
        ulps=0,
        scalar_operand=True,
    ),
    *(
        Operator(
            name,
            f"let rest = fmod_exact(a, b); {result}",
            function,
            (normal(4.0), _AWAY),
            needs=("REMAINDER",),
            ulps=ulps,
            scalar_operand=True,
            edges=_DIVISIONS,
        )
        for name, result, function, ulps in (
            ("fmod", "return rest;", np.fmod, 0),
            ("remainder", f"return select(rest, rest + b, {_DOWN});", np.mod, 1),
            (
                "floor_divide",
                f"let whole = round((a - rest) / b) - select(0.0, 1.0, {_DOWN});"
                " return select(whole, a / b, b == 0.0);",
                np.floor_divide,
                0,
            ),
        )
    ),
    Operator(
        "pow",
        "pow_accurate(a, b)",
        _power,
        (uniform(0.05, 9.0), uniform(-4.0, 4.0)),
        needs=("SPECIAL",),
        ulps=16,
        edges=(
            (-2, 3),
            (-2, 2),
            (-2, 0.5),
            (0, 0),
            (0, 2),
            (0, -1),
            (3, 0.5),
            (np.nan, 0),
            (1, np.nan),
        ),
        scalar_operand=True,
    ),
    *(
        Operator(
            f"{which}imum",
            f"{which}_or_nan(a, b)",
            function,
            (normal(), normal()),
            needs=("FLOATS",),
            ulps=0,
            edges=_NAN_PAIRS,
            scalar_operand=True,
        )
        for which, function in (("max", np.maximum), ("min", np.minimum))
    ),
    *(
        Operator(
            name,
            # SPIR-V's test for "unequal" is false of NaN.
            "u32(!(a == b))" if name == "ne" else f"u32(a {sign} b)",
            function,
            (ties, ties),
            result="u32",
            scalar_operand=True,
            edges=((np.inf, np.inf), (1, np.inf), (np.nan, 1), (np.nan, np.nan)),
        )
        for name, sign, function in COMPARISONS
    ),
    Operator(
        "where",
        "select(c, b, a != 0.0)",
        lambda a, b, c: np.where(a != 0, b, c),
        (truth, normal(), normal()),
        ulps=0,
    ),
    Operator(
        "masked_fill",
        "select(a, value, b != 0.0)",
        lambda a, b, value: np.where(b != 0, np.asarray(value, a.dtype), a),
        (normal(), truth),
        {"value": -np.inf},
        ulps=0,
    ),
    Operator(
        "clamp",
        "select(min(max(a, low), high), a, is_nan(a))",
        lambda a, low, high: np.minimum(np.maximum(a, low), high),
        (normal(2.0),),
        {"low": -1.0, "high": 1.5},
        needs=("FLOATS",),
        ulps=0,
        edges=((np.nan,), (np.inf,)),
    ),
    *(
        Operator(
            f"addc{name}",
            f"a + value * b {sign} c",
            _added(function),
            (normal(), normal(), draw),
            {"value": 0.5},
            scale=8.0,
        )
        for name, sign, function, draw in (
            ("mul", "*", np.multiply, normal()),
            ("div", "/", np.divide, _AWAY),
        )
    ),
    Operator("lerp", _LERP.format("c"), _lerp, (normal(), normal(), uniform(-1, 2)), scale=16.0),
    Operator(
        "lerp_scalar",
        _LERP.format("weight"),
        _lerp,
        (normal(), normal()),
        {"weight": 0.75},
        scale=16.0,
    ),
    unary("neg", "-a", np.negative, ulps=0),
    unary("sign", "sign(a)", np.sign, draw=ties, ulps=0),
    *(
        unary(name, f"{name}(a)", function, ulps=0)
        for name, function in (
            ("abs", np.abs),
            ("floor", np.floor),
            ("ceil", np.ceil),
            ("trunc", np.trunc),
        )
    ),
    unary("round", "round(a)", np.round, ulps=0, edges=((0.5,), (1.5,), (-2.5,))),
    unary(
        "isnan",
        "u32(is_nan(a))",
        np.isnan,
        result="u32",
        needs=("FLOATS",),
        edges=((np.nan,), (np.inf,)),
    ),
    unary("logical_not", "u32(a == 0.0)", lambda a: a == 0, result="u32", draw=ties),
    unary("sqrt", "sqrt(a)", np.sqrt, draw=spread(-6, 6), edges=((0.0,), (-1.0,))),
    unary("rsqrt", "inverseSqrt(a)", lambda a: 1 / np.sqrt(a), draw=spread(-6, 6), ulps=8),
    unary("reciprocal", "1.0 / a", np.reciprocal, draw=spread(-6, 6)),
    unary(
        "exp",
        "exp_accurate(a)",
        np.exp,
        draw=normal(8.0),
        needs=("MATH",),
        ulps=8,
        edges=((-np.inf,), (0.0,), (np.nan,)),
    ),
    unary("exp_two", "exp_accurate(a * 0.693147181)", np.exp2, needs=("MATH",), ulps=16),
    unary("expm_one", "expm1_accurate(a)", np.expm1, draw=normal(0.5), needs=("MATH",), ulps=8),
    unary(
        "log",
        "log_accurate(a)",
        np.log,
        draw=spread(-6, 6),
        needs=("MATH",),
        ulps=8,
        edges=((0.0,), (1.0,), (np.inf,)),
    ),
    *(
        unary(
            f"log_{base}",
            f"log_accurate(a) * {factor}",
            function,
            draw=spread(-6, 6),
            needs=("MATH",),
            ulps=8,
        )
        for base, factor, function in (
            ("two", "1.44269504", np.log2),
            ("ten", "0.434294482", np.log10),
        )
    ),
    unary(
        "log_onep", "log1p_accurate(a)", np.log1p, draw=uniform(-0.9, 3), needs=("MATH",), ulps=8
    ),
    *(
        unary(
            name,
            f"select({name}(a), sincos_accurate(a).{lane}, abs(a) <= 8192.0)",
            function,
            draw=normal(20.0),
            needs=("MATH",),
            scale=1.0,
        )
        for name, lane, function in (("sin", "x", np.sin), ("cos", "y", np.cos))
    ),
    unary(
        "tanh",
        "tanh_accurate(a)",
        np.tanh,
        needs=("SPECIAL",),
        ulps=8,
        edges=((0.0,), (-np.inf,), (1e-20,), (50.0,)),
    ),
    unary(
        "sigmoid",
        "sigmoid(a)",
        special.expit,
        needs=("SPECIAL",),
        ulps=8,
        edges=((-np.inf,), (np.inf,), (-50.0,)),
    ),
    unary(
        "erf",
        "erf_accurate(a)",
        special.erf,
        needs=("SPECIAL",),
        ulps=8,
        edges=((0.0,), (1.0,), (-np.inf,), (1e-20,)),
    ),
    unary("erfc", "erfc_accurate(a)", special.erfc, needs=("SPECIAL",), ulps=32, scale=0.1),
    Operator(
        "logaddexp",
        "let sum = max_or_nan(a, b) + log1p_accurate(exp(-abs(a - b)));"
        " return select(sum, a, a == b && abs(a) > 3.4e38);",
        np.logaddexp,
        (normal(3.0), normal(3.0)),
        needs=("MATH", "FLOATS"),
        ulps=4,
        scale=4.0,
        edges=(*_NAN_PAIRS, (-np.inf, -np.inf), (np.inf, np.inf), (3.0, 3.0), (80.0, -90.0)),
    ),
    *ACTIVATIONS,
)
