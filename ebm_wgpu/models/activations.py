"""Activations of feed-forward networks; one kernel each on torch.device("wgpu")."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) up of x = [gate | up], silu(z) = z sigmoid(z): (..., 2 N) gives (..., N).

    Source: Shazeer 2020 (arXiv:2002.05202), equation 6.
    """
    if x.device.type == "wgpu":
        from ebm_wgpu.torch_device import fused

        return fused.swiglu(x)
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def linear_gelu(x: Tensor, weight: Tensor) -> Tensor:
    """gelu(x weight^T), in the tanh form: (..., I) and (O, I) give (..., O).

    Source: Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2.
    """
    if x.device.type == "wgpu":
        from ebm_wgpu.torch_device import fused

        return fused.linear_gelu(x, weight)
    return F.gelu(F.linear(x, weight), approximate="tanh")
