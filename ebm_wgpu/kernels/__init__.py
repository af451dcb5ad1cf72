"""Compute kernels: each written once in WGSL, mirrored once in Numba, proven against float64.

`wgsl/<stem>.wgsl` and `ebm_wgpu/kernels/<stem>.py` belong together. `open_device` gives a device
that runs any of them by name; `ebm verify-kernels` proves them all.
"""

from ebm_wgpu.kernels.device import DeviceArray, KernelDevice, Launch, open_device
from ebm_wgpu.kernels.registry import get_kernel, kernel_names

__all__ = ["DeviceArray", "KernelDevice", "Launch", "get_kernel", "kernel_names", "open_device"]
