"""Find the GPU adapters wgpu can see and choose one.

A software adapter (Mesa lavapipe reports adapter type "CPU") runs every kernel correctly but
slowly; it is listed, and used only when the caller allows it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ebm_wgpu.errors import DeviceError

_TYPE_RANK = {"DiscreteGPU": 0, "IntegratedGPU": 1, "VirtualGPU": 2, "Unknown": 3, "CPU": 4}
_BACKEND_RANK = {"Vulkan": 0, "Metal": 1, "D3D12": 2, "OpenGL": 3}
_BINDINGS_LIMIT = "max-storage-buffers-per-shader-stage"

MOST_BINDINGS = 17
"""Most arrays that a kernel of this package binds. Mesa's OpenGL has 16, all else more."""

INSTALL_HINT = (
    "install a Vulkan driver for the GPU, or Mesa's software adapter "
    "(Debian/Ubuntu: apt-get install libvulkan1 mesa-vulkan-drivers), or use --device numba"
)


@dataclass(frozen=True)
class AdapterInfo:
    """What one adapter is and what it can do.

    Attributes:
        name: device name as the driver reports it.
        backend: "Vulkan", "Metal", "D3D12" or "OpenGL".
        kind: "DiscreteGPU", "IntegratedGPU", "VirtualGPU", "CPU" or "Unknown".
        driver: driver name and version.
        features: optional WebGPU features, sorted.
        limits: WebGPU limits by name, in the units of the specification (bytes, counts).
    """

    name: str
    backend: str
    kind: str
    driver: str
    features: tuple[str, ...]
    limits: Mapping[str, int]

    @property
    def is_software(self) -> bool:
        """Whether the adapter runs on the processor instead of a GPU."""
        return self.kind == "CPU"

    @property
    def lacks(self) -> str:
        """What kernels need and the adapter has not, in words; empty if it can run them."""
        if "immediates" not in self.features:
            return "immediates"
        if self.limits[_BINDINGS_LIMIT] < MOST_BINDINGS:
            has = self.limits[_BINDINGS_LIMIT]
            return f"bindings for {MOST_BINDINGS} arrays a kernel (it has {has})"
        return ""

    @property
    def summary(self) -> str:
        """One line naming device, driver and backend."""
        return f"{self.name} ({self.driver}; {self.backend}, {self.kind})"


def _describe(adapter: Any) -> AdapterInfo:
    info = adapter.info
    return AdapterInfo(
        name=info["device"],
        backend=info["backend_type"],
        kind=info["adapter_type"],
        driver=info["description"],
        features=tuple(sorted(adapter.features)),
        limits=dict(adapter.limits),
    )


def _adapters(backend: str | None) -> list[tuple[AdapterInfo, Any]]:
    # Mesa complains on stderr when this is unset, as it is in containers.
    os.environ.setdefault("XDG_RUNTIME_DIR", "/tmp")
    try:
        import wgpu

        adapters = wgpu.gpu.enumerate_adapters_sync()
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceError(f"wgpu cannot start ({error}); {INSTALL_HINT}") from error
    found = [(_describe(adapter), adapter) for adapter in adapters]
    kept = [pair for pair in found if backend is None or pair[0].backend == backend]
    return sorted(
        kept,
        key=lambda pair: (
            _TYPE_RANK.get(pair[0].kind, 3),
            _BACKEND_RANK.get(pair[0].backend, 4),
        ),
    )


def list_adapters(backend: str | None = None) -> list[AdapterInfo]:
    """All adapters, best first: discrete before integrated before software, Vulkan before OpenGL.

    Args:
        backend: keep only this backend ("Vulkan", "Metal", "D3D12", "OpenGL").

    Raises:
        DeviceError: the wgpu library itself cannot start.
    """
    return [info for info, _ in _adapters(backend)]


def select_adapter(
    backend: str | None = None, allow_software: bool = True
) -> tuple[AdapterInfo, Any]:
    """The best adapter that can run the kernels, as (description, wgpu adapter).

    Raises:
        DeviceError: there is none; the message names what those found lack, and what to install.
    """
    found = [pair for pair in _adapters(backend) if allow_software or not pair[0].is_software]
    for info, adapter in found:
        if not info.lacks:
            return info, adapter
    wanted = "" if backend is None else f"{backend} "
    kind = "" if allow_software else "hardware "
    lacking = "".join(f"; {info.summary} lacks {info.lacks}" for info, _ in found)
    raise DeviceError(f"no {kind}{wanted}GPU adapter was found{lacking}; {INSTALL_HINT}")
