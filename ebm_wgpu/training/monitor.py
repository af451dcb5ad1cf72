"""What a run says about itself: lines of metrics, history, alerts.

A line of metrics.jsonl is an object with

    step                  optimiser steps taken
    loss, token, ...      the loss, its parts and what else the model measures, means since the
                          line before, nats; grad_norm before clipping
    loss_scale, skipped   of train.precision=float16: `LossScale`, and the share of steps that it
                          left out, of which grad_norm does not speak
    lr                    learning rate of encoder and decoder
    splats                `splat_statistics`, of models made of splats
    phase, soc, growth    of runs with a curriculum: {number, temperature}; where the model was
                          evaluated {"rate": new splats a step since then, "critical": share of
                          training states that ask for one}; once after growth {from, to, and how
                          many new splats for tokens uncovered, critical states, splats most used}
    tokens_per_second, elapsed (seconds of training), memory and disk (bytes)
    valid                 the scores, where the model was evaluated; unigram_nll at step 0 is what
                          a model that knows only frequencies would score
    rollback              {figure, at, to, rate_scale}, once after values that were not finite
    alerts                names of the alerts this line raised

and null stands for what is no finite number.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ebm_wgpu.config import Config
from ebm_wgpu.files import finite_numbers
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.training.alerts import Alert, AlertWatch
from ebm_wgpu.training.callbacks import TrainerCallback
from ebm_wgpu.training.history import write_history
from ebm_wgpu.training.model_state import splat_statistics
from ebm_wgpu.training.resources import free_space, memory, size_of
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.run_folder import RunFolder
from ebm_wgpu.training.state import Progress, TrainingState
from ebm_wgpu.training.stepping import StepOutcome


class Monitor:
    """Collects what steps measure and writes it down, one line of metrics at a time."""

    def __init__(
        self,
        config: Config,
        run: RunFolder,
        data: RunData,
        device: KernelDevice,
        callback: TrainerCallback,
    ) -> None:
        """Watch a run; `rewind` must be called before the first line.

        Args:
            config: of the run.
            run: where to write.
            data: gives token counts.
            device: whose memory is watched.
            callback: told of alerts.
        """
        self._config, self._run, self._device, self._callback = config, run, device, callback
        self._counts = data.token_counts
        self._evaluations: list[Mapping[str, Any]] = []
        self._watch = AlertWatch()
        self._checkpoint_size = 0

    def add(self, progress: Progress, outcome: StepOutcome) -> None:
        """Count a step toward the next line."""
        progress.logged_steps += 1
        for name, value in {**outcome.parts, "seconds": outcome.seconds}.items():
            progress.logged[name] = progress.logged.get(name, 0.0) + value

    def on_checkpoint(self, path: Path) -> None:
        """Measure the newest checkpoint: its size says how much disk space is needed."""
        self._checkpoint_size = size_of(path)

    def line(self, state: TrainingState, lr: float) -> dict[str, Any]:
        """The line of metrics: means since the last one, and the state of all else now."""
        progress, splats = state.progress, state.model.splat_model
        model, train = self._config.model, self._config.train
        tokens_a_step = train.accumulation * train.batch_size * self._config.data.block_size
        limits = (model.kappa_min, model.kappa_max)
        means = {name: value / progress.logged_steps for name, value in progress.logged.items()}
        speed = tokens_a_step / means.pop("seconds")
        if "grad_norm" in means:
            means["grad_norm"] /= 1 - means.get("skipped", 0.0)
        events = {"rollback": progress.rollback, "growth": progress.growth}
        progress.rollback = progress.growth = None
        progress.logged, progress.logged_steps = {}, 0
        return {
            **means,
            "lr": lr,
            **(
                {} if splats is None else {"splats": splat_statistics(splats, limits, self._counts)}
            ),
            "tokens_per_second": speed,
            "elapsed": progress.elapsed,
            "memory": memory(self._device),
            "disk": {"free": free_space(self._run.path), "checkpoint": self._checkpoint_size},
            **{name: event for name, event in events.items() if event is not None},
        }

    def write(self, record: dict[str, Any]) -> Mapping[str, Any]:
        """Append a line, raise alerts, keep the history up to date; the line as written."""
        record = finite_numbers(record)
        alerts = self._watch.update(record)
        if alerts:
            record["alerts"] = [alert.name for alert in alerts]
        self._run.append_metrics(record)
        if "valid" in record:
            self._evaluations.append(record)
            write_history(self._run.history_path, self._evaluations)
        for alert in alerts:
            self._raise(alert)
        return record

    def rewind(self) -> None:
        """Go on from the lines the run folder has now."""
        records = self._run.read_metrics()
        self._watch = AlertWatch(records)
        self._evaluations = [record for record in records if "valid" in record]
        write_history(self._run.history_path, self._evaluations)

    @property
    def active(self) -> tuple[Alert, ...]:
        """What is wrong now."""
        return tuple(self._watch.active.values())

    def _raise(self, alert: Alert) -> None:
        self._run.log(f"{alert.severity}: {alert.name}: {alert.line}")
        self._callback.on_alert(alert)


def unigram_nll(data: RunData, tokens: np.ndarray[Any, np.dtype[np.int32]]) -> float:
    """Mean -log p(w) over `tokens`, nats, p(w) = (n_w + 1) / (n + V) from the training text.

    What a model scores that knows only how frequent tokens are.
    """
    counts = data.token_counts.astype(np.float64) + 1
    return float(-np.log(counts / counts.sum())[tokens].mean())
