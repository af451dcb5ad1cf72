"""Rotary positions: those of the models, and their inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.kernels.rotary import contiguous
from ebm_wgpu.models.rotary import rotary_table, rotate


def test_the_turn_is_that_of_the_models(any_device: KernelDevice) -> None:
    batch, time, heads, width, past = 3, 11, 2, 16, 7
    cos, sin = (table[past:] for table in rotary_table(past + time, width))
    x = torch.randn(batch, time, heads, width, generator=torch.Generator().manual_seed(0))
    expected = rotate(x.transpose(1, 2), cos, sin)
    turned = any_device.run(
        "rotary",
        x=x.numpy().reshape(-1),
        cos=cos[None].numpy(),
        sin=sin[None].numpy(),
        x_at=0,
        x_batch=time * heads * width,
        x_head=width,
        x_time=heads * width,
        inverse=0,
        B=batch,
        H=heads,
        D=width,
    )["out"]
    np.testing.assert_allclose(turned.numpy(), expected.numpy(), rtol=1e-6, atol=1e-6)


def test_the_inverse_turns_back(any_device: KernelDevice) -> None:
    cos, sin = (table[None].numpy() for table in rotary_table(5, 8))
    x = np.random.default_rng(1).standard_normal((2, 3, 5, 8)).astype(np.float32)
    shared = {"cos": cos, "sin": sin, "B": 2, "H": 3, "D": 8, **contiguous(3, 5, 8)}
    turned = any_device.run("rotary", x=x.reshape(-1), **shared, inverse=0)["out"].numpy()
    back = any_device.run("rotary", x=turned.reshape(-1), **shared, inverse=1)["out"]
    assert np.abs(turned - x).max() > 0.1
    np.testing.assert_allclose(back.numpy(), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("width", "tables", "complaint"),
    [(6, 1, "tables of 3 columns, not 4"), (8, 2, "2 tables for 3 texts")],
)
def test_tables_of_other_sizes_are_refused(
    any_device: KernelDevice, width: int, tables: int, complaint: str
) -> None:
    table = np.zeros((tables, 5, 4))
    options = {"B": 3, "H": 1, "D": width, **contiguous(1, 5, width), "inverse": 0}
    with pytest.raises(KernelError, match=complaint):
        any_device.run("rotary", x=np.zeros(15 * width), cos=table, sin=table, **options)
