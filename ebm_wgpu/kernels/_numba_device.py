"""The processor as a device: kernels run as their Numba mirrors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import numpy as np

from ebm_wgpu.kernels._kernel_device import DeviceArray, KernelDevice
from ebm_wgpu.kernels.spec import DTYPES, Array, Binding, Kernel, Scalar, call_by_name


class NumbaDevice(KernelDevice):
    """Runs the Numba mirrors on the processor."""

    name = "numba"

    def __init__(self) -> None:
        """Numba itself is loaded with the first kernel."""
        self.description = f"Numba on {os.cpu_count()} processor cores"

    def synchronize(self) -> None:
        """Nothing to wait for: mirrors finish before they return."""

    def _upload(self, host: Array, dtype: str) -> DeviceArray:
        return DeviceArray(self, host.shape, dtype, host)

    def _allocate(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        return DeviceArray(self, shape, dtype, np.empty(shape, DTYPES[dtype]))

    def _stage(self, host: Array, binding: Binding) -> DeviceArray:
        # A mirror never writes an "in" array, so a contiguous one needs no copy.
        if binding.access == "in":
            host = np.ascontiguousarray(host, DTYPES[binding.dtype])
            return self._upload(host, binding.dtype)
        return super()._stage(host, binding)

    def _download(self, array: DeviceArray) -> Array:
        return array.storage

    def _overwrite(self, array: DeviceArray, host: Array) -> None:
        array.storage[...] = host

    def _launcher(
        self,
        kernel: Kernel,
        arrays: Mapping[str, DeviceArray],
        params: Mapping[str, Scalar],
        dims: Mapping[str, int],
    ) -> Callable[[Mapping[str, Scalar]], None]:
        def start(current: Mapping[str, Scalar]) -> None:
            hosts, converted = {}, []
            for binding in kernel.bindings:
                storage = arrays[binding.name].storage
                host = storage
                if host.dtype != DTYPES[binding.dtype]:
                    host = host.astype(DTYPES[binding.dtype])
                    if binding.access != "in":
                        converted.append((storage, host))
                hosts[binding.name] = host
            call_by_name(kernel.mirror, {**dims, **current, **hosts})
            with np.errstate(over="ignore", invalid="ignore"):
                for storage, host in converted:
                    storage[...] = host

        return start
