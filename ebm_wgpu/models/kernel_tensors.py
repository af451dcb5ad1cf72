"""Tensors as kernels see them: in main memory, or on torch.device("wgpu"), where none is copied."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from ebm_wgpu.kernels import DeviceArray, KernelDevice
from ebm_wgpu.kernels.products import multiply

_halving: ContextVar[bool] = ContextVar("halving", default=False)


@contextlib.contextmanager
def half_operands() -> Iterator[None]:
    """A block in which products on torch.device("wgpu") read what is `Kernels.halved` as float16.

    They add in float32, and all else is float32, gradients too, so that no loss need be scaled.
    """
    before = _halving.set(True)
    try:
        yield
    finally:
        _halving.reset(before)


class Kernels:
    """Runs kernels on tensors; results come to be where the tensors are.

    Tensors of main memory are shared with Numba, and go up and down once a call on a GPU. Those of
    torch.device("wgpu") are arrays of that device already, which must be the one that runs the
    kernels. int64 tensors become 32-bit.

    Attributes:
        device: runs the kernels.
    """

    def __init__(self, device: KernelDevice, like: Tensor) -> None:
        """Kernels for tensors that are where `like` is."""
        self.device = device
        self._resident = like.device.type == "wgpu"
        self._halves = self._resident and _halving.get()

    def array(self, tensor: Tensor | DeviceArray) -> DeviceArray:
        """A tensor as an array, to be used by several kernels; its memory may be the tensor's."""
        if isinstance(tensor, DeviceArray):
            return tensor
        tensor = tensor.detach()
        if self._resident:
            from ebm_wgpu.torch_device.tensors import as_array

            return as_array(tensor)
        whole = not tensor.is_floating_point()
        host = tensor.to(torch.int32 if whole else torch.float32).contiguous().numpy()
        dtype = "i32" if whole else "f32"
        if self.device.name == "numba":
            return DeviceArray(self.device, host.shape, dtype, host)
        return self.device.array(host, dtype)

    def halved(self, operand: Tensor) -> Tensor:
        """An operand as products are to read it: in float16 if this was made in `half_operands`."""
        return operand.half() if self._halves else operand

    def tensor(self, array: DeviceArray) -> Tensor:
        """An array as a tensor; its memory is the array's, but for main memory beside a GPU."""
        if self._resident:
            from ebm_wgpu.torch_device.tensors import from_array

            return from_array(array)
        return torch.from_numpy(array.numpy())

    def update(self, stem: str, tensors: Mapping[str, Tensor], **arguments: Any) -> None:
        """Run a kernel that changes contiguous float32 tensors, its "inout" arrays of these names.

        Raises:
            KernelError: as `KernelDevice.run`.
        """
        arrays = {name: self.array(tensor) for name, tensor in tensors.items()}
        self.run(stem, **arrays, **arguments)
        for name, tensor in tensors.items():
            if not self._resident and self.device.name != "numba":
                tensor.detach().copy_(self.tensor(arrays[name]))
            torch.autograd.graph.increment_version(tensor)

    def run(self, stem: str, **arguments: Any) -> dict[str, DeviceArray]:
        """Run a kernel on tensors, arrays and numbers.

        Raises:
            KernelError: as `KernelDevice.run`.
        """
        staged = {n: self.array(v) if isinstance(v, Tensor) else v for n, v in arguments.items()}
        return self.device.run(stem, **staged)

    def outputs(self, stem: str, *names: str, **arguments: Any) -> list[Tensor]:
        """Outputs of a kernel, by name, as tensors.

        Raises:
            KernelError: as `KernelDevice.run`.
        """
        result = self.run(stem, **arguments)
        return [self.tensor(result[name]) for name in names]

    def product(
        self,
        a: Tensor | DeviceArray,
        b: Tensor | DeviceArray,
        *,
        trans_a: bool = False,
        trans_b: bool = False,
        add_to: DeviceArray | None = None,
    ) -> DeviceArray:
        """op(a) op(b), op(m) = m or its transpose, added to an array in place if one is given.

        Transposed views are read where they stand.

        Raises:
            KernelError: the shapes do not fit together.
        """
        left, flipped_a = self._operand(a)
        right, flipped_b = self._operand(b)
        return multiply(
            self.device,
            left,
            right,
            trans_a=trans_a ^ flipped_a,
            trans_b=trans_b ^ flipped_b,
            out=add_to,
            accumulate=add_to is not None,
        )

    def _operand(self, value: Tensor | DeviceArray) -> tuple[DeviceArray, bool]:
        """A matrix as an array, and whether as its transpose."""
        if isinstance(value, DeviceArray):
            return value, False
        flipped = not value.is_contiguous() and value.T.is_contiguous()
        return self.array(value.T if flipped else value), flipped
