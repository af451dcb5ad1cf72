"""Heads of attention: those of the models, gradients that put them back, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.rotary import attention_heads, rotary_table


def test_the_heads_are_those_of_the_models(any_device: KernelDevice) -> None:
    batch, time, heads, width, past = 3, 11, 2, 16, 7
    cos, sin = (table[past:] for table in rotary_table(past + time, width))
    x = torch.randn(batch, time, 3 * heads * width, generator=torch.Generator().manual_seed(0))
    expected = attention_heads(x, heads, cos, sin)
    found = any_device.run(
        "attention_heads", x=x.numpy(), cos=cos[None].numpy(), sin=sin[None].numpy()
    )
    for part, wanted in zip("qkv", expected, strict=True):
        np.testing.assert_allclose(found[part].numpy(), wanted.numpy(), rtol=1e-6, atol=1e-6)


def test_turns_keep_lengths_so_that_the_backward_puts_all_back(any_device: KernelDevice) -> None:
    cos, sin = (table[None].numpy() for table in rotary_table(5, 8))
    x = np.random.default_rng(1).standard_normal((2, 5, 3 * 3 * 8)).astype(np.float32)
    heads = any_device.run("attention_heads", x=x, cos=cos, sin=sin)
    assert np.abs(heads["q"].numpy()[:, 0] - x[..., :8]).max() > 0.1
    np.testing.assert_array_equal(heads["v"].numpy()[:, 1], x[..., 56:64])
    pulls = {f"grad_{part}": values for part, values in heads.items()}
    back = any_device.run("attention_heads_backward", **pulls, cos=cos, sin=sin)["grad_x"]
    np.testing.assert_allclose(back.numpy(), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("stem", "shape", "tables", "complaint"),
    [
        ("attention_heads", (3, 5, 20), 1, "20 entries are no queries, keys and values of heads"),
        ("attention_heads", (3, 5, 24), 2, "2 tables for 3 texts"),
        ("attention_heads_backward", (3, 1, 5, 6), 1, "tables of 3 columns, not 4"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(
    any_device: KernelDevice, stem: str, shape: tuple[int, ...], tables: int, complaint: str
) -> None:
    table, given = np.zeros((tables, 5, 4)), np.zeros(shape)
    names = ("x",) if stem == "attention_heads" else ("grad_q", "grad_k", "grad_v")
    with pytest.raises(KernelError, match=complaint):
        any_device.run(stem, **dict.fromkeys(names, given), cos=table, sin=table)
