"""Normal noise that belongs to a position: the same however a text is cut into pieces."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def position_noise(key: tuple[int, ...], positions: Iterable[int], rows: int, width: int) -> Tensor:
    """Standard normal numbers, (rows, P, width) float32, each position's from a stream of its own.

    Args:
        key: non-negative numbers that name the stream, such as (seed, draw).
        positions: P places in the text.
        rows: independent texts.
        width: numbers of a row at a position.
    """
    generator = torch.Generator()
    columns = []
    for position in positions:
        state = np.random.SeedSequence((*key, position)).generate_state(1, np.uint64)
        generator.manual_seed(int(state[0] >> np.uint64(1)))
        columns.append(torch.randn(rows, width, generator=generator))
    return torch.stack(columns, 1)
