"""What a trainer tells the outside: events to watch a run by, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ebm_wgpu.evaluation.perplexity import PerplexityReport
from ebm_wgpu.training.alerts import Alert

StopReason = Literal["finished", "time limit", "early stop", "interrupted"]


@dataclass(frozen=True)
class StartEvent:
    """A run starts or goes on.

    Attributes:
        step: optimiser steps behind it, 0 for a new run.
        steps: optimiser steps when finished.
        elapsed: seconds of training behind it.
        max_seconds: time limit, or none.
        parameters: number of trainable numbers.
        train_tokens, valid_tokens: tokens of the two texts.
        device: one line about where kernels run.
        changes: what is otherwise than at the checkpoint the run goes on from: options that have
            another value, and stored splats that were left out.
    """

    step: int
    steps: int
    elapsed: float
    max_seconds: float | None
    parameters: int
    train_tokens: int
    valid_tokens: int
    device: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepEvent:
    """An optimiser step was taken.

    Attributes:
        step: its number, from 1.
        elapsed: seconds of training so far.
        loss: weighted sum of the loss parts, nats.
        parts: the parts and what the model measures beside them.
        lr: learning rate of encoder and decoder.
        tokens_per_second: of this step.
        record: the line written to metrics.jsonl, or none if this step is not logged.
        active: alerts that hold now.
    """

    step: int
    elapsed: float
    loss: float
    parts: Mapping[str, float]
    lr: float
    tokens_per_second: float
    record: Mapping[str, Any] | None
    active: tuple[Alert, ...] = ()


@dataclass(frozen=True)
class TrainResult:
    """What came of a call of `Trainer.train`.

    Attributes:
        reason: why it ended.
        step: optimiser steps behind the run.
        elapsed: seconds of training, over all calls.
        checkpoint: folder of the last checkpoint.
        best_step: step with the lowest validation perplexity, or none before the first evaluation.
        first_valid, last_valid: first and last "valid" entry of metrics.jsonl.
    """

    reason: StopReason
    step: int
    elapsed: float
    checkpoint: Path
    best_step: int | None
    first_valid: Mapping[str, Any] | None
    last_valid: Mapping[str, Any] | None


class TrainerCallback:
    """Watches a run; every method does nothing unless overridden."""

    def on_start(self, event: StartEvent) -> None:
        """Training begins; the model stands."""

    def on_step(self, event: StepEvent) -> None:
        """An optimiser step was taken."""

    def on_eval(self, step: int, report: PerplexityReport) -> None:
        """The model was scored on validation text."""

    def on_checkpoint(self, step: int, path: Path, best: bool) -> None:
        """A checkpoint was written; `best` says whether it is the best so far."""

    def on_alert(self, alert: Alert) -> None:
        """Something is wrong; what is wrong now is in `StepEvent.active` of later steps."""

    def on_end(self, result: TrainResult) -> None:
        """Training ended, without an error."""


class CallbackList(TrainerCallback):
    """Several callbacks as one, told in order."""

    def __init__(self, callbacks: Iterable[TrainerCallback]) -> None:
        self._callbacks = tuple(callbacks)

    def on_start(self, event: StartEvent) -> None:
        """Tell all."""
        for callback in self._callbacks:
            callback.on_start(event)

    def on_step(self, event: StepEvent) -> None:
        """Tell all."""
        for callback in self._callbacks:
            callback.on_step(event)

    def on_eval(self, step: int, report: PerplexityReport) -> None:
        """Tell all."""
        for callback in self._callbacks:
            callback.on_eval(step, report)

    def on_checkpoint(self, step: int, path: Path, best: bool) -> None:
        """Tell all."""
        for callback in self._callbacks:
            callback.on_checkpoint(step, path, best)

    def on_alert(self, alert: Alert) -> None:
        """Tell all."""
        for callback in self._callbacks:
            callback.on_alert(alert)

    def on_end(self, result: TrainResult) -> None:
        """Tell all."""
        for callback in self._callbacks:
            callback.on_end(result)
