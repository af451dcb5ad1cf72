"""What kernels over many flat tensors at once have in common: names, sizes and drawn entries."""

from __future__ import annotations

import numpy as np

from ebm_wgpu.kernels._cases import normal
from ebm_wgpu.kernels.spec import Arrays, Dims

TENSORS = 16
"""Tensors of a launch: with what belongs to all of them fewer arrays than `adamw` binds."""
NAMES = tuple(f"x{t}" for t in range(TENSORS))


def sizes(*first: int) -> dict[str, int]:
    """Dimensions N0, N1, ... of the first tensors; the others have one entry."""
    return {f"N{t}": first[t] if t < len(first) else 1 for t in range(TENSORS)}


def drawn(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Normal entries for every tensor."""
    return {name: normal(rng, dims[f"N{t}"]) for t, name in enumerate(NAMES)}


def total(dims: Dims) -> int:
    """Entries of all tensors."""
    return sum(dims[f"N{t}"] for t in range(TENSORS))
