"""Arithmetic of the forward pass."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def autocast(precision: Precision) -> contextlib.AbstractContextManager[object]:
    """A block whose products run in `precision`; sums, softmax and losses stay in float32.

    Weights, gradients and optimiser states are float32 either way, and bfloat16 has the exponents
    of float32, so that no loss scaling is needed.
    """
    if precision == "float32":
        return contextlib.nullcontext()
    # Weights cast once under no_grad must not be reused where gradients are wanted: no cache.
    return torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False)
