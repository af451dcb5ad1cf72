"""Every kernel, every case, every variant: WGSL and mirror against float64 and each other."""

import pytest

from ebm_wgpu.kernels import KernelDevice, get_kernel, kernel_names
from ebm_wgpu.kernels.verify import verify_gradient, verify_parity

WITH_GRADIENT = [stem for stem in kernel_names() if get_kernel(stem).gradient is not None]


@pytest.mark.parametrize("stem", kernel_names())
def test_parity(stem: str, numba_device: KernelDevice, wgpu_device: KernelDevice) -> None:
    verdicts = list(verify_parity(stem, [wgpu_device, numba_device]))
    missed = [v for v in verdicts if not v.passed]
    assert not missed
    subjects = {v.subject for v in verdicts}
    assert {"wgpu", "numba", "wgpu-numba"} <= subjects


@pytest.mark.parametrize("stem", WITH_GRADIENT)
def test_gradient(stem: str, numba_device: KernelDevice, wgpu_device: KernelDevice) -> None:
    verdicts = list(verify_gradient(stem, [wgpu_device, numba_device]))
    assert {v.subject for v in verdicts} == {"wgpu", "numba"}
    assert not [v for v in verdicts if not v.passed]
