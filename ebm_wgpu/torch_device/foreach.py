"""Norms, factors and counts of many tensors in few launches: what is done to a whole model.

`torch.nn.utils.clip_grad_norm_`, `torch.amp.GradScaler` and optimisers call these by themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch

from ebm_wgpu.kernels._many import TENSORS
from ebm_wgpu.kernels.device import DeviceArray
from ebm_wgpu.kernels.square_sums import PARTS
from ebm_wgpu.torch_device.reductions import reduce
from ebm_wgpu.torch_device.registration import implements
from ebm_wgpu.torch_device.statistics import vector_norm
from ebm_wgpu.torch_device.tensors import (
    empty,
    flat_array,
    is_bindable,
    is_device_tensor,
    run_kernel,
)


@functools.cache
def _spare(kind: torch.dtype) -> torch.Tensor:
    """A tensor of one entry, whatever it holds."""
    return empty((1,), kind)


def padded(tensors: Sequence[torch.Tensor], count: int) -> list[torch.Tensor]:
    """The tensors and, for those that there are not but kernels want, one of one entry."""
    return [*tensors, *(_spare(tensors[0].dtype) for _ in range(count - len(tensors)))]


def _launches(
    tensors: Sequence[torch.Tensor],
) -> Iterator[tuple[int, dict[str, DeviceArray]]]:
    """The arrays x0, x1, ... of each launch, and the number of its first tensor."""
    for first in range(0, len(tensors), TENSORS):
        part = padded(tensors[first : first + TENSORS], TENSORS)
        yield first, {f"x{t}": flat_array(tensor) for t, tensor in enumerate(part)}


def _square_norms(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of squares of each tensor; they are of one type and none is empty."""
    partials = empty((len(tensors), PARTS), torch.float32)
    for first, arrays in _launches(tensors):
        run_kernel("square_sums", **arrays, partials=partials, first=first)
    return reduce("sum", partials, (1,), torch.float32)


@implements("_foreach_norm.Scalar")
def foreach_norm(
    self: Sequence[torch.Tensor], ord: Any = 2, dtype: torch.dtype | None = None
) -> list[torch.Tensor]:
    """`vector_norm` of each tensor."""
    alike = len({tensor.dtype for tensor in self}) == 1 and self[0].is_floating_point()
    if ord != 2 or not alike or not all(tensor.numel() for tensor in self):
        return [vector_norm(tensor, ord, dtype=dtype) for tensor in self]
    norms = _square_norms(self).sqrt_().to(dtype or self[0].dtype)
    return list(norms.unbind())


def _in_place(
    kernel: Literal["scale", "shift"],
    tensors: Sequence[torch.Tensor],
    number: torch.Tensor,
    singly: Callable[[torch.Tensor], object],
) -> None:
    """Run many_tensors_<kernel> on tensors and a number.

    Args:
        kernel: what to do.
        tensors: any.
        number: a tensor of one entry.
        singly: does it to a tensor that the kernel cannot write where it stands.
    """
    together: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in tensors:
        if is_bindable(tensor) and tensor.numel() and tensor.is_floating_point():
            together.setdefault(tensor.dtype, []).append(tensor)
        else:
            singly(tensor)
    for alike in together.values():
        operand = number.to(alike[0].device, torch.float32).reshape(1)
        for _, arrays in _launches(alike):
            run_kernel(f"many_tensors_{kernel}", **arrays, number=operand)
        # Autograd must notice where what it has saved is overwritten.
        torch.autograd.graph.increment_version([t for t in alike if not t.is_inference()])


def _fits(tensors: Sequence[torch.Tensor], scalar: Any) -> bool:
    """Whether the kernels can do to tensors what a number asks for."""
    return isinstance(scalar, (int, float)) and all(t.is_floating_point() for t in tensors)


def _as_tensor(scalar: Any, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.full((), scalar, dtype=torch.float32, device=tensors[0].device)


@implements("_foreach_mul_.Tensor")
def foreach_mul_(self: Sequence[torch.Tensor], other: torch.Tensor) -> None:
    """Multiply each tensor by the one number that a tensor holds."""
    _in_place("scale", self, other, lambda tensor: tensor.mul_(other))


@implements("_foreach_mul_.Scalar")
def foreach_mul_by_number_(self: Sequence[torch.Tensor], scalar: Any) -> None:
    """Multiply each tensor by a number."""
    if self and _fits(self, scalar):
        foreach_mul_(self, _as_tensor(scalar, self))
    else:
        for tensor in self:
            tensor.mul_(scalar)


def remember(tensor: torch.Tensor, value: float) -> None:
    """Keep the value that a tensor of one entry holds, until it changes."""
    held = (value, tensor._version, tensor.storage_offset())
    tensor.untyped_storage().known_value = held  # type: ignore[attr-defined]


def known(tensor: torch.Tensor) -> float | None:
    """The value that was kept for a tensor, None if there is none or it has changed."""
    held = getattr(tensor.untyped_storage(), "known_value", None)
    there = (tensor._version, tensor.storage_offset())
    return float(held[0]) if held is not None and held[1:] == there else None


def values_of(tensors: Sequence[torch.Tensor]) -> list[float]:
    """The values of tensors of one entry; waits for the device, once, where they are not known."""
    values = [known(tensor) for tensor in tensors]
    unknown = [index for index, value in enumerate(values) if value is None]
    if unknown:
        read = torch.stack([tensors[index].detach().reshape(()) for index in unknown]).tolist()
        for index, value in zip(unknown, read, strict=True):
            values[index] = value
            remember(tensors[index], value)
    return [float(value) for value in values if value is not None]


def _shift_known(
    self: Sequence[torch.Tensor], shift: float | None, add: Callable[[], object]
) -> None:
    """Run `add`, which adds a number to each tensor; values that are known stay so."""
    before = [known(tensor) for tensor in self]
    add()
    if shift is None:
        return
    for tensor, value in zip(self, before, strict=True):
        if value is not None:
            remember(tensor, value + shift)


@implements("_foreach_add_.Scalar")
def foreach_add_(self: Sequence[torch.Tensor], scalar: Any) -> None:
    """Add a number to each tensor; counts of steps that are known stay so."""

    def add() -> None:
        if self and _fits(self, scalar):
            number = _as_tensor(scalar, self)
            _in_place("shift", self, number, lambda tensor: tensor.add_(scalar))
        else:
            for tensor in self:
                tensor.add_(scalar)

    _shift_known(self, scalar if _fits(self, scalar) else None, add)


@implements("_foreach_sub_.List")
def foreach_sub_(
    self: Sequence[torch.Tensor], other: Sequence[torch.Tensor], *, alpha: Any = 1
) -> None:
    """Subtract from each tensor its own; from counts of steps, whether a step was left out.

    Where all take the same number, as there, they do so in few launches, and in none if it is known
    to be 0.
    """
    number = other[0]
    same = number.dim() == 0 and all(tensor is number for tensor in other)
    if not (same and _fits(self, alpha) and is_device_tensor(number)):
        for tensor, own in zip(self, other, strict=True):
            tensor.sub_(own, alpha=alpha)
        return
    value = known(number)
    if value == 0.0:
        return
    shift = None if value is None else -alpha * value

    def add() -> None:
        less = number * -alpha
        _in_place("shift", self, less, lambda tensor: tensor.sub_(number, alpha=alpha))

    _shift_known(self, shift, add)


@implements("_amp_foreach_non_finite_check_and_unscale_")
def check_and_unscale_(
    self: Sequence[torch.Tensor], found_inf: torch.Tensor, inv_scale: torch.Tensor
) -> None:
    """Multiply each tensor by `inv_scale`; `found_inf` becomes 1 if an entry is not finite.

    Nor may the sum of the squares of a tensor exceed float32.
    """
    held = [tensor for tensor in self if tensor.numel()]
    for dtype in {tensor.dtype for tensor in held}:
        finite = _square_norms([tensor for tensor in held if tensor.dtype == dtype]).isfinite()
        found_inf.masked_fill_(finite.all().logical_not(), 1.0)
    foreach_mul_(held, inv_scale)
