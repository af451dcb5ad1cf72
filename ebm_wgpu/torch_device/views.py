"""New tensors, views and changes of shape: torch's own Meta kernels move the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.torch_device.registration import claim, implements
from ebm_wgpu.torch_device.tensors import KINDS, check_dtype, empty, reserve, set_sizes

_aten = torch.ops.aten
_META = torch._C.DispatchKeySet(torch._C.DispatchKey.Meta)
_as_strided = _aten.as_strided.default.redispatch
_view = _aten.view.default.redispatch
_reshape_alias = _aten._reshape_alias.default.redispatch
_unfold = _aten.unfold.default.redispatch


@implements("as_strided")
def as_strided(
    self: torch.Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int | None = None,
) -> torch.Tensor:
    """A view of the same storage."""
    result: torch.Tensor = _as_strided(_META, self, size, stride, storage_offset)
    return result


@implements("view")
def view(self: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """A view of another shape."""
    result: torch.Tensor = _view(_META, self, size)
    return result


@implements("_reshape_alias")
def reshape_alias(self: torch.Tensor, size: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    """A view of another shape whose strides are known."""
    result: torch.Tensor = _reshape_alias(_META, self, size, stride)
    return result


@implements("unfold")
def unfold(self: torch.Tensor, dimension: int, size: int, step: int) -> torch.Tensor:
    """Overlapping windows along a dimension."""
    result: torch.Tensor = _unfold(_META, self, dimension, size, step)
    return result


@implements("view.dtype")
def view_dtype(self: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The same tensor, for the type it has: elements cannot be read as another type.

    Raises:
        DeviceError: another type.
    """
    if dtype != self.dtype:
        raise DeviceError(
            f'a {self.dtype} tensor on torch.device("wgpu") cannot be viewed as {dtype}: its '
            "elements are stored otherwise than on the processor; use .to(dtype)"
        )
    return as_strided(self, self.shape, self.stride(), self.storage_offset())


@implements("empty.memory_format")
def empty_memory_format(
    size: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """A new tensor with undefined contents."""
    stride = None
    if memory_format not in (None, torch.contiguous_format):
        stride = torch.empty(tuple(size), device="meta", memory_format=memory_format).stride()
    return empty(size, dtype or torch.get_default_dtype(), stride)


@implements("empty_strided")
def empty_strided(
    size: Sequence[int],
    stride: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> torch.Tensor:
    """A new tensor with undefined contents and given strides."""
    return empty(size, dtype or torch.get_default_dtype(), tuple(stride))


@implements("_efficientzerotensor")
def zero_tensor(size: Sequence[int], *, dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:
    """A new tensor of zeros: the gradient of operators that are constant in pieces."""
    return torch.zeros(tuple(size), dtype=dtype, device="wgpu")


def _contiguous_stride(size: Sequence[int]) -> tuple[int, ...]:
    stride = [0] * len(size)
    step = 1
    for axis in range(len(size) - 1, -1, -1):
        stride[axis] = step
        step *= max(size[axis], 1)
    return tuple(stride)


@implements("resize_")
def resize_(
    self: torch.Tensor,
    size: Sequence[int],
    *,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """The tensor with another shape, contiguous; its storage grows if it must."""
    size = tuple(size)
    if size == tuple(self.shape):
        return self
    check_dtype(self.dtype)
    stride = _contiguous_stride(size)
    if memory_format not in (None, torch.contiguous_format, torch.preserve_format):
        stride = torch.empty(size, device="meta", memory_format=memory_format).stride()
    set_sizes(self, self.untyped_storage(), int(self.storage_offset()), size, stride)
    reserve(self)
    return self


@implements("set_.source_Tensor")
def set_tensor(self: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """The tensor made a view of another's storage."""
    return set_storage(
        self, source.untyped_storage(), source.storage_offset(), source.shape, source.stride()
    )


@implements("set_.source_Storage")
def set_whole_storage(self: torch.Tensor, source: Any) -> torch.Tensor:
    """The tensor made a view of a whole storage."""
    count = source.nbytes() // self.element_size()
    return set_storage(self, source, 0, (count,), (1,))


@implements("set_.source_Storage_storage_offset")
def set_storage(
    self: torch.Tensor,
    source: Any,
    storage_offset: int,
    size: Sequence[int],
    stride: Sequence[int] = (),
) -> torch.Tensor:
    """The tensor made a view of a storage."""
    size = tuple(size)
    set_sizes(self, source, storage_offset, size, tuple(stride) or _contiguous_stride(size))
    reserve(self)
    return self


@implements("set_")
def set_empty(self: torch.Tensor) -> torch.Tensor:
    """The tensor with no elements."""
    fresh = empty((0,), self.dtype if self.dtype in KINDS else torch.float32)
    return set_tensor(self, fresh)


claim(
    *("as_strided:", "view", "reshape", "view_as", "reshape_as", "transpose", "t", "T", "mT"),
    *("permute", "movedim", "narrow:", "select", "unsqueeze", "squeeze"),
    *("expand", "expand_as", "broadcast_to", "diagonal", "unbind", "split", "chunk", "unflatten"),
    *("hsplit", "vsplit", "dsplit", "flatten", "ravel"),
    *("atleast_1d", "atleast_2d", "atleast_3d", "squeeze:multiple", "split_with_sizes"),
    *(
        "empty",
        "empty_strided",
        "resize_",
        "broadcast_tensors",
        "meshgrid",
        "resolve_conj",
        "resolve_neg",
        "real",
        "positive",
    ),
)
