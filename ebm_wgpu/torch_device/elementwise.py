"""torch's rules for operators that work entry by entry: types, shapes, `out=`, overloads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from ebm_wgpu.kernels.pointwise import KERNELS
from ebm_wgpu.torch_device.copies import copy_from, int_scalar
from ebm_wgpu.torch_device.grid import Layout, broadcast_strides, float_scalar, launch
from ebm_wgpu.torch_device.registration import UnsupportedOperatorError, implements
from ebm_wgpu.torch_device.tensors import empty

Operand = torch.Tensor | float | int | bool
Result = Literal["same", "float", "bool"]
"""Type of the result: that of the promoted operands, at least floating, or truth values."""

_KERNELS = frozenset(kernel.stem for kernel in KERNELS)


def operands(*values: Any) -> list[Operand]:
    """Tensors of the device and numbers; a processor's tensor without dimensions is a number.

    Raises:
        RuntimeError: another tensor of the processor.
    """
    found: list[Operand] = []
    for value in values:
        if isinstance(value, torch.Tensor) and value.device.type != "wgpu":
            if value.dim():
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found wgpu:0 and "
                    f"{value.device}: move one with .to()"
                )
            value = value.item()
        found.append(value)
    return found


def promoted(*values: Any) -> torch.dtype:
    """Type of the operands together, by torch's rules of promotion.

    Tensors with dimensions decide; those without, and after them numbers, only matter where they
    are of a higher kind (truth values, whole numbers, floats).

    Source: at::native::result_type (aten/src/ATen/native/TypeProperties.cpp).
    """
    if len(values) == 2:
        return torch.result_type(*values)
    ranks: list[torch.dtype | None] = [None, None, None]
    for value in values:
        rank = 2 if not isinstance(value, torch.Tensor) else int(value.dim() == 0)
        dtype, held = torch.result_type(value, value), ranks[rank]
        ranks[rank] = dtype if held is None else torch.promote_types(held, dtype)
    found = [dtype for dtype in ranks if dtype is not None]
    return functools.reduce(lambda lower, higher: _decided(higher, lower), reversed(found))


def _decided(higher: torch.dtype, lower: torch.dtype) -> torch.dtype:
    """The type of operands of a higher and of a lower rank together."""
    above = lower.is_floating_point or higher == torch.bool
    return torch.promote_types(higher, lower) if above and not higher.is_floating_point else higher


def floating(dtype: torch.dtype) -> torch.dtype:
    """The type itself if it is floating, else the default type."""
    return dtype if dtype.is_floating_point else torch.get_default_dtype()


def _before(inner: int, outer: int, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> int:
    """Below 0 if `inner` is walked faster than `outer`, above if slower, 0 if it does not matter.

    TensorIterator's rule: the first operand that has an opinion decides; broadcast ones have none.
    """
    for stride in strides:
        first, second = stride[inner], stride[outer]
        if first == 0 or second == 0:
            continue
        if first != second:
            return -1 if first < second else 1
        if shape[inner] > shape[outer]:
            return 1
    return 0


def output_strides(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Strides of a result: dense, in the order in which the operands lie in memory.

    Args:
        shape: of the result.
        strides: of each operand along every dimension of it, 0 where it is broadcast.

    Source: TensorIterator::reorder_dimensions (aten/src/ATen/TensorIterator.cpp).
    """
    order = list(reversed(range(len(shape))))
    for start in range(1, len(order)):
        outer = start
        for inner in reversed(range(start)):
            comparison = _before(order[inner], order[outer], shape, strides)
            if comparison > 0:
                order[inner], order[outer] = order[outer], order[inner]
                outer = inner
            elif comparison < 0:
                break
    found = [0] * len(shape)
    step = 1
    for axis in order:
        found[axis] = step
        step *= max(shape[axis], 1)
    return tuple(found)


@functools.lru_cache(maxsize=8192)
def _layout(layouts: tuple[Layout, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides of the result."""
    shape = tuple(torch.broadcast_shapes(*(size for size, _ in layouts)))
    return shape, output_strides(shape, [broadcast_strides(shape, *part) for part in layouts])


def result(
    dtype: torch.dtype, tensors: Sequence[torch.Tensor], out: torch.Tensor | None
) -> torch.Tensor:
    """Where a result of the tensors goes: `out` after torch's checks, or a new tensor.

    Raises:
        RuntimeError: `out` cannot hold the type, has another shape, or overlaps itself.
    """
    shape, stride = _layout(tuple([(t.shape, t.stride()) for t in tensors]))
    if out is None:
        return empty(shape, dtype, stride)
    if not torch.can_cast(dtype, out.dtype):
        raise RuntimeError(
            f"result type {type_name(dtype)} can't be cast to the desired output type "
            f"{type_name(out.dtype)}"
        )
    if tuple(out.shape) != shape:
        if any(out is tensor for tensor in tensors):
            raise RuntimeError(
                f"output with shape {list(out.shape)} doesn't match the broadcast shape "
                f"{list(shape)}"
            )
        out.resize_(shape)
    if any(step == 0 and size > 1 for size, step in zip(out.shape, out.stride(), strict=True)):
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a "
            "single memory location. Please clone() the tensor before performing the operation."
        )
    return out


_NAMES = {
    torch.float32: "Float",
    torch.float16: "Half",
    torch.int64: "Long",
    torch.int32: "Int",
    torch.bool: "Bool",
}


def type_name(dtype: torch.dtype) -> str:
    """The name of a type in torch's error messages."""
    return _NAMES.get(dtype, str(dtype))


def evaluate(
    kernel: str,
    values: Sequence[Operand],
    scalars: Sequence[float] = (),
    kind: Result = "same",
    out: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """kernel(values..., scalars...) with torch's promotion and broadcasting.

    Args:
        kernel: a row of the pointwise table without "_int", which is chosen by type.
        values: tensors and, where the row has a variant for it, one number.
        scalars: further arguments, in the row's order.
        kind: type of the result.
        out: where the result goes; a new tensor by default.
        dtype: type to compute in, instead of the promoted one.

    Raises:
        UnsupportedOperatorError: whole numbers or truth values, for which there is no kernel.
    """
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if dtype is None:
        dtype = promoted(*values)
    if kind == "float":
        dtype = floating(dtype)
    target_type = torch.bool if kind == "bool" else dtype
    target = result(target_type, tensors, out)
    convert: Callable[[Any], Any] = float_scalar
    if not dtype.is_floating_point:
        convert = int_scalar
    numbers = [convert(value) for value in values if not isinstance(value, torch.Tensor)]
    if numbers:
        kernel = f"{kernel}_scalar" if isinstance(values[0], torch.Tensor) else f"scalar_{kernel}"
    if not dtype.is_floating_point:
        kernel += "_int"
        if f"pointwise_{kernel}" not in _KERNELS:
            raise UnsupportedOperatorError(
                f'"{kernel.removesuffix("_int")}" is not implemented for {type_name(dtype)!r} on '
                'torch.device("wgpu"): convert first, for example with .float()'
            )
    numbers += [convert(scalar) for scalar in scalars]
    if kind == "bool" and target.dtype != torch.bool:
        truth = launch(kernel, empty(target.shape, torch.bool), tensors, numbers)
        return copy_from(truth, target)
    return launch(kernel, target, tensors, numbers)


def _wants_kernel(name: str, schema: Any) -> bool:
    """Whether an overload works on tensors and is not made of other operators for autograd."""

    def has(key: str) -> bool:
        return torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", key)

    if not torch._C._dispatch_has_kernel(f"aten::{name}"):
        return False
    composite = has("CompositeImplicitAutograd")
    structured = has("CompositeExplicitAutogradNonFunctional")
    tensors = any(str(argument.type) == "Tensor" for argument in schema.arguments)
    return tensors and (structured or not composite)


def implements_all(
    name: str, function: Callable[..., torch.Tensor], without: tuple[str, ...] = ()
) -> None:
    """Register every overload of an aten operator: function(*arguments, out=None).

    The in-place overloads get their first argument as `out` as well; those that torch makes of
    other operators are left to it.

    Args:
        name: of the operator, without overload.
        function: its implementation.
        without: overloads that take other arguments.
    """
    for base in (name, f"{name}_"):
        packet = getattr(torch.ops.aten, base, None)
        for overload in () if packet is None else packet.overloads():
            schema = getattr(packet, overload)._schema
            qualified = base if overload == "default" else f"{base}.{overload}"
            if overload in without or not _wants_kernel(qualified, schema):
                continue
            written = [a for a in schema.arguments if a.alias_info and a.alias_info.is_write]
            if not written:
                implements(qualified)(function)
            elif written[0].kwarg_only:
                implements(qualified)(_into(function, written[0].name))
            else:
                implements(qualified)(_in_place(function))


def _into(function: Callable[..., torch.Tensor], keyword: str) -> Callable[..., torch.Tensor]:
    def variant(*args: Any, **kwargs: Any) -> torch.Tensor:
        out = kwargs.pop(keyword)
        return function(*args, **kwargs, out=out)

    return variant


def _in_place(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def variant(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return function(self, *args, **kwargs, out=self)

    return variant
