"""The trainer: steps, evaluations, checkpoints, interruption, rollback, and exact resumption."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ebm_wgpu.config import Config
from ebm_wgpu.errors import CheckpointError, ConfigError, EbmError
from ebm_wgpu.evaluation.perplexity import PerplexityReport, evaluate_perplexity
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.training.callbacks import (
    CallbackList,
    StartEvent,
    StepEvent,
    StopReason,
    TrainerCallback,
    TrainResult,
)
from ebm_wgpu.training.checkpoints import read_checkpoint, write_checkpoint
from ebm_wgpu.training.curriculum import Curriculum
from ebm_wgpu.training.interrupts import Interrupts, deterministic_torch
from ebm_wgpu.training.monitor import Monitor, unigram_nll
from ebm_wgpu.training.objectives import evaluate_score_matching
from ebm_wgpu.training.placement import training_device
from ebm_wgpu.training.recovery import (
    ROLLBACK_RATE,
    DivergedError,
    device_lost,
    gave_up,
    has_finite_parameters,
    is_device_loss,
)
from ebm_wgpu.training.resuming import check_resumable, differences
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.run_folder import CONFIG_FILE, MetricsMark, RunFolder
from ebm_wgpu.training.schedule import Schedule
from ebm_wgpu.training.state import TrainingState
from ebm_wgpu.training.stepping import StepOutcome, Stepper


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
        self.device = training_device(device, config.train)
        self._callbacks = CallbackList(callbacks)
        self._resume = resume
        self._schedule = Schedule.from_config(config.train)
        self._curriculum = Curriculum(config)
        self._stepper = Stepper(config.train)

    @property
    def model(self) -> LanguageModel:
        """The model being trained; another object after a rollback, and when splats grow."""
        return self._state.model

    def train(self) -> TrainResult:
        """Train until steps, minutes or patience are over, or SIGINT, SIGTERM or SIGHUP comes.

        Evaluates and writes a checkpoint at the end in either case; after a signal it finishes the
        step and writes the checkpoint only. Where loss or gradient is not finite, the run goes back
        to its last checkpoint and on at `ROLLBACK_RATE` times its rates, once.

        Raises:
            CheckpointError: the folder holds a run and `resume` is off, or none and it is on; the
                checkpoint is damaged or of another shape; the disk is full or not writable. What
                was committed before stays whole.
            ConfigError: the run was started with another configuration.
            DataError: the corpus is missing, damaged, or too short.
            DeviceError: the GPU was lost; the checkpoints stay as they are.
            EbmError: the loss is not finite, again; the checkpoints stay as they are.
        """
        self._check_folder()
        tokenizer = self.run.read_tokenizer() if self._resume else None
        self._data = RunData.load(self.config, tokenizer)
        self._valid, self._valid_bytes = self._data.valid_prefix(self.config.train.eval_tokens)
        # Windows are cut once before anything is written: a text that is too short leaves nothing.
        self._data.batches(self.config)
        self.run.create()
        with self.run.lock(), Interrupts() as interrupts, deterministic_torch():
            try:
                self._start()
                self._callbacks.on_start(self._start_event())
                reason = self._loop(interrupts)
            except Exception as error:
                if not is_device_loss(error):
                    raise
                lost = device_lost(error, self.run.newest())
                self.run.log(str(lost))
                raise lost from error
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
        self._changes: tuple[str, ...] = ()
        if not self._resume:
            self.run.check_unused()
            return
        before = self.run.read_config()
        check_resumable(before, self.config)

    def _start(self) -> None:
        self._origin = time.perf_counter()
        if not self._resume:
            self.run.write_tokenizer(self._data.tokenizer)
        self._monitor = Monitor(self.config, self.run, self._data, self.device, self._callbacks)
        last = self.run.newest() if self._resume else None
        self._go_to(last)
        self._origin -= self._state.progress.elapsed
        self._leave_out_stored_splats()
        self.run.write_config(self.config)
        self.run.log(f"starts at step {self._state.progress.step} on {self._device_line}")

    def _go_to(self, step: int | None) -> None:
        """Make everything what it was at the checkpoint of `step`, or at first."""
        phase, mark = self._curriculum.phases[0], None
        if step is None:
            state = TrainingState(phase.config, self._data, self.device)
            state.initialize()
        else:
            path = self.run.checkpoint_path(step)
            checkpoint = read_checkpoint(path)
            phase = self._curriculum.of(checkpoint.store)
            state = TrainingState(phase.config, self._data, self.device)
            found = state.restore(checkpoint)
            self._changes = self._compare(path, found)
            mark = MetricsMark(**found["metrics"])
            self._monitor.on_checkpoint(path)
        self.run.rewind(step, state.progress.best_step, mark)
        self._prune(state)
        self._monitor.rewind()
        self._state = state

    def _leave_out_stored_splats(self) -> None:
        """Drop splats that consolidation stored, if the model they are states of learns on."""
        storing = self.model.storing_model
        if storing is None or storing.stored_splats is None or self._reason_to_end():
            return
        line = (
            f"left out {len(storing.stored_splats)} stored splats, states of the model before it "
            "learns on: run `ebm consolidate` again after training"
        )
        storing.store_splats(None)
        self.run.log(f"warning: {line}")
        self._changes += (line,)

    def _compare(self, checkpoint: Path, found: Mapping[str, Any]) -> tuple[str, ...]:
        """What the configuration says otherwise than when `checkpoint` was written."""
        try:
            return differences(Config.from_json(found["config"]), self.config)
        except ConfigError as error:
            raise CheckpointError(
                f"{self.run.path / CONFIG_FILE} is not what {checkpoint} was trained with: {error}"
            ) from error

    def _loop(self, interrupts: Interrupts) -> StopReason:
        while True:
            try:
                return self._steps(interrupts)
            except DivergedError as error:
                self._roll_back(error)
            except EbmError as error:
                # Parameters that overflowed are found by whoever reads them first.
                if has_finite_parameters(self.model):
                    raise
                step = self._state.progress.step + 1
                self._roll_back(DivergedError("a parameter", math.nan, step), error)

    def _steps(self, interrupts: Interrupts) -> StopReason:
        """Step until there is a reason to stop, evaluating and saving on the way."""
        progress, train = self._state.progress, self.config.train
        if self.run.pointer("last") is None:
            reference = {"unigram_nll": unigram_nll(self._data, self._valid.tokens)}
            self._monitor.write({"step": 0, **reference, "valid": self._evaluate().summary()})
        reason = self._reason_to_end()
        while reason is None:
            state = self._enter_phase()
            factor = self._schedule.factor(progress.step, self._tick())
            outcome = self._stepper.step(state, factor)
            self._monitor.add(progress, outcome)
            reason = self._reason_to_end()
            valid: dict[str, Any] = {}
            kept = False
            if reason or (progress.step % train.eval_every == 0 and not interrupts.requested):
                report = self._evaluate()
                valid = {**self._curriculum.soc(state, self._data), "valid": report.summary()}
                kept = progress.score(report.nll_per_token, train.keep_best)
                reason = reason or self._reason_to_end()
            record = None
            if valid or progress.step % train.log_every == 0:
                line = self._monitor.line(state, outcome.lr) | self._curriculum.record(state)
                record = self._monitor.write({"step": progress.step, **line, **valid})
            self._callbacks.on_step(self._step_event(outcome, record))
            if reason is None and interrupts.requested:
                reason = "interrupted"
            if reason or kept or progress.step % train.checkpoint_every == 0:
                self._checkpoint()
        if self.run.pointer("last") is None:
            self._checkpoint()
        return reason

    def _enter_phase(self) -> TrainingState:
        """The state to go on from: one with more splats where a phase of the curriculum begins."""
        before, step = self._state, self._state.progress.step
        share = self._schedule.share(step, self._tick())
        self._state = self._curriculum.enter(before, self._data, share)
        if self._state is not before:
            model, energy = self._state.config.model, self._state.config.energy
            self.run.log(
                f"step {step}: {model.n_splats} splats from {before.config.model.n_splats}, "
                f"temperature {energy.temperature:g}"
            )
        return self._state

    def _reason_to_end(self) -> StopReason | None:
        progress, train = self._state.progress, self.config.train
        if progress.step >= train.steps:
            return "finished"
        if self._schedule.out_of_time(self._tick()):
            return "time limit"
        if train.patience is not None and progress.stale >= train.patience:
            return "early stop"
        return None

    def _roll_back(self, error: DivergedError, cause: Exception | None = None) -> None:
        """Go back to the last checkpoint, with lower rates; give up if that was done before.

        Raises:
            EbmError: the run gives up.
        """
        last, scale = self.run.newest(), self._state.progress.rate_scale
        if scale < 1:
            failure = gave_up(error, last)
            self._monitor.write({"step": error.step, "failed": f"{error}"})
            self.run.log(str(failure))
            raise failure from cause or error
        self._go_to(last)
        self._leave_out_stored_splats()
        progress = self._state.progress
        progress.rate_scale = ROLLBACK_RATE
        progress.rollback = {
            "figure": error.figure,
            "at": error.step,
            "to": progress.step,
            "rate_scale": ROLLBACK_RATE,
        }
        self.run.log(
            f"{error}: back to step {progress.step} at {ROLLBACK_RATE:g} times the learning rates"
        )

    def _evaluate(self) -> PerplexityReport:
        state = self._state
        with state.scored_model() as model:
            report = evaluate_perplexity(
                model,
                self._valid,
                self.config,
                start_id=self._data.tokenizer.start_id,
                n_bytes=self._valid_bytes,
            )
            matching = evaluate_score_matching(model, self._valid, self.config)
        report = replace(report, score_matching=matching)
        self.run.log(
            f"step {state.progress.step}: validation perplexity {report.token_perplexity:.2f} per "
            f"token, {report.word_perplexity:.2f} per word"
        )
        self._callbacks.on_eval(state.progress.step, report)
        return report

    def _checkpoint(self) -> None:
        progress = self._state.progress
        self._tick()
        mark = self.run.sync_metrics()
        store, weights, state = self._state.capture()
        state |= {"config": self.config.to_json(), "metrics": asdict(mark)}
        tokenizer = self._data.tokenizer.fingerprint
        path = write_checkpoint(
            self.run.checkpoints, progress.step, store, weights, state, tokenizer
        )
        self.run.commit(progress.step, progress.best_step)
        self._prune(self._state)
        self._monitor.on_checkpoint(path)
        self._callbacks.on_checkpoint(progress.step, path, progress.best_step == progress.step)

    def _prune(self, state: TrainingState) -> None:
        kept = [*state.progress.best_steps, state.progress.best_step]
        self.run.prune(self.config.train.keep_last, (step for step in kept if step is not None))

    def _tick(self) -> float:
        """Update and return the seconds of training so far."""
        self._state.progress.elapsed = time.perf_counter() - self._origin
        return self._state.progress.elapsed

    @property
    def _device_line(self) -> str:
        return self._state.model.device_description

    def _start_event(self) -> StartEvent:
        return StartEvent(
            step=self._state.progress.step,
            steps=self.config.train.steps,
            elapsed=self._state.progress.elapsed,
            max_seconds=self._schedule.max_seconds,
            parameters=self.model.n_parameters(),
            train_tokens=len(self._data.train),
            valid_tokens=len(self._valid),
            device=self._device_line,
            changes=self._changes,
        )

    def _step_event(self, outcome: StepOutcome, record: Mapping[str, Any] | None) -> StepEvent:
        train = self.config.train
        tokens = train.accumulation * train.batch_size * self.config.data.block_size
        return StepEvent(
            step=self._state.progress.step,
            elapsed=self._tick(),
            loss=outcome.parts["loss"],
            parts=outcome.parts,
            lr=outcome.lr,
            tokens_per_second=tokens / outcome.seconds,
            record=record,
            active=self._monitor.active,
        )

    def _result(self, reason: StopReason) -> TrainResult:
        valid = [line["valid"] for line in self.run.read_metrics() if "valid" in line]
        return TrainResult(
            reason=reason,
            step=self._state.progress.step,
            elapsed=self._state.progress.elapsed,
            checkpoint=self.run.checkpoint_path("last"),
            best_step=self._state.progress.best_step,
            first_valid=valid[0] if valid else None,
            last_valid=valid[-1] if valid else None,
        )
