"""Rotary positions: queries and keys turned by angles proportional to where they stand."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ROTARY_BASE = 10000.0


def rotary_table(length: int, head_dim: int, base: float = ROTARY_BASE) -> tuple[Tensor, Tensor]:
    """cos(t theta_i) and sin(t theta_i) with theta_i = base^(-2 i / head_dim).

    Computed in float64 and rounded once: in float32 the angle itself would lose digits as t grows.
    Source: Su et al. 2021 (RoFormer, arXiv:2104.09864), equation 15.

    Args:
        length: positions t = 0 .. length - 1.
        head_dim: even dimension of a head.
        base: sets the slowest turn.

    Returns:
        Two tensors (length, head_dim / 2), float32.
    """
    rates = base ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = np.arange(length)[:, None] * rates
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    return torch.from_numpy(cos), torch.from_numpy(sin)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i + head_dim/2}) by the angle of its position.

    The product of a query turned at m and a key turned at n depends on m - n alone. On
    torch.device("wgpu") it is one kernel, which reads heads where they stand, and so is its
    gradient.

    Args:
        x: (..., T, head_dim).
        cos, sin: rows of `rotary_table` for the positions of x, broadcast against
            (..., T, head_dim / 2). They are constants.

    Returns:
        The shape of x; its dtype, on the processor that of the tables if it is wider.
    """
    if x.device.type == "wgpu":
        from ebm_wgpu.torch_device import fused

        return fused.rotary(x, cos, sin)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
