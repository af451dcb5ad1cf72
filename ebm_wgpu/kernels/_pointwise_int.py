"""The pointwise operators that compute in 32-bit whole numbers, one row each; names end in _int."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ebm_wgpu.kernels._pointwise_operator import COMPARISONS, Operator, integers, truth
from ebm_wgpu.kernels.spec import Array

_SMALL = (integers(-30, 30), integers(-30, 30))


def _int(name: str, wgsl: str, function: Callable[..., Any], **more: Any) -> Operator:
    draws = more.pop("draws", _SMALL)
    return Operator(f"{name}_int", wgsl, function, draws, compute="i32", ulps=0, **more)


def _place(a: Array, b: Array, size: int, step: int) -> Array:
    """Offset a plus that of index b, which counts from `size` if negative; -2^31 for none."""
    at = np.where(b < 0, b + size, b)
    return np.where((a < 0) | (at < 0) | (at >= size), -(2**31), a + at * step)


def _power(a: Array, b: Array) -> Array:
    """a ** b, whose negative powers are rounded towards zero."""
    inverse = np.where(a == 1, 1, np.where(a == -1, 1 - 2 * (b & 1), 0))
    return np.where(b < 0, inverse, np.power(a, np.maximum(b, 0)))


INTEGER: tuple[Operator, ...] = (
    _int("fill", "value", lambda value: np.asarray(value), draws=(), scalars={"value": -7}),
    _int(
        "arange",
        "start + i32(i) * step",
        lambda start, step, i: start + i * step,
        draws=(),
        scalars={"start": -3, "step": 2},
    ),
    _int("copy", "a", lambda a: a, draws=_SMALL[:1]),
    _int("to_bool", "u32(a != 0)", lambda a: a != 0, draws=(integers(-1, 2),), result="u32"),
    _int(
        "add",
        "a + alpha * b",
        lambda a, b, alpha: a + alpha * b,
        scalars={"alpha": 3},
        scalar_operand=True,
    ),
    _int("mul", "a * b", np.multiply, scalar_operand=True),
    _int(
        "floor_divide",
        "let whole = a / b; return whole - select(0, 1, a % b != 0 && (a < 0) != (b < 0));",
        np.floor_divide,
        draws=(_SMALL[0], integers(1, 9)),
        scalar_operand=True,
    ),
    _int(
        "trunc_divide",
        "a / b",
        lambda a, b: (np.sign(a) * (np.abs(a) // b)).astype(np.int32),
        draws=(_SMALL[0], integers(1, 9)),
        scalar_operand=True,
    ),
    _int(
        "remainder",
        "let rest = a % b; return rest + select(0, b, rest != 0 && (rest < 0) != (b < 0));",
        np.mod,
        draws=(_SMALL[0], integers(1, 9)),
        scalar_operand=True,
    ),
    _int(
        "fmod",
        "a % b",
        np.fmod,
        draws=(_SMALL[0], integers(1, 9)),
        scalar_operand=True,
    ),
    _int(
        "pow",
        "if (b < 0) { return select(i32(a == 1), 1 - 2 * (b & 1), a == -1); }"
        " var result = 1; var square = a; var left = u32(b);"
        " while (left > 0u) { if ((left & 1u) == 1u) { result *= square; }"
        " square *= square; left >>= 1u; }"
        " return result;",
        _power,
        draws=(integers(-5, 6), integers(-4, 10)),
        scalar_operand=True,
    ),
    _int(
        "addcmul",
        "a + value * b * c",
        lambda a, b, c, value: a + value * b * c,
        draws=(*_SMALL, _SMALL[0]),
        scalars={"value": 3},
    ),
    _int("maximum", "max(a, b)", np.maximum, scalar_operand=True),
    _int("minimum", "min(a, b)", np.minimum, scalar_operand=True),
    _int("bitwise_and", "a & b", np.bitwise_and, scalar_operand=True),
    _int("bitwise_or", "a | b", np.bitwise_or, scalar_operand=True),
    _int("bitwise_xor", "a ^ b", np.bitwise_xor, scalar_operand=True),
    *(
        _int(
            name,
            f"u32(a {sign} b)",
            function,
            result="u32",
            scalar_operand=True,
            draws=(integers(-2, 3), integers(-2, 3)),
        )
        for name, sign, function in COMPARISONS
    ),
    _int(
        "where",
        "select(c, b, a != 0)",
        lambda a, b, c: np.where(a != 0, b, c),
        draws=(truth, *_SMALL),
    ),
    _int(
        "masked_fill",
        "select(a, value, b != 0)",
        lambda a, b, value: np.where(b != 0, value, a),
        draws=(_SMALL[0], truth),
        scalars={"value": -100},
    ),
    _int(
        "clamp",
        "min(max(a, low), high)",
        lambda a, low, high: np.minimum(np.maximum(a, low), high),
        draws=_SMALL[:1],
        scalars={"low": -5, "high": 9},
    ),
    _int(
        "place",
        "let at = select(b, b + size, b < 0);"
        " return select(a + at * step, -2147483647 - 1, a < 0 || at < 0 || at >= size);",
        _place,
        draws=(integers(-2, 30), integers(-25, 25)),
        scalars={"size": 20, "step": 3},
    ),
    _int("neg", "-a", np.negative, draws=_SMALL[:1]),
    _int("abs", "abs(a)", np.abs, draws=_SMALL[:1]),
    _int("sign", "sign(a)", np.sign, draws=_SMALL[:1]),
    _int("bitwise_not", "~a", np.invert, draws=_SMALL[:1]),
    _int("logical_not", "u32(a == 0)", lambda a: a == 0, draws=(integers(-1, 2),), result="u32"),
)
