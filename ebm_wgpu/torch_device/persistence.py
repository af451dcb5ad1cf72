"""Copies of tensors that outlive their device: copy.deepcopy, torch.save, torch.load and pickle.

torch reads the memory of a storage there, which a tensor of the device has none of. A deep copy is
a clone on the device; what is saved is a copy in main memory, so that files load anywhere. With
`map_location="wgpu"` a storage is read into main memory and copied, as the type its tensors have,
when the first of them is made of it; tensors that shared memory share it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ebm_wgpu.torch_device.tensors import is_device_tensor

_BEFORE_TORCH = 15
"""A priority among those that place loaded storages: torch's own for private devices has 23."""


def _wanted_here(storage: Any, location: str) -> Any:
    """A storage in main memory that remembers that its tensors belong on the device."""
    if location.split(":")[0] != "wgpu":
        return None
    storage.copies = {}
    return storage


def _rebuilt_here(rebuild: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`torch._utils._rebuild_tensor` that also makes tensors of storages that belong here."""

    def rebuilt(
        storage: Any, storage_offset: int, size: Sequence[int], stride: Sequence[int]
    ) -> torch.Tensor:
        copies = getattr(storage._untyped_storage, "copies", None)
        if copies is None:
            return rebuild(storage, storage_offset, size, stride)
        if storage.dtype not in copies:
            whole = storage._untyped_storage.nbytes() // storage._element_size()
            copies[storage.dtype] = rebuild(storage, 0, (whole,), (1,)).to("wgpu")
        copied: torch.Tensor = copies[storage.dtype]
        return copied.as_strided(tuple(size), tuple(stride), storage_offset)

    return rebuilt


def install() -> None:
    """Teach torch to copy, to save and to load tensors of the device."""
    torch.serialization.register_package(_BEFORE_TORCH, lambda _: None, _wanted_here)
    torch._utils._rebuild_tensor = _rebuilt_here(torch._utils._rebuild_tensor)
    deep_copy, reduce_plain = torch.Tensor.__deepcopy__, torch.Tensor._reduce_ex_internal

    def deep_copy_here(self: torch.Tensor, memo: dict[int, Any]) -> Any:
        if not is_device_tensor(self) or not self.is_leaf:
            return deep_copy(self, memo)
        if id(self) not in memo:
            copied = self.detach().clone().requires_grad_(self.requires_grad)
            if self.grad is not None:
                copied.grad = deep_copy_here(self.grad, memo)
            vars(copied).update(vars(self))
            memo[id(self)] = copied
        return memo[id(self)]

    def reduce_here(self: torch.Tensor, protocol: int) -> Any:
        if is_device_tensor(self):
            self = self.detach().cpu().requires_grad_(self.requires_grad)
        return reduce_plain(self, protocol)

    torch.Tensor.__deepcopy__ = deep_copy_here  # type: ignore[method-assign]
    torch.Tensor._reduce_ex_internal = reduce_here  # type: ignore[method-assign]
