"""All that changes while a run goes on, as one thing that is made, saved and restored."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ebm_wgpu.config import Config
from ebm_wgpu.errors import CheckpointError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.registry import build_model
from ebm_wgpu.splats.growth import Growth
from ebm_wgpu.splats.store import SplatStore
from ebm_wgpu.text.datasets import BlockDataset
from ebm_wgpu.training.averaging import WeightAverage, learning, load_learning
from ebm_wgpu.training.checkpoints import Checkpoint, check_tokenizer
from ebm_wgpu.training.gradients import Gradients
from ebm_wgpu.training.grown_rows import GrownRows
from ebm_wgpu.training.model_state import model_weights, restore_model
from ebm_wgpu.training.optimizers import Optimizers
from ebm_wgpu.training.placement import on_host, torch_device_of
from ebm_wgpu.training.precision import LossScale
from ebm_wgpu.training.run_data import RunData


@dataclass
class Progress:
    """Where a run is, besides model, optimisers and data.

    Attributes:
        step: optimiser steps taken.
        elapsed: seconds of training: initialisation, steps, evaluations and checkpoints.
        best_nll: lowest validation loss, nats per token, at `best_step`.
        best_step: none before the first evaluation of a trained model.
        ranking: validation loss and step of the checkpoints that are kept for it, best first.
        stale: evaluations in a row that were no better than `best_nll`.
        rate_scale: factor of the learning rates, 1 until a rollback lowers it.
        rollback: what led to a rollback, until the next line of metrics tells of it.
        loss_scale: of train.precision=float16.
        growth: the new splats of a phase, until the next line of metrics tells of them.
        soc_mark: step and number of splats at the last line of metrics with a "soc" part.
        logged: sums of what was measured since the last line of metrics, over `logged_steps` steps.
    """

    step: int = 0
    elapsed: float = 0.0
    best_nll: float = math.inf
    best_step: int | None = None
    ranking: list[tuple[float, int]] = field(default_factory=list)
    stale: int = 0
    rate_scale: float = 1.0
    rollback: dict[str, Any] | None = None
    loss_scale: LossScale = field(default_factory=LossScale)
    growth: dict[str, Any] | None = None
    soc_mark: tuple[int, int] | None = None
    logged: dict[str, float] = field(default_factory=dict)
    logged_steps: int = 0

    def score(self, nll: float, keep: int) -> bool:
        """Take in the validation loss of the model now; says whether it belongs to the best `keep`.

        A loss that is no number belongs to none.
        """
        if nll < self.best_nll:
            self.best_nll, self.best_step, self.stale = nll, self.step, 0
        else:
            self.stale += 1
        if math.isfinite(nll):
            self.ranking = sorted([*self.ranking, (nll, self.step)])[:keep]
        return any(step == self.step for _, step in self.ranking)

    @property
    def best_steps(self) -> list[int]:
        """The steps whose checkpoints are kept for their validation loss, the best first."""
        return [step for _, step in self.ranking]


class TrainingState:
    """Model, optimisers, average, position in the data, and progress.

    Attributes:
        config: of the run, in the phase of its curriculum that this state is of.
        model: what learns.
        optimizers: what moves it.
        gradients: what they follow.
        average: moving average of its weights, or none.
        batches: training batches from here on.
        progress: the rest.
    """

    def __init__(self, config: Config, data: RunData, device: KernelDevice) -> None:
        """A model that has neither been initialised nor restored yet."""
        self.config, self._data, self._device = config, data, device
        self._place = torch_device_of(device)
        torch.manual_seed(config.train.seed)
        self.model: LanguageModel = build_model(config, data.tokenizer.vocab_size, device)
        self.optimizers = Optimizers(self.model, config.train, device)
        self.gradients = Gradients(self.model, self.optimizers, config.train)
        self.batches: BlockDataset = data.batches(config)
        self.average: WeightAverage | None = None
        self.progress = Progress()

    def initialize(self) -> None:
        """First values of everything, from the corpus and the seed."""
        config, data = self.config, self._data
        self.model.initialize(
            data.train.tokens,
            data.token_counts,
            config.train.seed,
            data.vocabulary if config.model.splat_init == "embedding" else None,
        )
        self.model.to(self._place)
        if config.train.ema_decay is not None:
            self.average = WeightAverage(self.model, config.train.ema_decay)

    def capture(self) -> tuple[SplatStore | None, dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds: splats, other weights, and the state of the trainer.

        The first two are what is to be used: with a moving average they are the average, and the
        weights that go on learning are in the third.
        """
        state: dict[str, Any] = {
            "progress": asdict(self.progress),
            "optimizers": on_host(self.optimizers.state_dict()),
            "data": self.batches.state_dict(),
            "data_sha256": self._data.fingerprint,
            "torch_random": torch.get_rng_state(),
        }
        if self._place.type == "wgpu":
            state["device_random"] = torch.get_device_module(self._place).get_rng_state()
        if self.average is None:
            store, weights = model_weights(self.model)
            return store, weights, state
        live = {name: on_host(w.detach()).clone() for name, w in learning(self.model).items()}
        state["average"] = {"updates": self.average.updates, "live": live}
        with self.scored_model() as model:
            store, weights = model_weights(model)
            return store, {name: weight.clone() for name, weight in weights.items()}, state

    @contextlib.contextmanager
    def scored_model(self) -> Iterator[LanguageModel]:
        """The model as it is to be used: with the averaged weights, where there are any."""
        with contextlib.nullcontext() if self.average is None else self.average.applied(self.model):
            yield self.model

    def grown(self, config: Config, growth: Growth) -> TrainingState:
        """This state with splats that have grown: all else goes on as it is.

        Splats that were there keep weights and optimiser state; a new one starts at rest, with the
        second moments of the splat it split off. In a moving average it begins as it is.

        Args:
            config: of the phase, with the new number of splats.
            growth: of the splats of this state.
        """
        random = torch.get_rng_state()
        after = TrainingState(config, self._data, self._device)
        torch.set_rng_state(random)
        shapes = {name: tensor.shape for name, tensor in after.model.state_dict().items()}
        before = self.model.state_dict()
        same = {name: on_host(t) for name, t in before.items() if t.shape == shapes[name]}
        after.model.load_state_dict(same, strict=False)
        if after.model.splat_model is not None:
            after.model.splat_model.load_store(growth.store)
        after.model.to(self._place)
        rows = GrownRows(torch.from_numpy(growth.origin), torch.from_numpy(growth.born))
        after.optimizers.take_over(self.optimizers, rows)
        if self.average is not None:
            after.average = self.average.grown(self.model, after.model, rows)
        after.batches, after.progress = self.batches, self.progress
        return after

    def restore(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Go to the state that `capture` took; the state of the trainer, with what was added to it.

        Raises:
            CheckpointError: the checkpoint is of another model, tokenizer, text or version of the
                trainer.
        """
        check_tokenizer(checkpoint, self._data.tokenizer.fingerprint)
        restore_model(self.model, checkpoint)
        self.model.to(self._place)
        state = checkpoint.trainer_state()
        try:
            if state["data_sha256"] != self._data.fingerprint:
                raise CheckpointError(
                    f"{self.config.data.dataset} is not the text this run was trained on: restore "
                    "it, or start a new run"
                )
            self.progress = _progress(state["progress"])
            self.batches.load_state_dict(state["data"])
            self.optimizers.load_state_dict(state["optimizers"])
            self._restore_average(state)
            torch.set_rng_state(state["torch_random"])
            if self._place.type == "wgpu" and "device_random" in state:
                torch.get_device_module(self._place).set_rng_state(state["device_random"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{checkpoint.path} was written by another version of the trainer ({error}): use "
                "that version, or start a new run"
            ) from error
        return state

    def _restore_average(self, state: Mapping[str, Any]) -> None:
        decay = self.config.train.ema_decay
        if decay is None:
            return
        self.average = WeightAverage(self.model, decay)
        self.average.updates = int(state["average"]["updates"])
        load_learning(self.model, state["average"]["live"])


def _progress(state: Mapping[str, Any]) -> Progress:
    progress = Progress(**state)
    progress.loss_scale = LossScale(**state.get("loss_scale", {}))
    progress.ranking = [(float(nll), int(step)) for nll, step in progress.ranking]
    return progress
