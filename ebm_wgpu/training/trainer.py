"""The trainer: steps, evaluations, checkpoints, interruption, and exact resumption."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from ebm_wgpu.config import OPTIONS, Config
from ebm_wgpu.errors import CheckpointError, ConfigError, EbmError
from ebm_wgpu.evaluation import PerplexityReport, evaluate_perplexity
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.registry import build_model
from ebm_wgpu.training.callbacks import (
    CallbackList,
    StartEvent,
    StepEvent,
    StopReason,
    TrainerCallback,
    TrainResult,
)
from ebm_wgpu.training.checkpoints import read_checkpoint, write_checkpoint
from ebm_wgpu.training.interrupts import Interrupts, deterministic_torch
from ebm_wgpu.training.model_state import model_weights, restore_model, splat_statistics
from ebm_wgpu.training.objectives import Objective, evaluate_score_matching
from ebm_wgpu.training.optimizers import Optimizers
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.run_folder import RunFolder
from ebm_wgpu.training.schedule import Schedule

CHANGEABLE = frozenset(
    f"train.{name}"
    for name in (
        "steps",
        "max_minutes",
        "eval_every",
        "eval_tokens",
        "checkpoint_every",
        "keep_last",
        "log_every",
        "device",
    )
)
"""What may differ when a run is resumed: its length, its reports, and the device it computes on."""


USAGE_EVERY = 10
"""Steps from one measurement of how much each splat is used to the next."""


@dataclass
class Progress:
    """Where a run is, besides model, optimisers and data.

    Attributes:
        step: optimiser steps taken.
        elapsed: seconds of training: initialisation, steps, evaluations and checkpoints.
        best_nll: lowest validation loss, nats per token, at `best_step`.
        best_step: none before the first evaluation of a trained model.
        logged: sums of what was measured since the last line of metrics, over `logged_steps` steps.
    """

    step: int = 0
    elapsed: float = 0.0
    best_nll: float = math.inf
    best_step: int | None = None
    logged: dict[str, float] = field(default_factory=dict)
    logged_steps: int = 0


def check_resumable(before: Config, now: Config) -> None:
    """Compare the configuration a run was started with and the one it is to go on with.

    Raises:
        ConfigError: a key outside `CHANGEABLE` differs.
    """
    old, new = asdict(before), asdict(now)
    for option in OPTIONS.values():
        was, is_now = old[option.section][option.name], new[option.section][option.name]
        if was != is_now and option.key not in CHANGEABLE:
            raise ConfigError(
                f"{option.key} was {was} and is now {is_now}: resume with the old value, or start "
                f"a new run; only {', '.join(sorted(CHANGEABLE))} may change"
            )


class Trainer:
    """Trains the model of a configuration in a run folder.

    The batches, the noise and the order of everything depend on the seed and the step alone. On
    the processor, with the same number of threads and without a time limit, a run that is
    killed at any moment and resumed therefore ends with the same bits as one that never was.
    """

    def __init__(
        self,
        config: Config,
        run_folder: str | Path,
        device: KernelDevice,
        callbacks: Iterable[TrainerCallback] = (),
        resume: bool = False,
    ) -> None:
        """Nothing is read or written before `train`.

        Args:
            config: the run. When resuming it may differ from the run's own in `CHANGEABLE`.
            run_folder: where the run is kept.
            device: runs the kernels of models that have them.
            callbacks: told of every event, in order.
            resume: go on with the run in the folder instead of starting one.
        """
        self.config = config.validate()
        self.run = RunFolder(Path(run_folder).expanduser())
        self.device = device
        self._callbacks = CallbackList(callbacks)
        self._resume = resume
        self._schedule = Schedule.from_config(config.train)
        self._objective = Objective(config.train)

    def train(self) -> TrainResult:
        """Train until the steps or the minutes are over, or SIGINT or SIGTERM comes.

        Evaluates and writes a checkpoint at the end in either case; after a signal it finishes the
        step and writes the checkpoint only.

        Raises:
            CheckpointError: the folder holds a run and `resume` is off, or none and it is on; the
                checkpoint is damaged or of another shape.
            ConfigError: the run was started with another configuration.
            DataError: the corpus is missing, damaged, or too short.
            EbmError: the loss is not finite; the checkpoints stay as they are.
        """
        self._check_folder()
        tokenizer = self.run.read_tokenizer() if self._resume else None
        self._data = RunData.load(self.config, tokenizer)
        self._batches = self._data.batches(self.config)
        self._valid, self._valid_bytes = self._data.valid_prefix(self.config.train.eval_tokens)
        self.run.create()
        with self.run.lock(), Interrupts() as interrupts, deterministic_torch():
            self._start()
            self._callbacks.on_start(self._start_event())
            reason = self._loop(interrupts)
            result = self._result(reason)
        self.run.log(f"{reason} at step {result.step} after {result.elapsed:.1f} s")
        self._callbacks.on_end(result)
        return result

    def _check_folder(self) -> None:
        exists = self.run.exists()
        if self._resume and not exists:
            raise CheckpointError(
                f"{self.run.path} holds no run to resume: check the path, or train without --resume"
            )
        if self._resume:
            check_resumable(self.run.read_config(), self.config)
        else:
            self.run.check_unused()

    def _start(self) -> None:
        begin = time.perf_counter()
        torch.manual_seed(self.config.train.seed)
        self.model = build_model(self.config, self._data.tokenizer.vocab_size, self.device)
        self._optimizers = Optimizers(self.model, self.config.train, self.device)
        self._progress = Progress()
        if not self._resume:
            self.run.write_tokenizer(self._data.tokenizer)
        last = self.run.pointer("last") if self._resume else None
        if last is None:
            self.model.initialize(
                self._data.train.tokens,
                self._data.token_counts,
                self.config.train.seed,
                self._data.vocabulary if self.config.model.splat_init == "embedding" else None,
            )
            self._progress.elapsed = time.perf_counter() - begin
        else:
            self._restore(last)
        self.run.rewind(last, self._progress.best_step)
        self.run.write_config(self.config)
        self.run.log(f"starts at step {self._progress.step} on {self.model.device_description}")
        self._origin = time.perf_counter() - self._progress.elapsed

    def _loop(self, interrupts: Interrupts) -> StopReason:
        progress, train = self._progress, self.config.train
        if self.run.pointer("last") is None:
            self.run.append_metrics({"step": 0, "valid": self._evaluate().summary()})
        while not self._schedule.finished(progress.step, self._tick()):
            event = self._step()
            ends = self._schedule.finished(progress.step, self._tick())
            stopping = interrupts.requested and not ends
            record: dict[str, Any] = {}
            best = False
            if ends or (progress.step % train.eval_every == 0 and not stopping):
                report = self._evaluate()
                record["valid"] = report.summary()
                best = self._improves(report)
            if ends or record or progress.step % train.log_every == 0:
                record = {"step": progress.step, **self._flush_log(event), **record}
                self.run.append_metrics(record)
            self._callbacks.on_step(replace(event, record=record or None))
            stopping = interrupts.requested and not ends
            if ends or best or stopping or progress.step % train.checkpoint_every == 0:
                self._checkpoint(best)
            if stopping:
                return "interrupted"
        if self.run.pointer("last") is None:
            self._checkpoint(best=False)
        return "time limit" if progress.step < train.steps else "finished"

    def _step(self) -> StepEvent:
        """One optimiser step over `train.accumulation` batches."""
        begin = time.perf_counter()
        progress, train = self._progress, self.config.train
        parts: dict[str, float] = {}
        for micro in range(train.accumulation):
            tokens = torch.from_numpy(self._batches.next_batch()).long()
            seed = _seed(train.seed, progress.step, micro)
            try:
                total, measured = self._objective(self.model, tokens, seed)
            except EbmError:
                # Parameters that overflowed are found by whoever reads them first.
                if all(bool(p.isfinite().all()) for p in self.model.parameters()):
                    raise
                self._diverged("loss", math.nan)
            (total / train.accumulation).backward()
            for name, value in measured.items():
                parts[name] = parts.get(name, 0.0) + value / train.accumulation
        parts["grad_norm"] = self._optimizers.clip(train.grad_clip)
        for name in ("loss", "grad_norm"):
            if not math.isfinite(parts[name]):
                self._diverged(name, parts[name])
        factor = self._schedule.factor(progress.step, self._tick())
        self._optimizers.step(factor)
        self._optimizers.zero_grad()
        progress.step += 1
        progress.logged_steps += 1
        splats = self.model.splat_model
        if splats is not None and progress.step % USAGE_EVERY == 0:
            splats.record_usage(tokens[:1, :-1], USAGE_EVERY)
        seconds = time.perf_counter() - begin
        for name, value in {**parts, "seconds": seconds}.items():
            progress.logged[name] = progress.logged.get(name, 0.0) + value
        return StepEvent(
            step=progress.step,
            elapsed=self._tick(),
            loss=parts["loss"],
            parts=parts,
            lr=train.lr * factor,
            tokens_per_second=self._tokens_a_step / seconds,
            record=None,
        )

    def _diverged(self, name: str, value: float) -> NoReturn:
        last = self.run.pointer("last")
        origin = "no checkpoint was written yet" if last is None else f"checkpoint {last} is kept"
        message = (
            f"{name} is {value} at step {self._progress.step + 1}; {origin}: start a new run with "
            "lower train.lr and train.lr_splats or a lower train.grad_clip"
        )
        self.run.log(message)
        raise EbmError(message)

    def _flush_log(self, event: StepEvent) -> dict[str, Any]:
        """The line of metrics: means since the last one, and the state of any splats now."""
        progress, splats = self._progress, self.model.splat_model
        means = {name: value / progress.logged_steps for name, value in progress.logged.items()}
        speed = self._tokens_a_step / means.pop("seconds")
        progress.logged, progress.logged_steps = {}, 0
        return {
            **means,
            "lr": event.lr,
            **({} if splats is None else {"splats": splat_statistics(splats)}),
            "tokens_per_second": speed,
            "elapsed": progress.elapsed,
        }

    @property
    def _tokens_a_step(self) -> int:
        train = self.config.train
        return train.accumulation * train.batch_size * self.config.data.block_size

    def _evaluate(self) -> PerplexityReport:
        report = evaluate_perplexity(
            self.model,
            self._valid,
            self.config,
            start_id=self._data.tokenizer.start_id,
            n_bytes=self._valid_bytes,
        )
        matching = evaluate_score_matching(self.model, self._valid, self.config)
        report = replace(report, score_matching=matching)
        self.run.log(
            f"step {self._progress.step}: validation perplexity {report.token_perplexity:.2f} per "
            f"token, {report.word_perplexity:.2f} per word"
        )
        self._callbacks.on_eval(self._progress.step, report)
        return report

    def _improves(self, report: PerplexityReport) -> bool:
        progress = self._progress
        if not report.nll_per_token < progress.best_nll:
            return False
        progress.best_nll, progress.best_step = report.nll_per_token, progress.step
        return True

    def _checkpoint(self, best: bool) -> None:
        progress = self._progress
        self._tick()
        store, weights = model_weights(self.model)
        state = {
            "progress": asdict(progress),
            "optimizers": self._optimizers.state_dict(),
            "schedule": asdict(self._schedule),
            "data": self._batches.state_dict(),
            "data_sha256": self._data.fingerprint,
            "torch_random": torch.get_rng_state(),
        }
        path = write_checkpoint(self.run.checkpoints, progress.step, store, weights, state)
        self.run.commit(progress.step, progress.best_step, self.config.train.keep_last)
        self._callbacks.on_checkpoint(progress.step, path, best)

    def _restore(self, step: int) -> None:
        checkpoint = read_checkpoint(self.run.checkpoint_path(step))
        restore_model(self.model, checkpoint)
        state = checkpoint.trainer_state()
        try:
            if state["data_sha256"] != self._data.fingerprint:
                raise CheckpointError(
                    f"{self.config.data.dataset} is not the text this run was trained on: restore "
                    "it, or start a new run"
                )
            self._progress = Progress(**state["progress"])
            self._batches.load_state_dict(state["data"])
            self._optimizers.load_state_dict(state["optimizers"])
            torch.set_rng_state(state["torch_random"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{checkpoint.path} was written by another version of the trainer ({error}): use "
                "that version, or start a new run"
            ) from error

    def _tick(self) -> float:
        """Update and return the seconds of training so far."""
        self._progress.elapsed = time.perf_counter() - self._origin
        return self._progress.elapsed

    def _start_event(self) -> StartEvent:
        return StartEvent(
            step=self._progress.step,
            steps=self.config.train.steps,
            elapsed=self._progress.elapsed,
            max_seconds=self._schedule.max_seconds,
            parameters=self.model.n_parameters(),
            train_tokens=len(self._data.train),
            valid_tokens=len(self._valid),
            device=self.model.device_description,
        )

    def _result(self, reason: StopReason) -> TrainResult:
        valid = [line["valid"] for line in self.run.read_metrics() if "valid" in line]
        return TrainResult(
            reason=reason,
            step=self._progress.step,
            elapsed=self._progress.elapsed,
            checkpoint=self.run.checkpoint_path("last"),
            best_step=self._progress.best_step,
            first_valid=valid[0] if valid else None,
            last_valid=valid[-1] if valid else None,
        )


def _seed(seed: int, step: int, micro: int) -> int:
    """A seed of its own for each batch, in [0, 2^63)."""
    return int(np.random.SeedSequence([seed, step, micro]).generate_state(1, np.uint64)[0] >> 1)
