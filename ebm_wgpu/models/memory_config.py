"""How states of a text are remembered as splats, as options a configuration can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ebm_wgpu.options import option

MOST_REMEMBERED = 64
"""Most neighbours of an online memory that searches: it fetches twice as many, up to 128."""


@dataclass(frozen=True)
class MemoryConfig:
    """Stored splats of models with model.context=transformer, and online memory of any reader."""

    states: int = option(2_000_000, "most training states that consolidation looks at", ge=1)
    buffer: int = option(65536, "states that consolidation looks at together", ge=1)
    merge_cosine: float = option(
        0.9, "a state this near to a splat of the same token is merged into it", gt=-1, le=1
    )
    weight_decay: float = option(
        0.02,
        "share of its weight that a splat loses each time the buffer is consolidated",
        ge=0,
        lt=1,
    )
    search: Literal["auto", "brute", "hrm2", "flat", "ivf", "hnsw"] = option(
        "auto",
        "how nearest splats are found: auto compares all until splats and queries are many",
    )
    n_neighbours: int = option(64, "nearest stored splats that predict a token", ge=1)
    capacity: int = option(4096, "states that an online memory holds", ge=1)
    compared: int = option(
        16384, "capacity above which an online memory searches instead of comparing all", ge=1
    )
