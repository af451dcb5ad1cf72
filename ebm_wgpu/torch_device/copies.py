"""Values in and out: copies between devices and types, filling, reading single numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.torch_device import state
from ebm_wgpu.torch_device.grid import check_broadcast, float_scalar, launch
from ebm_wgpu.torch_device.registration import claim, implements
from ebm_wgpu.torch_device.tensors import HOST_TYPES, ITEM_BYTES, empty, memory

_INT32 = np.iinfo(np.int32)
_EXPLICIT = torch._C.DispatchKey.CompositeExplicitAutograd


def _host_values(source: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
    """The values of a processor's tensor, as the device stores them.

    Raises:
        DeviceError: whole numbers beyond 32 bits.
    """
    values = source.detach().resolve_conj().resolve_neg().to(dtype).contiguous().numpy()
    if dtype == torch.int64 and values.size:
        least, greatest = int(values.min()), int(values.max())
        if least < _INT32.min or greatest > _INT32.max:
            beyond = least if least < _INT32.min else greatest
            raise DeviceError(
                f'torch.device("wgpu") holds int64 in 32 bits, and {beyond} does not fit: keep '
                "such numbers on the processor"
            )
    return values.astype(HOST_TYPES[dtype], copy=False)


def upload(source: torch.Tensor, target: torch.Tensor) -> None:
    """Copy a processor's tensor, broadcast to the target's shape, into a tensor of the device.

    Raises:
        RuntimeError: it does not broadcast to that shape.
        DeviceError: whole numbers beyond 32 bits.
    """
    check_broadcast(target.shape, source.shape)
    if target.numel() == 0:
        return
    if source.shape != target.shape:
        source = source.expand(target.shape)
    values = _host_values(source, target.dtype)
    start = int(target.storage_offset()) * ITEM_BYTES[target.dtype]
    held = memory(target)
    # Writes go by four bytes: a half may be cut off only at the end of the whole storage.
    whole = values.nbytes % 4 == 0 or start + values.nbytes == held.nbytes
    if target.is_contiguous() and start % 4 == 0 and whole:
        state.device().runtime.write(held, values, start)
        return
    staged = empty(target.shape, target.dtype)
    state.device().runtime.write(memory(staged), values)
    launch(_copy_operator(staged, target), target, [staged])


def download(source: torch.Tensor) -> torch.Tensor:
    """A tensor of the device as a contiguous tensor of the processor."""
    if not source.is_contiguous():
        source = source.contiguous()
    start = int(source.storage_offset()) * ITEM_BYTES[source.dtype]
    values = state.device().runtime.read(
        memory(source), HOST_TYPES[source.dtype], tuple(source.shape), start
    )
    return torch.from_numpy(values).to(source.dtype)


def _copy_operator(source: torch.Tensor, target: torch.Tensor) -> str:
    integral = not source.dtype.is_floating_point
    if target.dtype == torch.bool and source.dtype != torch.bool:
        return "to_bool_int" if integral else "to_bool"
    return "copy_int" if integral else "copy"


@implements("_copy_from")
def copy_from(self: torch.Tensor, dst: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Copy `self` into `dst`, across devices and types; broadcasts."""
    if self.device.type != "wgpu":
        upload(self, dst)
    elif dst.device.type != "wgpu":
        dst.copy_(download(self))
    else:
        launch(_copy_operator(self, dst), dst, [self])
    return dst


@implements("_to_copy")
def to_copy(self: torch.Tensor, *, non_blocking: bool = False, **options: Any) -> torch.Tensor:
    """A copy of another type or elsewhere. It is waited for, so that no memory need be pinned."""
    copy: torch.Tensor = torch.ops.aten._to_copy.default._op_dk(_EXPLICIT, self, **options)
    return copy


@implements("_copy_from_and_resize")
def copy_from_and_resize(self: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
    """Copy `self` into `dst`, which takes its shape."""
    dst.resize_(self.shape)
    return copy_from(self, dst)


@implements("_local_scalar_dense")
def local_scalar_dense(self: torch.Tensor) -> Any:
    """The value of a tensor with one entry; waits for the device."""
    return download(self).item()


@implements("equal")
def equal(self: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether shapes and all values agree; waits for the device."""
    return self.shape == other.shape and torch.equal(self.cpu(), other.cpu())


@implements("fill_.Scalar")
def fill_(self: torch.Tensor, value: Any) -> torch.Tensor:
    """Set every entry to a number."""
    if isinstance(value, torch.Tensor):
        value = value.item()
    if self.dtype.is_floating_point:
        return launch("fill", self, (), (float_scalar(value),))
    if self.dtype == torch.bool:
        value = bool(value)
    return launch("fill_int", self, (), (int_scalar(value),))


@implements("fill_.Tensor")
def fill_tensor_(self: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Set every entry to the value of a tensor without dimensions.

    Raises:
        RuntimeError: the tensor has dimensions.
    """
    if value.dim():
        raise RuntimeError(
            "fill_ only supports 0-dimension value tensor but got tensor with "
            f"{value.dim()} dimensions."
        )
    if value.device.type == "wgpu":
        return launch(_copy_operator(value, self), self, [value])
    return fill_(self, value.item())


@implements("zero_")
def zero_(self: torch.Tensor) -> torch.Tensor:
    """Set every entry to zero."""
    return fill_(self, 0)


def int_scalar(value: Any) -> int:
    """A number as integer kernels take it.

    Raises:
        DeviceError: it does not fit 32 bits.
    """
    number = int(value)
    if not _INT32.min <= number <= _INT32.max:
        raise DeviceError(f'torch.device("wgpu") holds int64 in 32 bits, and {number} does not fit')
    return number


@implements("arange.start_out")
def arange(start: Any, end: Any, step: Any = 1, *, out: torch.Tensor) -> torch.Tensor:
    """start, start + step, ... up to, and without, end."""
    if step == 0 or (end - start) * step < 0:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    count = math.ceil((end - start) / step)
    if out.numel() != count:
        out.resize_((count,))
    if out.dtype.is_floating_point:
        return launch("arange", out, (), (float_scalar(start), float_scalar(step)))
    return launch("arange_int", out, (), (int_scalar(start), int_scalar(step)))


claim(
    *("clone", "contiguous", "zero_", "fill", "float", "half", "int", "long", "bool"),
    *("zeros_like", "ones_like", "full_like", "empty_like", "zeros", "ones", "full", "new_zeros"),
    *("new_ones", "new_full", "arange", "scalar_tensor", "equal", "item"),
)
