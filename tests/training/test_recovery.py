import math
import sys
import types

import pytest
import torch
from torch import nn

from ebm_wgpu.errors import CheckpointError, DeviceError
from ebm_wgpu.training.recovery import (
    DivergedError,
    check_finite,
    device_lost,
    gave_up,
    has_finite_parameters,
    is_device_loss,
)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("figure", ["loss", "grad_norm"])
def test_what_is_not_finite_is_named(figure, value):
    with pytest.raises(DivergedError, match=rf"{figure} is {value} at step 7") as caught:
        check_finite({"loss": 1.0, "grad_norm": 1.0, figure: value}, 7)
    assert (caught.value.figure, caught.value.step) == (figure, 7)
    check_finite({"loss": 1.0, "grad_norm": 0.0, "energy": math.nan}, 7)


def test_finite_parameters_are_all_finite():
    model = nn.Linear(2, 2)
    assert has_finite_parameters(model)
    with torch.no_grad():
        model.bias[1] = math.inf
    assert not has_finite_parameters(model)


def test_giving_up_says_what_is_left_and_what_to_do():
    error = DivergedError("loss", math.nan, 7)
    assert str(gave_up(error, 5)).startswith("loss is nan at step 7; checkpoint 5 is kept: start")
    assert "no checkpoint was written yet" in str(gave_up(error, None))


def test_a_lost_device_is_told_from_other_errors(monkeypatch):
    class GPUError(Exception):
        pass

    monkeypatch.setitem(sys.modules, "wgpu", types.SimpleNamespace(GPUError=GPUError))
    for error in (
        DeviceError("the device was lost"),
        RuntimeError("Validation Error\n  Parent device is lost"),
        GPUError("Device lost (reset)"),
        RuntimeError("VK_ERROR_DEVICE_LOST: DeviceLost"),
    ):
        assert is_device_loss(error)
    for error in (
        DeviceError("no adapter was found"),
        RuntimeError("shape mismatch"),
        CheckpointError("device lost.txt cannot be read"),
        GPUError("out of memory"),
    ):
        assert not is_device_loss(error)
    monkeypatch.delitem(sys.modules, "wgpu")
    assert is_device_loss(RuntimeError("Parent device is lost"))


def test_the_error_of_a_lost_device_is_one_line_with_a_remedy():
    message = str(device_lost(RuntimeError("Validation\n  Parent device is lost"), 40))
    assert "\n" not in message
    assert "checkpoint 40 is kept: go on with `ebm train --resume`" in message
    assert "--device numba" in message
