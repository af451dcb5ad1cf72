"""Finding adapters, and saying what to install where there is none."""

import os
import subprocess
import sys

import pytest

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.gpu.adapters import list_adapters, select_adapter


def test_hardware_comes_before_software() -> None:
    software = [info.is_software for info in list_adapters()]
    assert software == sorted(software)


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
