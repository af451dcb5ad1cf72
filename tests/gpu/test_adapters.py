"""Finding adapters, and saying what to install where there is none."""

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.gpu import adapters
from ebm_wgpu.gpu.adapters import MOST_BINDINGS, AdapterInfo, list_adapters, select_adapter
from ebm_wgpu.kernels.registry import get_kernel, kernel_names


def test_hardware_comes_before_software() -> None:
    software = [info.is_software for info in list_adapters()]
    assert software == sorted(software)


def test_an_adapter_that_cannot_bind_what_kernels_bind_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = select_adapter()[0]
    limits = {**good.limits, "max-storage-buffers-per-shader-stage": MOST_BINDINGS - 1}
    poor = replace(good, backend="OpenGL", limits=limits)
    bare = replace(good, features=())
    found: list[tuple[AdapterInfo, Any]] = [(poor, "poor"), (bare, "bare"), (good, "good")]
    monkeypatch.setattr(adapters, "_adapters", lambda backend: found)
    assert select_adapter() == (good, "good")
    found.pop()
    with pytest.raises(DeviceError, match=r"OpenGL, CPU\) lacks bindings for 17 arrays"):
        select_adapter()


def test_the_bound_on_bindings_is_that_of_the_kernels() -> None:
    assert max(len(get_kernel(stem).bindings) for stem in kernel_names()) == MOST_BINDINGS


def test_unknown_backend_is_an_error_that_names_what_to_install() -> None:
    with pytest.raises(DeviceError, match="mesa-vulkan-drivers"):
        select_adapter(backend="Metal" if sys.platform != "darwin" else "D3D12")


def test_without_any_driver_the_gpu_is_refused_and_auto_takes_numba() -> None:
    script = (
        "from ebm_wgpu.kernels import open_device\n"
        "from ebm_wgpu.errors import DeviceError\n"
        "print(open_device('auto').name)\n"
        "try: open_device('vulkan')\n"
        "except DeviceError as e: print(e)\n"
    )
    hidden = {**os.environ, "VK_DRIVER_FILES": "/nonexistent", "VK_ICD_FILENAMES": "/nonexistent"}
    result = subprocess.run(
        [sys.executable, "-c", script], env=hidden, capture_output=True, text=True, check=True
    )
    first, second = result.stdout.splitlines()
    assert first == "numba"
    assert "no Vulkan GPU adapter was found" in second
