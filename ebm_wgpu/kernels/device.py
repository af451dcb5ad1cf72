"""Run kernels by name on wgpu or on Numba, with the same arguments and the same results."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.kernels._kernel_device import DeviceArray, KernelDevice, Launch
from ebm_wgpu.kernels._numba_device import NumbaDevice
from ebm_wgpu.kernels._wgpu_device import WgpuDevice

__all__ = [
    "DEVICE_NAMES",
    "DeviceArray",
    "KernelDevice",
    "Launch",
    "NumbaDevice",
    "WgpuDevice",
    "open_device",
]


def _open_auto() -> KernelDevice:
    try:
        return WgpuDevice(allow_software=False)
    except DeviceError:
        return NumbaDevice()


_OPENERS: Mapping[str, Callable[[], KernelDevice]] = {
    "auto": _open_auto,
    "wgpu": WgpuDevice,
    "vulkan": lambda: WgpuDevice(backend="Vulkan"),
    "numba": NumbaDevice,
    "cpu": NumbaDevice,
}
DEVICE_NAMES = tuple(_OPENERS)


def open_device(name: str = "auto") -> KernelDevice:
    """Open a device to run kernels on.

    Args:
        name: "auto" takes a hardware adapter if there is one and Numba otherwise; "wgpu" any
            adapter, software ones too; "vulkan" the same on Vulkan; "numba" or "cpu" the mirrors.

    Raises:
        DeviceError: unknown name, or no adapter where one was asked for.
    """
    opener = _OPENERS.get(name)
    if opener is None:
        raise DeviceError(f"unknown device {name!r}; choose one of {', '.join(DEVICE_NAMES)}")
    return opener()
