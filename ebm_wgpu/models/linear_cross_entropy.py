"""Log probabilities of a large vocabulary without ever holding the whole matrix of logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ebm_wgpu.models.ops import chunks


def map_chunks(
    function: Callable[..., tuple[Tensor, ...]], columns: int, max_entries: int, *arguments: Tensor
) -> tuple[Tensor, ...]:
    """function(*arguments), each (P, ...), computed in chunks of rows and joined.

    Where there are several chunks and gradients are wanted, each chunk is computed again in the
    backward pass, so that one chunk's intermediate matrices exist at a time.

    Args:
        function: gives tensors whose rows depend on the same rows of the arguments alone.
        columns: width of the largest matrix that it makes.
        max_entries: most entries of such a matrix.
        *arguments: tensors of P rows each.
    """
    pieces = chunks(len(arguments[0]), columns, max_entries)
    if len(pieces) <= 1:
        return function(*arguments)
    parts = []
    for rows in pieces:
        part = [argument[rows] for argument in arguments]
        if torch.is_grad_enabled():
            parts.append(checkpoint(function, *part, use_reentrant=False))
        else:
            parts.append(function(*part))
    return tuple(torch.cat(results) for results in zip(*parts, strict=True))


_Sums = tuple[Tensor, Tensor]
"""What gradients of weight (V, D) and bias (V,) are added to."""


def _chunk(
    h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float, sums: _Sums | None
) -> tuple[Tensor, Tensor | None]:
    """The sum of the losses of rows h, and its gradient for h; see `linear_cross_entropy`."""
    log_p = F.log_softmax((h @ weight.T).to(bias.dtype) + bias, dim=-1)
    chosen = targets[:, None]
    total = (smoothing - 1) * log_p.gather(1, chosen).sum()
    if smoothing:
        total -= smoothing * log_p.mean(1).sum()
    if sums is None:
        return total, None
    # The gradient is p - (1 - s) onehot - s/V; it takes the place of log p.
    grad = log_p.exp_()
    if smoothing:
        grad -= smoothing / len(weight)
    grad.scatter_add_(1, chosen, grad.new_full(chosen.shape, smoothing - 1))
    sums[1].add_(grad.sum(0))
    narrow = grad.to(h.dtype)
    sums[0].add_(narrow.T @ h)
    return total, narrow @ weight


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        max_entries: int,
        smoothing: float,
    ) -> Tensor:
        chunk = _chunk
        if h.device.type == "wgpu":
            from ebm_wgpu.torch_device import fused

            chunk = fused.linear_cross_entropy
        matrix = weight.to(h.dtype)
        sums = None
        if any(ctx.needs_input_grad[:3]):
            sums = torch.zeros_like(weight), torch.zeros_like(bias)
            grad_h = torch.empty_like(h)
        wide = torch.promote_types(bias.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=h.device)
        for rows in chunks(len(h), len(weight), max_entries):
            loss, part = chunk(h[rows], matrix, bias, targets[rows], smoothing, sums)
            total += loss
            if part is not None:
                grad_h[rows] = part
        if sums is not None:
            ctx.save_for_backward(grad_h, *sums)
        ctx.rows = len(h)
        return (total / len(h)).to(bias.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad / ctx.rows
        parts = [part * scale.to(part.dtype) for part in ctx.saved_tensors]
        return *parts, None, None, None


def linear_cross_entropy(
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    max_entries: int,
    label_smoothing: float = 0.0,
) -> Tensor:
    """mean over rows p of -sum_w q_pw log softmax(W h_p + b)_w, nats.

    q_p is 1 at target p; with label smoothing s (Szegedy et al. 2016, arXiv:1512.00567, section 7)
    it is 1 - s there, and s/V more everywhere. Loss and gradients come from one pass over chunks of
    rows, which costs the three matrix products that any implementation needs and no (P, V) matrix;
    on torch.device("wgpu") a chunk's logits become their gradient in place. It can be
    differentiated once. Under autocast the products read its dtype and everything else is in that
    of `bias`.

    Args:
        h: (P, D).
        weight: (V, D).
        bias: (V,).
        targets: (P,) int64, in [0, V).
        max_entries: most entries of a (rows, V) matrix held at a time.
        label_smoothing: s, from 0 to 1.

    Returns:
        A scalar.
    """
    if not torch.is_grad_enabled():
        # The function cannot see that by itself, and would compute gradients nobody wants.
        h, weight, bias = h.detach(), weight.detach(), bias.detach()
    kind = h.device.type
    if torch.is_autocast_enabled(kind):
        h = h.to(torch.get_autocast_dtype(kind))
    with torch.autocast(kind, enabled=False):
        return _LinearCrossEntropy.apply(h, weight, bias, targets, max_entries, label_smoothing)
