"""Dropout whose random numbers cost little on a processor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 2**16


def dropout(x: Tensor, share: float) -> Tensor:
    """x m / (1 - share), with m = 0 for `share` of the elements at random and 1 for the others.

    On a processor torch draws a word of its (serial) generator for each element; here four elements
    share one, so `share` counts in steps of 2^-16, and the scale is exact for the step. Elsewhere
    it is torch's own. What is dropped follows torch's random state either way.

    Source: Srivastava et al. 2014, Journal of Machine Learning Research 15, with inverse scaling.

    Args:
        x: any shape.
        share: in [0, 1).
    """
    if x.device.type != "cpu":
        return F.dropout(x, share)
    dropped = round(share * _LEVELS)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    levels = words.view(torch.int16)[: x.numel()].view(x.shape)
    kept = (levels >= dropped - _LEVELS // 2).to(x.dtype)
    return x * kept.mul_(_LEVELS / (_LEVELS - dropped))
