"""Dropout: its share, its independence of the split into calls, its gradient, its limits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.kernels.dropout import dropout_params


def _kept(device: KernelDevice, count: int, probability: float, **counter: int) -> np.ndarray:
    params = dropout_params(probability, **{"seed": 5, "step": 0, "site": 0, **counter})
    return device.run("dropout", x=np.ones(count), **params)["out"].numpy() > 0


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_the_share_is_the_probability(any_device: KernelDevice, probability: float) -> None:
    kept = _kept(any_device, 40_000, probability)
    assert stats.binomtest(int(kept.sum()), kept.size, 1 - probability).pvalue > 1e-3


@pytest.mark.parametrize("changed", ["seed", "step", "site"])
def test_each_counter_gives_other_numbers(any_device: KernelDevice, changed: str) -> None:
    first = _kept(any_device, 10_000, 0.5)
    second = _kept(any_device, 10_000, 0.5, **{changed: 1})
    agree = int((first == second).sum())
    assert stats.binomtest(agree, first.size, 0.5).pvalue > 1e-3


def test_devices_keep_the_same_entries(
    numba_device: KernelDevice, wgpu_device: KernelDevice
) -> None:
    kept = [_kept(device, 5_003, 0.3, seed=2**63) for device in (numba_device, wgpu_device)]
    np.testing.assert_array_equal(*kept)


def test_the_expectation_is_the_input(any_device: KernelDevice) -> None:
    x = np.random.default_rng(0).standard_normal(2_000).astype(np.float32)
    total = sum(
        any_device.run("dropout", x=x, **dropout_params(0.25, 1, step, 0))["out"].numpy()
        for step in range(200)
    )
    score = (total / 200 - x) / (np.abs(x) * (0.25 / 0.75 / 200) ** 0.5)
    assert abs(score).max() < 5


def test_a_probability_outside_is_refused() -> None:
    with pytest.raises(KernelError, match=r"1\.5 must lie between 0 and 1"):
        dropout_params(1.5, 0, 0, 0)
