"""What a row of the pointwise tables says, and how its operands are drawn for the case table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ebm_wgpu.kernels.spec import Array, Scalar

Draw = Callable[[np.random.Generator, int], Array]


def normal(scale: float = 1.0) -> Draw:
    """Normal entries of the given size."""
    return lambda rng, n: (scale * rng.standard_normal(n)).astype(np.float32)


def uniform(low: float, high: float) -> Draw:
    """Entries evenly spread over an interval."""
    return lambda rng, n: rng.uniform(low, high, n).astype(np.float32)


def spread(low: float, high: float) -> Draw:
    """Positive entries whose logarithm (base 10) is evenly spread."""
    return lambda rng, n: (10 ** rng.uniform(low, high, n)).astype(np.float32)


def integers(low: int, high: int) -> Draw:
    """Whole numbers in [low, high)."""
    return lambda rng, n: rng.integers(low, high, n).astype(np.int32)


def truth(rng: np.random.Generator, n: int) -> Array:
    """Zeros and ones, as booleans are stored."""
    return rng.integers(0, 2, n).astype(np.uint32)


def ties(rng: np.random.Generator, n: int) -> Array:
    """Few different numbers, so that pairs are often equal."""
    return rng.integers(-2, 3, n).astype(np.float32)


@dataclass(frozen=True)
class Operator:
    """One pointwise operator.

    Attributes:
        name: the kernel is called pointwise_<name>.
        wgsl: the entry's value, of the operands a, b, c, d, of the scalars, and of the entry's
            number `i`; or several statements that end in `return`.
        numpy: the same of arrays and scalars.
        draws: how each operand is drawn in the case table.
        scalars: values of the scalars in the case table, by name; exact in float32.
        compute: type of operands and scalars inside the kernel.
        result: type of the value; "u32" for truth values.
        needs: snippets of wgsl/lib: "MATH", "FLOATS", "REMAINDER" or "SPECIAL".
        ulps: tolerance relative to the value, in units of 2^-23.
        scale: size of the terms the value is made of, where they cancel.
        edges: rows of operands that deserve a case of their own.
        scalar_operand: there are kernels with b, and with a, a number: <name>_scalar and
            scalar_<name>.
        operands: the letters of the operands that are arrays, where they are not the first ones.
    """

    name: str
    wgsl: str
    numpy: Callable[..., Any]
    draws: tuple[Draw, ...]
    scalars: Mapping[str, Scalar] = field(default_factory=dict)
    compute: Literal["f32", "i32"] = "f32"
    result: Literal["f32", "i32", "u32"] | None = None
    needs: tuple[str, ...] = ()
    ulps: float = 4.0
    scale: float = 0.0
    edges: tuple[tuple[float, ...], ...] = ()
    scalar_operand: bool = False
    operands: str = ""

    @property
    def arrays(self) -> tuple[str, ...]:
        """Letters of the operands that are arrays."""
        return tuple(self.operands or "abcd"[: len(self.draws)])

    @property
    def value_type(self) -> Literal["f32", "i32", "u32"]:
        """WGSL type of the value."""
        return self.result or self.compute

    def evaluate(self, values: Mapping[str, Any], dtype: np.dtype) -> Array:
        """The value of arrays and scalars by name, computed in `dtype`."""
        letters = sorted(name for name in values if len(name) == 1 and name != "i")
        positional = [np.asarray(values[name], dtype) for name in letters]
        named = {name: dtype.type(values[name]) for name in self.scalars if len(name) > 1}
        if "i" in values and "start" in self.scalars:
            named["i"] = values["i"].astype(dtype)
        with np.errstate(all="ignore"):
            return self.numpy(*positional, **named)


def unary(name: str, wgsl: str, function: Callable[..., Array], **more: Any) -> Operator:
    """A row of one operand, normal of size 2 unless `draw` says otherwise."""
    draw = more.pop("draw", normal(2.0))
    return Operator(name, wgsl, function, (draw,), **more)


COMPARISONS: tuple[tuple[str, str, Callable[..., Array]], ...] = (
    ("eq", "==", np.equal),
    ("ne", "!=", np.not_equal),
    ("lt", "<", np.less),
    ("le", "<=", np.less_equal),
    ("gt", ">", np.greater),
    ("ge", ">=", np.greater_equal),
)


def with_scalar(operator: Operator, letter: Literal["a", "b"]) -> Operator:
    """The same operator with a number for its operand of that letter."""
    index = "ab".index(letter)
    drawn = float(operator.draws[index](np.random.default_rng(len(operator.name)), 1)[0])
    value = round(drawn * 16) / 16 if operator.compute == "f32" else int(drawn)
    base = operator.name.removesuffix("_int")
    name = f"{base}_scalar" if letter == "b" else f"scalar_{base}"
    return replace(
        operator,
        name=name + operator.name[len(base) :],
        operands="b" if letter == "a" else "a",
        draws=(operator.draws[1 - index],),
        scalars={letter: value, **operator.scalars},
        edges=(),
        scalar_operand=False,
    )
