"""The one WgpuDevice behind torch.device("wgpu"), opened at the first tensor."""

from __future__ import annotations

import os
import threading

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.kernels.device import WgpuDevice

BACKEND_VARIABLE = "EBM_WGPU_BACKEND"
"""Environment variable: the wgpu backend to open ("Vulkan", "Metal", "D3D12")."""

_device: WgpuDevice | None = None
_lock = threading.Lock()


def device() -> WgpuDevice:
    """The device that all tensors live on.

    Raises:
        DeviceError: there is no adapter.
    """
    return _device if _device is not None else open_device()


def open_device(backend: str | None = None, memory_budget: int | None = None) -> WgpuDevice:
    """Open the device with other settings than the environment's, before the first tensor.

    Args:
        backend: take only adapters of this backend; by default what the environment variable
            EBM_WGPU_BACKEND says.
        memory_budget: bytes of device memory to use at most; by default what the environment
            variable EBM_WGPU_MEMORY_BUDGET says.

    Raises:
        DeviceError: it is open already, or there is no adapter.
    """
    global _device
    with _lock:
        if _device is None:
            chosen = backend or os.environ.get(BACKEND_VARIABLE) or None
            _device = WgpuDevice(chosen, memory_budget=memory_budget)
        elif backend is not None or memory_budget is not None:
            raise DeviceError(
                f'torch.device("wgpu") is open on {_device.description}: choose backend and budget '
                "before the first tensor"
            )
        return _device


def adopt(chosen: WgpuDevice) -> WgpuDevice:
    """Let tensors live on a device that kernels run on already.

    Returns:
        It, or the device that tensors are on already.
    """
    global _device
    with _lock:
        if _device is None:
            _device = chosen
        return _device


def is_open() -> bool:
    """Whether a tensor has been made, or the device opened."""
    return _device is not None


def synchronize() -> None:
    """Wait until the device has run everything asked of it."""
    if _device is not None:
        _device.synchronize()
