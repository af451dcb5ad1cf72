"""Tensors of the device: their memory, the types they are stored in, and how kernels see them.

Shapes, strides and views are torch's own: a storage is grown by the Meta kernel of `set_`, and the
device memory hangs on the storage object, so that it is freed with the last view. Elements are
stored as

    float32 f32    float16 f16    int64 i32    int32 i32    bool u32 (0 or 1)

int64 values beyond 32 bits are refused at upload; arithmetic wraps at 32 bits, and a float32 beyond
them becomes the nearest whole number in reach that is a float32 too. Other types are refused:
convert before the upload.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ebm_wgpu.errors import DeviceError, KernelError
from ebm_wgpu.gpu.buffers import ALIGNMENT, Buffer, BufferView
from ebm_wgpu.kernels.device import DeviceArray
from ebm_wgpu.kernels.registry import get_kernel
from ebm_wgpu.torch_device import state

KINDS = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.int64: "i32",
    torch.int32: "i32",
    torch.bool: "u32",
}
"""Storage type of each torch type, as kernels name it."""
ITEM_BYTES = {
    torch.float32: 4,
    torch.float16: 2,
    torch.int64: 4,
    torch.int32: 4,
    torch.bool: 4,
}
HOST_TYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.float16: np.dtype(np.float16),
    torch.int64: np.dtype(np.int32),
    torch.int32: np.dtype(np.int32),
    torch.bool: np.dtype(np.uint32),
}

_META = torch._C.DispatchKeySet(torch._C.DispatchKey.Meta)
_create = torch._C._acc.create_empty_tensor
_set = torch.ops.aten.set_.source_Storage_storage_offset.redispatch


def check_dtype(dtype: torch.dtype) -> None:
    """Nothing, for a type the device can store.

    Raises:
        DeviceError: naming the type and what to do.
    """
    if dtype not in KINDS:
        known = ", ".join(str(known).removeprefix("torch.") for known in KINDS)
        raise DeviceError(
            f'torch.device("wgpu") stores {known}, not {dtype}: convert first, for example with '
            ".float()"
        )
    if dtype is torch.float16 and not state.device().supports_half:
        raise DeviceError(f"{state.device().description} cannot store float16: use float32")


def set_sizes(
    tensor: torch.Tensor,
    storage: torch.UntypedStorage,
    offset: int,
    size: Sequence[int],
    stride: Sequence[int],
) -> torch.Tensor:
    """Point a tensor at a storage, which grows if it must. Its device memory does not."""
    result: torch.Tensor = _set(_META, tensor, storage, offset, size, stride)
    return result


def empty(
    shape: Sequence[int], dtype: torch.dtype, stride: Sequence[int] | None = None
) -> torch.Tensor:
    """A new tensor with undefined contents; contiguous unless strides are given.

    Raises:
        DeviceError: a type that the device cannot store, or no memory left.
    """
    check_dtype(dtype)
    shape = tuple(shape)
    tensor: torch.Tensor = _create(shape, dtype)
    storage = tensor.untyped_storage()
    if stride is None:
        stride = tensor.stride()
        count = tensor.numel()
    elif 0 in shape:
        count = 0
    else:
        count = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    _set(_META, tensor, storage, 0, shape, stride)
    storage.memory = state.device().runtime.pool.lease(  # type: ignore[attr-defined]
        count * ITEM_BYTES[dtype], shared=True
    )
    return tensor


@functools.lru_cache(maxsize=64)
def constant(value: float, count: int) -> torch.Tensor:
    """A float32 vector of one number, which nothing writes: what stands for what is left out."""
    return torch.full((count,), value, dtype=torch.float32, device="wgpu")


def memory(tensor: torch.Tensor) -> Buffer:
    """The device memory of a tensor's storage."""
    lease: Buffer = tensor.untyped_storage().memory  # type: ignore[attr-defined]
    return lease


def reserve(tensor: torch.Tensor) -> None:
    """Device memory for all of a tensor's storage; what it held before is kept."""
    storage = tensor.untyped_storage()
    needed = storage.nbytes() // tensor.element_size() * ITEM_BYTES[tensor.dtype]
    held: Buffer | None = getattr(storage, "memory", None)
    if held is not None and held.block.capacity >= needed:
        held.nbytes = max(held.nbytes, needed)
        return
    runtime = state.device().runtime
    fresh = runtime.pool.lease(needed, shared=True)
    if held is not None and held.nbytes:
        old = runtime.read(held, np.dtype(np.uint8), (held.nbytes,))
        runtime.write(fresh, old)
    storage.memory = fresh  # type: ignore[attr-defined]


def is_device_tensor(value: Any) -> bool:
    """Whether a value is a tensor of this device."""
    return isinstance(value, torch.Tensor) and value.device.type == "wgpu"


def as_array(tensor: torch.Tensor) -> DeviceArray:
    """A tensor as a kernel's array; copied if it is not contiguous or not aligned.

    An output must be contiguous: what `empty` without strides gives.
    """
    return _array_of(tensor, tuple(tensor.shape))


def flat_array(tensor: torch.Tensor) -> DeviceArray:
    """A tensor as a kernel's array of one dimension; as `as_array`."""
    return _array_of(tensor, (tensor.numel(),))


def _array_of(tensor: torch.Tensor, shape: tuple[int, ...]) -> DeviceArray:
    if not tensor.is_contiguous():
        tensor = tensor.contiguous()
    storage: Buffer | BufferView = memory(tensor)
    start = int(tensor.storage_offset()) * ITEM_BYTES[tensor.dtype]
    if start:
        if start % ALIGNMENT:
            storage = memory(tensor.clone(memory_format=torch.contiguous_format))
        else:
            storage = storage.view(start)  # type: ignore[union-attr]
    return DeviceArray(state.device(), shape, KINDS[tensor.dtype], storage)


def from_array(array: DeviceArray) -> torch.Tensor:
    """An array that a kernel returned as a tensor of the same memory.

    Raises:
        KernelError: an array of another device, or of truth values.
    """
    dtype = {"f32": torch.float32, "f16": torch.float16, "i32": torch.int32}.get(array.dtype)
    if dtype is None or not isinstance(array.storage, Buffer):
        raise KernelError(f"a {array.dtype} array of another device cannot become a tensor")
    tensor: torch.Tensor = _create(array.shape, dtype)
    storage = tensor.untyped_storage()
    _set(_META, tensor, storage, 0, array.shape, tensor.stride())
    storage.memory = array.storage  # type: ignore[attr-defined]
    return tensor


@functools.cache
def _written(stem: str) -> frozenset[str]:
    """Names of the arrays that a kernel writes."""
    return frozenset(binding.name for binding in get_kernel(stem).outputs)


def run_kernel(stem: str, **arguments: Any) -> None:
    """Run a kernel on tensors of the device, numbers and None for what is left out.

    Tensors are passed by the names of the kernel's arrays, outputs too (made by `empty`). Inputs
    may be views: they are made contiguous. An output must not be one.

    Raises:
        KernelError: as `KernelDevice.run`.
    """
    writes = _written(stem)
    staged = {}
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            if name in writes and not is_bindable(value):
                raise KernelError(
                    f"kernel {stem}: {name!r} must be contiguous and start at a multiple of "
                    f"{ALIGNMENT} bytes: give it a tensor of its own"
                )
            staged[name] = as_array(value)
        elif value is not None:
            staged[name] = value
    state.device().run(stem, **staged)


def is_bindable(tensor: torch.Tensor) -> bool:
    """Whether kernels can write a tensor where it stands: contiguous, and aligned."""
    start = int(tensor.storage_offset()) * ITEM_BYTES[tensor.dtype]
    return tensor.is_contiguous() and start % ALIGNMENT == 0
