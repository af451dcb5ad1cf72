"""The gradient of a step: of the mean loss over its batches, and what is measured on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ebm_wgpu.config import TrainConfig
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.training.objectives import Objective
from ebm_wgpu.training.optimizers import Optimizers
from ebm_wgpu.training.placement import place_of
from ebm_wgpu.training.precision import autocast

if TYPE_CHECKING:
    from ebm_wgpu.torch_device.replay import Replayed


@dataclass(frozen=True)
class Measured:
    """What came of a step's batches.

    Attributes:
        norm: of the gradient of the loss, times the scale of the loss.
        parts: the loss, its parts, and what the model measures beside them, means over batches.
    """

    norm: float
    parts: dict[str, float]


class _Numbers(NamedTuple):
    """Scalars by name, those of one type in one place together in a tensor.

    Attributes:
        names: of the numbers of each tensor; a name may come once for each batch.
        values: the tensors.
    """

    names: list[list[str]]
    values: list[Tensor]

    @classmethod
    def of(cls, scalars: Sequence[tuple[str, Tensor]]) -> _Numbers:
        """Numbers that nothing has waited for yet."""
        alike: dict[tuple[torch.device, torch.dtype], list[tuple[str, Tensor]]] = {}
        for name, scalar in scalars:
            alike.setdefault((scalar.device, scalar.dtype), []).append((name, scalar))
        return cls(
            [[name for name, _ in group] for group in alike.values()],
            [torch.stack([s.detach().reshape(()) for _, s in group]) for group in alike.values()],
        )

    def sums(self) -> dict[str, float]:
        """The sum of the numbers of each name; waits for their device."""
        found: dict[str, float] = {}
        for names, values in zip(self.names, self.values, strict=True):
            for name, value in zip(names, values.tolist(), strict=True):
                found[name] = found.get(name, 0.0) + value
        return found


_NORM = "gradient norm"


class _Work:
    """What is done with the inputs of a step, where the model is.

    Attributes:
        seeds: one a batch, of what is random in it.
        scaled: whether the last input is the scale of the loss.
    """

    def __init__(self, model: LanguageModel, optimizers: Optimizers, train: TrainConfig) -> None:
        self._model, self._optimizers, self._precision = model, optimizers, train.precision
        self._objective = Objective(train)
        self.seeds: Sequence[int] = ()
        self.scaled = False

    @property
    def repeats_launches(self) -> bool:
        """Whether all steps take the same launches."""
        return self._objective.repeats_launches(self._model)

    def __call__(self, *inputs: Tensor) -> _Numbers:
        """Gradients from the tokens of each batch and what the model prepared of them."""
        scale = inputs[-1] if self.scaled else None
        parts = inputs[: len(inputs) - self.scaled]
        each = len(parts) // len(self.seeds)
        scalars: list[tuple[str, Tensor]] = []
        for micro, seed in enumerate(self.seeds):
            tokens, *prepared = parts[micro * each : (micro + 1) * each]
            with autocast(self._precision, self._model):
                total, measured = self._objective(self._model, tokens, seed, prepared)
            if len(self.seeds) > 1:
                total = total / len(self.seeds)
            (total if scale is None else scale * total).backward()
            scalars += measured.items()
        return _Numbers.of([(_NORM, self._optimizers.gradient_norm()), *scalars])


class Gradients:
    """Computes the gradients that the optimisers of a model follow.

    On torch.device("wgpu") the launches of the first steps are kept and done again without Python
    (`torch_device.replay`), where every batch takes the same (`Objective.repeats_launches`).

    Attributes:
        replayed: what keeps them, from the first step there on.
    """

    def __init__(self, model: LanguageModel, optimizers: Optimizers, train: TrainConfig) -> None:
        """For a model wherever it will be, and the optimisers made for it."""
        self._model, self._parameters = model, optimizers.parameters
        self._work = _Work(model, optimizers, train)
        self.replayed: Replayed[_Numbers] | None = None

    def __call__(
        self, batches: Sequence[Tensor], seeds: Sequence[int], scale: float | None = None
    ) -> Measured:
        """Leave the gradient of the mean loss in the parameters, which must have none.

        Args:
            batches: (B, T+1) int64 each, in main memory.
            seeds: one a batch, of what is random in it.
            scale: the loss is multiplied by it before its gradient is taken, if given.

        Raises:
            EbmError: what the model finds wrong with its parameters.
        """
        prepared = self._model.prepare(batches)
        inputs = [
            part for batch in zip(batches, prepared, strict=True) for part in (batch[0], *batch[1])
        ]
        if scale is not None:
            inputs.append(torch.tensor(scale))
        self._work.seeds, self._work.scaled = seeds, scale is not None
        totals = self._launch(inputs).sums()
        norm = totals.pop(_NORM)
        return Measured(norm, {name: total / len(batches) for name, total in totals.items()})

    def _launch(self, inputs: Sequence[Tensor]) -> _Numbers:
        place = place_of(self._model)
        if place.type != "wgpu" or not self._work.repeats_launches:
            return self._work(*(part.to(place) for part in inputs))
        if self.replayed is None:
            from ebm_wgpu.torch_device.replay import Replayed

            self.replayed = Replayed(self._work, self._parameters)
        return self.replayed(*inputs)
