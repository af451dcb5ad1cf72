"""Label smoothing of distributions that are no plain softmax: mixtures, softmaxes by classes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ebm_wgpu.models.linear_cross_entropy import map_chunks


def smoothed(
    loss: Tensor,
    smoothing: float,
    log_probs: Callable[..., Tensor],
    columns: int,
    max_entries: int,
    *rows: Tensor,
) -> Tensor:
    """(1 - s) loss - s mean over rows p and tokens w of log p(w | p), nats, a scalar.

    With the cross-entropy for the loss that is the cross-entropy against targets of which a share s
    is spread evenly over all tokens, as `torch.nn.functional.cross_entropy` smooths labels.

    Source: Szegedy et al. 2016 (arXiv:1512.00567), section 7.

    Args:
        loss: mean of -log p(target | p) over the rows.
        smoothing: s, from 0 to 1.
        log_probs: gives log p(w | p) of every token, (rows, V), from parts of `rows`.
        columns: width of the largest matrix that it makes.
        max_entries: most entries of such a matrix held at a time.
        *rows: tensors of P rows each.
    """
    (every,) = map_chunks(lambda *part: (log_probs(*part).mean(1),), columns, max_entries, *rows)
    return (1 - smoothing) * loss - smoothing * every.mean()
