"""The learning rate over a run: linear warm-up, then cosine, by steps or by the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ebm_wgpu.config import TrainConfig

CLOCK_WARMUP_SHARE = 0.05
"""Share of a limited time after which warm-up ends, however few steps fitted in."""


@dataclass(frozen=True)
class Schedule:
    """Factor of the learning rate: w * (m + (1 - m) (1 + cos(pi p)) / 2).

    w rises linearly from 1/warmup_steps to 1 and m is `min_ratio`. The progress p counts from the
    end of warm-up: by steps, (step - warmup_steps) / (steps - warmup_steps); with a time limit the
    larger of that and the same share of the clock, so that the rate is at its least whichever
    ends the run.

    Attributes:
        steps: optimiser steps of the run.
        warmup_steps: of them, how many warm up.
        min_ratio: last factor.
        max_seconds: time limit, or none.
    """

    steps: int
    warmup_steps: int
    min_ratio: float
    max_seconds: float | None = None

    @classmethod
    def from_config(cls, train: TrainConfig) -> Schedule:
        """The schedule of a run with this configuration."""
        seconds = None if train.max_minutes is None else 60 * train.max_minutes
        return cls(train.steps, train.warmup_steps, train.min_lr_ratio, seconds)

    def factor(self, step: int, elapsed: float = 0.0) -> float:
        """The factor of optimiser step `step` (from 0), `elapsed` seconds into the run."""
        warmup = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        progress = _share(step, self.warmup_steps, self.steps)
        if self.max_seconds is not None:
            start = CLOCK_WARMUP_SHARE * self.max_seconds
            warmup = max(warmup, elapsed / start)
            progress = max(progress, _share(elapsed, start, self.max_seconds))
        cosine = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        return min(warmup, 1.0) * (self.min_ratio + (1 - self.min_ratio) * cosine)

    def share(self, step: int, elapsed: float = 0.0) -> float:
        """Share of the run that is over after `step` steps in `elapsed` seconds.

        Of its steps or of its time limit, whichever is further on.
        """
        over = step / self.steps
        return over if self.max_seconds is None else max(over, elapsed / self.max_seconds)

    def out_of_time(self, elapsed: float) -> bool:
        """Whether there is a time limit and it has passed."""
        return self.max_seconds is not None and elapsed >= self.max_seconds


def _share(position: float, start: float, stop: float) -> float:
    return max(0.0, position - start) / (stop - start) if stop > start else 0.0
