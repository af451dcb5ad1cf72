"""Norms and factors of many tensors in few launches: what is done to all gradients of a model.

`torch.nn.utils.clip_grad_norm_` and `torch.amp.GradScaler` call these by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ebm_wgpu.kernels._many import TENSORS
from ebm_wgpu.kernels.device import DeviceArray
from ebm_wgpu.kernels.square_sums import PARTS
from ebm_wgpu.torch_device import state
from ebm_wgpu.torch_device.reductions import reduce
from ebm_wgpu.torch_device.registration import implements
from ebm_wgpu.torch_device.statistics import vector_norm
from ebm_wgpu.torch_device.tensors import (
    as_array,
    empty,
    is_bindable,
    is_device_tensor,
    run_kernel,
)


def _flat(tensor: torch.Tensor) -> DeviceArray:
    """A tensor as a kernel's array of one dimension."""
    array = as_array(tensor)
    return DeviceArray(state.device(), (tensor.numel(),), array.dtype, array.storage)


def _launches(
    tensors: Sequence[torch.Tensor],
) -> Iterator[tuple[int, dict[str, DeviceArray]]]:
    """The arrays x0, x1, ... of each launch, and the number of its first tensor."""
    for first in range(0, len(tensors), TENSORS):
        part = [_flat(tensor) for tensor in tensors[first : first + TENSORS]]
        # The kernels want arrays for the tensors that there are not.
        part += [_flat(empty((1,), tensors[first].dtype)) for _ in range(TENSORS - len(part))]
        yield first, {f"x{t}": array for t, array in enumerate(part)}


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


@implements("_foreach_mul_.Tensor")
def foreach_mul_(self: Sequence[torch.Tensor], other: torch.Tensor) -> None:
    """Multiply each tensor by the one number that a tensor holds."""
    together: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in self:
        if is_bindable(tensor) and tensor.numel() and tensor.is_floating_point():
            together.setdefault(tensor.dtype, []).append(tensor)
        else:
            tensor.mul_(other)
    if not together:
        return
    factor = other if is_device_tensor(other) else other.to(self[0].device)
    factor = factor.to(torch.float32).reshape(1)
    for tensors in together.values():
        for _, arrays in _launches(tensors):
            run_kernel("scale_tensors", **arrays, factor=factor)


@implements("_foreach_mul_.Scalar")
def foreach_mul_by_number_(self: Sequence[torch.Tensor], scalar: Any) -> None:
    """Multiply each tensor by a number."""
    if self and isinstance(scalar, (int, float)) and all(t.is_floating_point() for t in self):
        foreach_mul_(self, torch.full((), scalar, dtype=torch.float32, device=self[0].device))
    else:
        for tensor in self:
            tensor.mul_(scalar)


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
