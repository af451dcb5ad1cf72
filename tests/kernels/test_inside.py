"""Kernels that say they stay inside their arrays neither use nor change what lies behind them."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.kernels._wgpu_device import UNCHECKED_VARIABLE
from ebm_wgpu.kernels.device import DeviceArray, WgpuDevice, open_device
from ebm_wgpu.kernels.registry import get_kernel, kernel_names
from ebm_wgpu.kernels.verify import _case_inputs

INSIDE = [stem for stem in kernel_names() if get_kernel(stem).stays_inside]
MARK = np.float32(np.nan)


@pytest.fixture
def unchecked() -> WgpuDevice:
    device = WgpuDevice()
    device.unchecked = True
    return device


def behind(array: DeviceArray) -> tuple[int, int]:
    """Where in its memory an array ends, and how many numbers fit behind it."""
    end = 4 * int(np.prod(array.shape))
    return end, (array.storage.block.capacity - end) // 4


@pytest.mark.parametrize("stem", INSIDE)
def test_what_lies_behind_the_arrays_is_left_alone(unchecked: WgpuDevice, stem: str) -> None:
    kernel, runtime = get_kernel(stem), unchecked.runtime
    marked = 0
    for case in kernel.cases:
        inputs = _case_inputs(kernel, case, frozenset())
        staged = {name: unchecked.array(values) for name, values in inputs.items()}
        for array in staged.values():
            end, room = behind(array)
            runtime.write(array.storage, np.full(room, MARK), end)
            marked += room
        outputs = unchecked.run(stem, **staged, **case.params)
        expected = kernel.reference_outputs(inputs, case.params, case.dims)
        for name, values in expected.items():
            assert np.array_equal(np.isnan(outputs[name].numpy()), np.isnan(values)), case.name
        for name, array in staged.items():
            end, room = behind(array)
            rest = runtime.read(array.storage, np.dtype(np.float32), (room,), end)
            assert np.isnan(rest).all(), (case.name, name)
    assert marked > 1000


def test_products_by_tiles_are_among_them() -> None:
    assert any(stem.startswith("matmul_tiled") for stem in INSIDE)


def test_the_environment_chooses_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting, unchecked in (("0", False), ("1", True)):
        monkeypatch.setenv(UNCHECKED_VARIABLE, setting)
        device = open_device("wgpu")
        assert isinstance(device, WgpuDevice)
        assert device.unchecked is unchecked
    monkeypatch.setenv(UNCHECKED_VARIABLE, "yes")
    with pytest.raises(DeviceError, match="'yes' must be 0, 1 or unset"):
        open_device("wgpu")
