"""Activations of neural networks and their slopes, over the kernels pointwise_*."""

from __future__ import annotations

from typing import Any

import torch

from ebm_wgpu.torch_device.elementwise import evaluate, implements_all
from ebm_wgpu.torch_device.pointwise import clamp
from ebm_wgpu.torch_device.reductions import deliver
from ebm_wgpu.torch_device.registration import claim


def relu(self: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Entries below zero replaced by zero; of whole numbers too."""
    if not self.dtype.is_floating_point:
        return clamp(self, 0, out=out)
    return evaluate("relu", [self], out=out)


def gelu(
    self: torch.Tensor, *, approximate: str = "none", out: torch.Tensor | None = None
) -> torch.Tensor:
    """self * Phi(self), or its approximation by tanh."""
    return evaluate("gelu_tanh" if approximate == "tanh" else "gelu", [self], out=out)


def gelu_backward(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    *,
    approximate: str = "none",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """grad_output times the slope of gelu at self."""
    kernel = "gelu_tanh_backward" if approximate == "tanh" else "gelu_backward"
    return evaluate(kernel, [grad_output, self], out=out)


def threshold_backward(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    threshold: Any,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """grad_output where self exceeds the threshold, 0 elsewhere."""
    return evaluate("threshold_backward", [grad_output, self], (threshold,), out=out)


def threshold(
    self: torch.Tensor, threshold: Any, value: Any, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """self above the threshold, the number `value` elsewhere."""
    other = torch.full((), value, dtype=self.dtype, device=self.device)
    return deliver(torch.where(self.le(threshold), other, self), out)


def leaky_relu(
    self: torch.Tensor, negative_slope: Any = 0.01, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """self above zero, negative_slope * self below."""
    return evaluate("leaky_relu", [self], (negative_slope,), out=out)


def leaky_relu_backward(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    negative_slope: Any,
    self_is_result: bool,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """grad_output times the slope of leaky_relu at self, or where self is its result.

    Raises:
        RuntimeError: the slope below zero is negative, so that a result does not tell its side.
    """
    if self_is_result and negative_slope < 0:
        raise RuntimeError(
            f"In-place leaky_relu with negative_slope {negative_slope} has no gradient: use a "
            "slope of at least 0, or inplace=False"
        )
    return evaluate("leaky_relu_backward", [grad_output, self], (negative_slope,), out=out)


def elu(
    self: torch.Tensor,
    alpha: Any = 1,
    scale: Any = 1,
    input_scale: Any = 1,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """scale * self above zero, scale * alpha * (exp(input_scale * self) - 1) below."""
    return evaluate("elu", [self], (alpha * scale, scale, input_scale), out=out)


def elu_backward(
    grad_output: torch.Tensor,
    alpha: Any,
    scale: Any,
    input_scale: Any,
    is_result: bool,
    self_or_result: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """grad_output times the slope of elu, at its input or where it had its result.

    Raises:
        RuntimeError: alpha is negative, so that a result does not tell its side.
    """
    if is_result and alpha < 0:
        raise RuntimeError(
            f"In-place elu with alpha {alpha} has no gradient: use an alpha of at least 0, or "
            "inplace=False"
        )
    kernel = "elu_backward_of_result" if is_result else "elu_backward"
    scalars = (alpha * scale, scale, input_scale)
    return evaluate(kernel, [grad_output, self_or_result], scalars, out=out)


def hardtanh(
    self: torch.Tensor,
    min_val: Any = -1,
    max_val: Any = 1,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Entries brought between two bounds, in the tensor's own type.

    Raises:
        RuntimeError: truth values.
    """
    if self.dtype == torch.bool:
        raise RuntimeError("Bool inputs not supported for hardtanh")
    kind = float if self.is_floating_point() else int
    return clamp(self, kind(min_val), kind(max_val), out=out)


def hardtanh_backward(
    grad_output: torch.Tensor,
    self: torch.Tensor,
    min_val: Any,
    max_val: Any,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """grad_output where self lies between the bounds, 0 elsewhere."""
    return evaluate("hardtanh_backward", [grad_output, self], (min_val, max_val), out=out)


for _function in (
    *(relu, gelu, gelu_backward, threshold, threshold_backward, leaky_relu, leaky_relu_backward),
    *(elu, elu_backward, hardtanh, hardtanh_backward),
):
    implements_all(_function.__name__, _function)

claim("nn.functional.relu", "nn.functional.silu", "nn.functional.gelu", "nn.functional.softsign")
claim(
    "nn.functional.threshold",
    "nn.functional.tanhshrink",
    "nn.functional.leaky_relu",
    "nn.functional.elu",
)
claim("nn.functional.hardtanh", "nn.functional.relu6", "nn.functional.selu", "nn.functional.celu")
