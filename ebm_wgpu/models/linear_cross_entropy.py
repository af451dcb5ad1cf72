"""Log probabilities of a large vocabulary without ever holding the whole matrix of logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint


def chunk_rows(rows: int, columns: int, max_entries: int) -> Iterator[slice]:
    """Slices of `rows` such that a chunk times `columns` has at most `max_entries` entries.

    A chunk has at least one row, even where one row alone is longer than that.
    """
    size = max(1, max_entries // columns)
    for first in range(0, rows, size):
        yield slice(first, min(first + size, rows))


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
    chunks = list(chunk_rows(len(arguments[0]), columns, max_entries))
    if len(chunks) <= 1:
        return function(*arguments)
    parts = []
    for rows in chunks:
        part = [argument[rows] for argument in arguments]
        if torch.is_grad_enabled():
            parts.append(checkpoint(function, *part, use_reentrant=False))
        else:
            parts.append(function(*part))
    return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, max_entries: int
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad[:3])
        matrix = weight.to(h.dtype)
        grad_h = torch.empty_like(h) if wanted else None
        grad_weight = torch.zeros_like(weight) if wanted else None
        grad_bias = torch.zeros_like(bias) if wanted else None
        total = torch.zeros((), dtype=bias.dtype, device=h.device)
        for rows in chunk_rows(len(h), len(weight), max_entries):
            log_p = F.log_softmax((h[rows] @ matrix.T).to(bias.dtype) + bias, dim=-1)
            chosen = targets[rows, None]
            total -= log_p.gather(1, chosen).sum()
            if grad_h is None or grad_weight is None or grad_bias is None:
                continue
            # The gradient of -log softmax is p - onehot; it takes the place of log p.
            grad = log_p.exp_()
            grad.scatter_add_(1, chosen, grad.new_full(chosen.shape, -1.0))
            grad_bias += grad.sum(0)
            narrow = grad.to(h.dtype)
            grad_h[rows] = narrow @ matrix
            grad_weight += narrow.T @ h[rows]
        ctx.save_for_backward(grad_h, grad_weight, grad_bias)
        ctx.rows = len(h)
        return total / len(h)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad / ctx.rows
        grad_h, grad_weight, grad_bias = ctx.saved_tensors
        return grad_h * scale.to(grad_h.dtype), grad_weight * scale, grad_bias * scale, None, None


def linear_cross_entropy(
    h: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, max_entries: int
) -> Tensor:
    """mean over rows p of -log softmax(W h_p + b)[target_p], nats.

    Loss and gradients come from one pass over chunks of rows, which costs the three matrix products
    that any implementation needs and no (P, V) matrix. It can be differentiated once. Under
    autocast the products run in its dtype and everything else in that of `bias`.

    Args:
        h: (P, D).
        weight: (V, D).
        bias: (V,).
        targets: (P,) int64, in [0, V).
        max_entries: most entries of a (rows, V) matrix held at a time.

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
        return _LinearCrossEntropy.apply(h, weight, bias, targets, max_entries)
