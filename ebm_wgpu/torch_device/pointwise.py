"""Pointwise operators over the kernels pointwise_*.

A row of the tables below names an aten operator and its kernel; every overload of it (functional,
in place, `out=`, tensor or number) is registered from torch's own schema.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ebm_wgpu.torch_device.copies import copy_from, int_scalar
from ebm_wgpu.torch_device.elementwise import (
    Operand,
    Result,
    evaluate,
    implements_all,
    operands,
    promoted,
    result,
    type_name,
)
from ebm_wgpu.torch_device.grid import float_scalar, launch
from ebm_wgpu.torch_device.registration import claim, implements


def _unary(kernel: str, kind: Result, whole: str | None) -> Callable[..., torch.Tensor]:
    def function(self: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        if not self.dtype.is_floating_point and whole is not None:
            return evaluate(whole, [self], kind=kind, out=out)
        return evaluate(kernel, [self], kind=kind, out=out)

    return function


def _binary(kernel: str, kind: Result) -> Callable[..., torch.Tensor]:
    def function(self: Any, other: Any, *, out: torch.Tensor | None = None) -> torch.Tensor:
        return evaluate(kernel, operands(self, other), kind=kind, out=out)

    return function


UNARY: dict[str, tuple[str, Result, str | None]] = {
    # aten operator: kernel, type of the result, kernel for whole numbers if it is another
    "neg": ("neg", "same", "neg"),
    "abs": ("abs", "same", "abs"),
    "sign": ("sign", "same", "sign"),
    "sgn": ("sign", "same", "sign"),
    "floor": ("floor", "same", "copy"),
    "ceil": ("ceil", "same", "copy"),
    "trunc": ("trunc", "same", "copy"),
    "round": ("round", "same", "copy"),
    "silu": ("silu", "same", None),
    "sqrt": ("sqrt", "float", None),
    "rsqrt": ("rsqrt", "float", None),
    "reciprocal": ("reciprocal", "float", None),
    "exp": ("exp", "float", None),
    "exp2": ("exp_two", "float", None),
    "expm1": ("expm_one", "float", None),
    "log": ("log", "float", None),
    "log2": ("log_two", "float", None),
    "log10": ("log_ten", "float", None),
    "log1p": ("log_onep", "float", None),
    "sin": ("sin", "float", None),
    "cos": ("cos", "float", None),
    "tanh": ("tanh", "float", None),
    "sigmoid": ("sigmoid", "float", None),
    "erf": ("erf", "float", None),
    "erfc": ("erfc", "float", None),
    "logical_not": ("logical_not", "bool", "logical_not"),
}
BINARY: dict[str, tuple[str, Result]] = {
    # aten operator: kernel, type of the result
    "remainder": ("remainder", "same"),
    "fmod": ("fmod", "same"),
    "floor_divide": ("floor_divide", "same"),
    "maximum": ("maximum", "same"),
    "logaddexp": ("logaddexp", "same"),
    "minimum": ("minimum", "same"),
    "eq": ("eq", "bool"),
    "ne": ("ne", "bool"),
    "lt": ("lt", "bool"),
    "le": ("le", "bool"),
    "gt": ("gt", "bool"),
    "ge": ("ge", "bool"),
}


def add(self: Any, other: Any, *, alpha: Any = 1, out: torch.Tensor | None = None) -> torch.Tensor:
    """self + alpha * other; for truth values, either."""
    values = operands(self, other)
    if promoted(*values) == torch.bool:
        return _logical("bitwise_or", values, out)
    return evaluate("add", values, (alpha,), out=out)


def sub(self: Any, other: Any, *, alpha: Any = 1, out: torch.Tensor | None = None) -> torch.Tensor:
    """self - alpha * other.

    Raises:
        RuntimeError: truth values.
    """
    values = operands(self, other)
    if promoted(*values) == torch.bool:
        raise RuntimeError(
            "Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or "
            "`logical_xor()` operator instead."
        )
    return evaluate("add", values, (-alpha,), out=out)


def rsub(self: Any, other: Any, alpha: Any = 1) -> torch.Tensor:
    """other - alpha * self."""
    return sub(other, self, alpha=alpha)


def mul(self: Any, other: Any, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """self * other; for truth values, both."""
    values = operands(self, other)
    if promoted(*values) == torch.bool:
        return _logical("bitwise_and", values, out)
    return evaluate("mul", values, out=out)


_ROUNDINGS = {"floor": "floor_divide", "trunc": "trunc_divide"}


def div(
    self: Any, other: Any, *, rounding_mode: str | None = None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """self / other, rounded down or towards zero if asked to."""
    values = operands(self, other)
    if rounding_mode is None:
        return evaluate("div", values, kind="float", out=out)
    return evaluate(_ROUNDINGS[rounding_mode], values, out=out)


def power(self: Any, exponent: Any, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """self ** exponent; negative powers of tensors of whole numbers only by tensors.

    Raises:
        RuntimeError: a negative number as the power of whole numbers.
    """
    values = operands(self, exponent)
    if isinstance(values[1], int) and values[1] < 0 and not promoted(*values).is_floating_point:
        raise RuntimeError("Integers to negative integer powers are not allowed.")
    return evaluate("pow", values, out=out)


def _logical(kernel: str, values: Sequence[Operand], out: torch.Tensor | None) -> torch.Tensor:
    """A bitwise kernel on truth values."""
    return evaluate(kernel, values, out=out, dtype=torch.bool)


def _truth(value: Operand) -> Operand:
    if not isinstance(value, torch.Tensor):
        return bool(value)
    return value if value.dtype == torch.bool else value != 0


def _on_truth(kernel: str) -> Callable[..., torch.Tensor]:
    def function(self: Any, other: Any, *, out: torch.Tensor | None = None) -> torch.Tensor:
        values = [_truth(value) for value in operands(self, other)]
        if out is None or out.dtype == torch.bool:
            return _logical(kernel, values, out)
        return copy_from(_logical(kernel, values, None), out)

    return function


def _bitwise(kernel: str) -> Callable[..., torch.Tensor]:
    def function(self: Any, other: Any, *, out: torch.Tensor | None = None) -> torch.Tensor:
        values = operands(self, other)
        dtype = promoted(*values)
        if dtype.is_floating_point:
            raise RuntimeError(f"\"{kernel}\" not implemented for '{type_name(dtype)}'")
        return evaluate(kernel, values, out=out, dtype=dtype)

    return function


def bitwise_not(self: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Every bit turned over; for truth values, not."""
    if self.dtype == torch.bool:
        return evaluate("logical_not", [self], kind="bool", out=out)
    if self.dtype.is_floating_point:
        raise RuntimeError(f"\"bitwise_not\" not implemented for '{type_name(self.dtype)}'")
    return evaluate("bitwise_not", [self], out=out)


@implements("isnan")
def isnan(self: torch.Tensor) -> torch.Tensor:
    """Whether each entry is not a number."""
    if not self.dtype.is_floating_point:
        return torch.zeros(self.shape, dtype=torch.bool, device=self.device)
    return evaluate("isnan", [self], kind="bool")


def _is_infinity(value: float) -> Callable[..., torch.Tensor]:
    def function(self: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        if self.dtype.is_floating_point:
            return evaluate("eq", [self, value], kind="bool", out=out)
        nowhere = torch.zeros(self.shape, dtype=torch.bool, device=self.device)
        return nowhere if out is None else copy_from(nowhere, out)

    return function


@implements("where.self")
def where(
    condition: torch.Tensor, self: Any, other: Any, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """self where the condition holds, other elsewhere."""
    chosen = [_as_tensor(value, condition) for value in (self, other)]
    dtype = promoted(*(value for value in (self, other)))
    target = result(dtype, [condition, *chosen], out)
    kernel = "where" if dtype.is_floating_point else "where_int"
    return launch(kernel, target, [condition, *chosen])


implements("where.self_out")(where)


def _as_tensor(value: Any, like: torch.Tensor) -> torch.Tensor:
    (value,) = operands(value)
    if isinstance(value, torch.Tensor):
        return value
    dtype = torch.result_type(torch.empty((), dtype=torch.bool), value)
    return torch.full((), value, dtype=dtype, device=like.device)


@implements("masked_fill_.Scalar", "masked_fill_.Tensor")
def masked_fill_(self: torch.Tensor, mask: torch.Tensor, value: Any) -> torch.Tensor:
    """The number `value` where the mask holds.

    Raises:
        RuntimeError: the mask holds no truth values or does not broadcast to the tensor, or the
            value has dimensions.
    """
    if mask.dtype != torch.bool:
        raise RuntimeError(
            f"masked_fill_ only supports boolean masks, but got mask with dtype {mask.dtype}"
        )
    if isinstance(value, torch.Tensor) and value.dim():
        raise RuntimeError(
            "masked_fill_ only supports a 0-dimensional value tensor, but got tensor with "
            f"{value.dim()} dimension(s)."
        )
    if isinstance(value, torch.Tensor) and value.device == self.device:
        kernel = "where" if self.dtype.is_floating_point else "where_int"
        return launch(kernel, self, [mask, value, self])
    if isinstance(value, torch.Tensor):
        value = value.item()
    if self.dtype.is_floating_point:
        return launch("masked_fill", self, [self, mask], (float_scalar(value),))
    return launch("masked_fill_int", self, [self, mask], (int_scalar(value),))


def clamp(
    self: torch.Tensor, min: Any = None, max: Any = None, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Entries brought between two bounds, numbers or tensors; `max` wins if they cross."""
    bounds = [bound for bound in (min, max) if bound is not None]
    if not bounds:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    dtype = promoted(self, *bounds)
    if any(isinstance(bound, torch.Tensor) for bound in bounds):
        step = self
        if min is not None:
            last = out if max is None else None
            step = evaluate("maximum", operands(step, min), out=last, dtype=dtype)
        if max is not None:
            step = evaluate("minimum", operands(step, max), out=out, dtype=dtype)
        return step
    if dtype.is_floating_point:
        low = float("-inf") if min is None else float_scalar(min)
        high = float("inf") if max is None else float_scalar(max)
    else:
        low = -(2**31) if min is None else int_scalar(min)
        high = 2**31 - 1 if max is None else int_scalar(max)
    return evaluate("clamp", [self], (low, high), out=out, dtype=dtype)


def clamp_min(self: torch.Tensor, min: Any, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Entries raised to a bound."""
    return clamp(self, min, None, out=out)


def clamp_max(self: torch.Tensor, max: Any, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Entries lowered to a bound."""
    return clamp(self, None, max, out=out)


def addcmul(
    self: torch.Tensor,
    tensor1: torch.Tensor,
    tensor2: torch.Tensor,
    *,
    value: Any = 1,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """self + value * tensor1 * tensor2."""
    return _ternary("addcmul", (self, tensor1, tensor2), (value,), out)


def addcdiv(
    self: torch.Tensor,
    tensor1: torch.Tensor,
    tensor2: torch.Tensor,
    *,
    value: Any = 1,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """self + value * tensor1 / tensor2.

    Raises:
        RuntimeError: whole numbers are divided.
    """
    if not (tensor1.is_floating_point() or tensor2.is_floating_point()):
        raise RuntimeError(
            "Integer division with addcdiv is no longer supported: convert with .float() first"
        )
    return _ternary("addcdiv", (self, tensor1, tensor2), (value,), out)


def lerp(
    self: torch.Tensor, end: torch.Tensor, weight: Any, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """self + weight * (end - self), exact at both ends."""
    if isinstance(weight, torch.Tensor):
        return _ternary("lerp", (self, end, weight), (), out)
    return evaluate("lerp_scalar", [self, end], (weight,), out=out)


def _ternary(
    kernel: str, values: Sequence[Any], scalars: Sequence[Any], out: torch.Tensor | None
) -> torch.Tensor:
    """A kernel of three tensors; numbers among them become tensors of one entry."""
    tensors = [_as_tensor(value, values[0]) for value in values]
    return evaluate(kernel, tensors, scalars, out=out)


for _operator, (_kernel, _kind, _whole) in UNARY.items():
    implements_all(_operator, _unary(_kernel, _kind, _whole), without=("decimals", "decimals_out"))
for _operator, (_kernel, _kind) in BINARY.items():
    implements_all(_operator, _binary(_kernel, _kind))
for _operator in ("and", "or", "xor"):
    implements_all(f"bitwise_{_operator}", _bitwise(f"bitwise_{_operator}"))
    implements_all(f"logical_{_operator}", _on_truth(f"bitwise_{_operator}"))
for _operator in ("sigmoid_backward", "tanh_backward", "silu_backward"):
    implements_all(_operator, _binary(_operator, "same"))
_FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "add": add,
    "sub": sub,
    "mul": mul,
    "div": div,
    "pow": power,
    "bitwise_not": bitwise_not,
    "clamp": clamp,
    "clamp_min": clamp_min,
    "clamp_max": clamp_max,
    "addcmul": addcmul,
    "addcdiv": addcdiv,
    "lerp": lerp,
}
implements_all("isneginf", _is_infinity(float("-inf")))
implements_all("isposinf", _is_infinity(float("inf")))
for _operator, _function in _FUNCTIONS.items():
    implements_all(_operator, _function)
implements("rsub.Tensor", "rsub.Scalar")(rsub)

claim(
    *("add", "sub", "rsub", "mul", "div", "true_divide", "pow", "__radd__", "__rsub__"),
    *("__rmul__", "__rdiv__", "__rpow__", "remainder", "fmod", "floor_divide", "square"),
    *("logaddexp", "maximum", "minimum", "max:binary", "min:binary"),
    *("eq", "ne", "lt", "le", "gt", "ge"),
    *("neg", "abs", "sign", "sgn", "floor", "ceil", "trunc", "round:", "reciprocal", "sqrt"),
    *("rsqrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tanh"),
    *(
        "sigmoid",
        "erf",
        "erfc",
        "isnan",
        "isfinite",
        "isinf",
        "isneginf",
        "isposinf",
        "logical_not",
        "logical_and",
    ),
    *("logical_or", "logical_xor", "where", "masked_fill", "clamp", "clamp_min", "clamp_max"),
    *("addcmul", "addcdiv", "lerp", "bitwise_not", "bitwise_and", "bitwise_or", "bitwise_xor"),
)
