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

    The product of a query turned at m and a key turned at n depends on m - n alone.

    Args:
        x: (..., T, head_dim).
        cos, sin: rows of `rotary_table` for the positions of x, broadcast against
            (..., T, head_dim / 2). They are constants.

    Returns:
        The shape of x; its dtype, or that of the tables if it is wider.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def attention_heads(
    projected: Tensor, n_heads: int, cos: Tensor, sin: Tensor
) -> tuple[Tensor, ...]:
    """Queries and keys, turned by `rotate`, and values of a common projection.

    On torch.device("wgpu") one kernel makes all three, and one their gradient.

    Args:
        projected: [queries | keys | values] of each token, (B, T, 3 n_heads head_dim).
        n_heads: heads, side by side in each of the three.
        cos, sin: rows of `rotary_table`, (T, head_dim / 2), or those of each text,
            (B, 1, T, head_dim / 2).

    Returns:
        Three tensors (B, n_heads, T, head_dim).
    """
    if projected.device.type == "wgpu":
        from ebm_wgpu.torch_device import fused

        return fused.attention_heads(projected, cos, sin)
    batch, length, _ = projected.shape
    parts = projected.view(batch, length, 3, n_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = parts.unbind(0)
    return rotate(query, cos, sin), rotate(key, cos, sin), value
