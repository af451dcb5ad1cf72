"""Rotary positions: those of the models, and their inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.rotary import rotary_table, rotate

OPTIONS = {"offset": 0, "period": 1, "inverse": 0, "interleaved": 0}


def test_the_turn_is_that_of_the_models(any_device: KernelDevice) -> None:
    batch, time, heads, width, past = 3, 11, 2, 16, 7
    cos, sin = rotary_table(past + time, width)
    x = torch.randn(batch, time, heads, width, generator=torch.Generator().manual_seed(0))
    expected = rotate(x.transpose(1, 2), cos[past:], sin[past:]).transpose(1, 2)
    out = any_device.run(
        "rotary",
        x=x.numpy().reshape(batch * time, heads, width),
        cos=cos.numpy(),
        sin=sin.numpy(),
        **{**OPTIONS, "offset": past, "period": time},
    )["out"]
    np.testing.assert_allclose(out.numpy().reshape(x.shape), expected.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_the_inverse_turns_back(any_device: KernelDevice, interleaved: int) -> None:
    cos, sin = (table.numpy() for table in rotary_table(5, 8))
    x = np.random.default_rng(1).standard_normal((5, 3, 8)).astype(np.float32)
    options = {**OPTIONS, "period": 5, "interleaved": interleaved}
    turned = any_device.run("rotary", x=x, cos=cos, sin=sin, **options)["out"]
    back = any_device.run("rotary", x=turned, cos=cos, sin=sin, **{**options, "inverse": 1})["out"]
    assert np.abs(turned.numpy() - x).max() > 0.1
    np.testing.assert_allclose(back.numpy(), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("width", "changed", "complaint"),
    [
        (6, {}, "tables of 3 columns, not 4"),
        (8, {"offset": 4, "period": 2}, "position 5 lies beyond the 5 rows"),
        (8, {"period": 0}, "period=0"),
    ],
)
def test_positions_outside_the_tables_are_refused(
    any_device: KernelDevice, width: int, changed: dict[str, int], complaint: str
) -> None:
    table = np.zeros((5, 4))
    with pytest.raises(KernelError, match=complaint):
        any_device.run(
            "rotary", x=np.zeros((2, 1, width)), cos=table, sin=table, **{**OPTIONS, **changed}
        )
