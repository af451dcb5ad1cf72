"""Laws of the activations at the end of a product, beyond the case tables."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.kernels._activation import ACTIVATIONS, activation_number


def activated(device: KernelDevice, x: np.ndarray, name: str) -> np.ndarray:
    outputs = device.run(
        "matmul_sum",
        partial=x.astype(np.float32).reshape(1, 1, -1),
        bias=np.zeros(0),
        out=np.zeros((1, 1, len(x))),
        alpha=1.0,
        activation=activation_number(name),
        accumulate=0,
    )
    return outputs["out"].numpy().ravel()


def test_gelu_keeps_its_relative_accuracy_in_the_tails(any_device: KernelDevice) -> None:
    """Phi(x) errs by 4e-7 (1 + x^2 / 2) of itself, as lib/normal_cdf says; x Phi(x) rounds once."""
    x = np.linspace(-12, 12, 4801).astype(np.float32)
    x64 = x.astype(np.float64)
    expected = x64 * ndtr(x64)
    error = np.abs(activated(any_device, x, "gelu") - expected)
    assert (error <= (4e-7 * (1 + x64**2 / 2) + 1.2e-7) * np.abs(expected)).all()


@pytest.mark.parametrize("name", ACTIVATIONS[1:])
def test_far_out_activations_are_their_limits(any_device: KernelDevice, name: str) -> None:
    """Up to a gate of exp(-80), where lib/gelu and lib/silu stop to shrink."""
    x = np.array([-1e30, -200.0, 0.0, 200.0, 1e30])
    error = activated(any_device, x, name) - np.maximum(x, 0).astype(np.float32)
    assert (np.abs(error) <= np.exp(-79.9) * np.abs(x)).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_stays_nan(any_device: KernelDevice, name: str) -> None:
    assert np.isnan(activated(any_device, np.array([np.nan]), name)).all()


def test_layers_that_cannot_be_shared_are_refused(numba_device: KernelDevice) -> None:
    with pytest.raises(KernelError, match="3 layers of 'partial' cannot be shared by the 2 of"):
        numba_device.run(
            "matmul_sum",
            partial=np.ones((3, 2, 2)),
            bias=np.zeros(0),
            out=np.ones((2, 2, 2)),
            alpha=1.0,
            activation=0,
            accumulate=0,
        )
