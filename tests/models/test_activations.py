"""Activations in main memory: their formulas, in float64."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import expit

from ebm_wgpu.models.activations import linear_gelu, swiglu


def test_swiglu_gates_the_second_half() -> None:
    x = np.linspace(-6, 6, 24).reshape(2, 3, 4)
    expected = x[..., :2] * expit(x[..., :2]) * x[..., 2:]
    np.testing.assert_allclose(swiglu(torch.from_numpy(x)), expected, rtol=1e-14)


def test_linear_gelu_is_the_tanh_form() -> None:
    x, weight = np.linspace(-2, 2, 12).reshape(4, 3), np.linspace(-1, 3, 15).reshape(5, 3)
    z = x @ weight.T
    # x/2 (1 + tanh u) = x / (1 + exp(-2 u)), of which the left cancels below zero.
    expected = z * expit(2 * np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))
    found = linear_gelu(torch.from_numpy(x), torch.from_numpy(weight))
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)
