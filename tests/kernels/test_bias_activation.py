"""Activations and their slopes are torch's; unknown ones are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.kernels._activation import activation_number


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("none", lambda z: z),
        ("relu", F.relu),
        ("gelu", F.gelu),
        ("gelu_tanh", lambda z: F.gelu(z, approximate="tanh")),
        ("silu", F.silu),
    ],
)
def test_values_and_slopes_are_those_of_torch(
    any_device: KernelDevice, name: str, function: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    x = np.linspace(-9, 9, 803, dtype=np.float32).reshape(11, 73)
    bias = np.linspace(-1, 1, 73, dtype=np.float32)
    z = torch.from_numpy(x.astype(np.float64) + bias).requires_grad_()
    expected = function(z)
    expected.sum().backward()
    assert z.grad is not None
    arguments = {"x": x, "bias": bias, "activation": activation_number(name)}
    out = any_device.run("bias_activation", **arguments)["out"]
    slope = any_device.run("bias_activation_backward", **arguments, grad_out=np.ones_like(x))
    np.testing.assert_allclose(out.numpy(), expected.detach().numpy(), rtol=3e-6, atol=1e-6)
    np.testing.assert_allclose(slope["grad_x"].numpy(), z.grad.numpy(), rtol=3e-6, atol=2e-6)


def test_unknown_activations_are_refused(any_device: KernelDevice) -> None:
    with pytest.raises(KernelError, match="activation=5 must be the number of one of none, relu"):
        any_device.run("bias_activation", x=np.zeros((2, 3)), bias=np.zeros(3), activation=5)
