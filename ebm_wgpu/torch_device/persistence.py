"""Copies of tensors that outlive their device: copy.deepcopy, torch.save and pickle.

torch reads the memory of a storage there, which a tensor of the device has none of. A deep copy is
a clone on the device; what is saved is a copy in main memory, so that files load anywhere.
"""

from __future__ import annotations

from typing import Any

import torch

from ebm_wgpu.torch_device.tensors import is_device_tensor


def install() -> None:
    """Teach torch.Tensor to copy and to save tensors of the device."""
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
