"""EnergyTransformer: a language model that predicts by going downhill in a learned energy.

E(tokens, p) scores how well a distribution p of the next token fits the text. A prediction starts
from noise and is refined, y <- y - alpha grad E (`Descent`); training differentiates through the
refinement. System 1 is the trained number of steps, System 2 more steps and more starts
(`Thinking`). Source: Gladstone et al. 2025 (arXiv:2507.02092).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ebm_wgpu.config import Latent
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.energy_blocks import RealPart
from ebm_wgpu.models.energy_predictor import SYSTEM_1, EnergyPredictor
from ebm_wgpu.models.energy_transformer_config import (
    EnergyTransformerConfig,
    StepRule,
    Thinking,
)
from ebm_wgpu.models.recompute import recomputed
from ebm_wgpu.models.replay_buffer import Replay, ReplayBuffer


class _Start(NamedTuple):
    """Where training refines P positions of R rows from, the replayed rows last.

    Attributes:
        targets: (R, P) int64.
        initial: the first states, (R, P, V).
        noise: of each step, (R, P, V), or nothing.
        step_size: alpha, (R, P, 1).
        steps: how many.
    """

    targets: Tensor
    initial: Tensor
    noise: list[Tensor]
    step_size: Tensor
    steps: int


class EnergyTransformer(EnergyPredictor, LanguageModel):
    """An `EnergyPredictor` that learns by differentiating through its own predictions.

    Attributes:
        replay: windows refined before, or none.
    """

    def __init__(
        self, config: EnergyTransformerConfig, vocab_size: int, thinking: Thinking = SYSTEM_1
    ) -> None:
        """Weights are those of seed 0 until `initialize`.

        Args:
            config: shape, refinement and training terms.
            vocab_size: V.
            thinking: how long inference thinks.
        """
        super().__init__(config, vocab_size, thinking)
        self.replay: ReplayBuffer | None = None
        if config.replay_capacity:
            self.replay = ReplayBuffer(config.replay_capacity, config.replay_tokens, vocab_size)

    def initialize(
        self,
        corpus_ids: npt.NDArray[np.integer[Any]],
        token_counts: npt.NDArray[np.integer[Any]],
        seed: int,
        vocabulary: Sequence[str] | None = None,
    ) -> None:
        """As `EnergyPredictor.initialize`; the replay buffer is emptied."""
        super().initialize(corpus_ids, token_counts, seed, vocabulary)
        if self.replay is not None:
            self.replay.clear()

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Weights of the terms of `losses` that are minimised; other terms are reported only."""
        config = self.config
        return {
            "token": 1.0,
            "intermediate": config.intermediate_weight,
            "contrastive": config.contrastive_weight,
            "replay": config.replay_share if self.replay is not None else 0.0,
        }

    @property
    def repeats_launches(self) -> bool:
        """Unless main memory draws steps or windows, or starts for the largest eigenvalue."""
        config = self.config
        settled = config.min_steps == config.max_steps and config.step_rule == "learned"
        return settled and self.replay is None

    def target_energies(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """E of being certain of the target, as `token_energies`."""
        return self.token_energies(tokens, targets)

    def think(
        self,
        steps: int | None = None,
        best_of: int | None = None,
        step_rule: StepRule | None = None,
    ) -> None:
        """Choose `thinking`; see `LanguageModel.think`.

        Raises:
            ConfigError: a value out of range.
        """
        now = self.thinking
        self.thinking = replace(
            now,
            steps=now.steps if steps is None else steps,
            best_of=now.best_of if best_of is None else best_of,
            step_rule=now.step_rule if step_rule is None else step_rule,
        )

    def losses(self, tokens: Tensor, latent: Latent = "mean", seed: int = 0) -> dict[str, Tensor]:
        """What training minimises (`loss_weights`) and watches, each averaged over positions.

        token: cross-entropy after the last step, nats. intermediate: mean of that after each
        earlier step; absent with one step or gradient=truncate. contrastive: -log of the
        probability exp(-E(true)) / (exp(-E(true)) + exp(-E(p))), p the final prediction held
        fixed; absent at weight 0. replay: as token, of replayed windows refined further; absent
        while there are none. energy: before the last step. step_size: alpha.

        In training mode the refined windows enter the replay buffer.

        Args:
            tokens: (B, T+1) int64; inputs [:, :-1], targets [:, 1:].
            latent: changes nothing: training starts from noise as the configuration says.
            seed: of everything random; noise on a device follows that device's random state.

        Raises:
            ConfigError: more tokens than max_length or, with a replay buffer, replay_tokens.
        """
        config, generator = self.config, torch.Generator().manual_seed(seed)
        fresh, length = len(tokens), tokens.shape[1] - 1
        steps = int(torch.randint(config.min_steps, config.max_steps + 1, (), generator=generator))
        replay = self._draw_replay(fresh, length, generator)
        rows = tokens if replay is None else torch.cat((tokens, replay.tokens))
        step_size = self._jittered_step_size(len(rows), length, generator)
        keys, values = self.backbone.read(self.embedding(rows[:, :-1]))
        parts = []
        chunks = list(self.chunks(len(rows), length))
        for here in chunks:
            start = self._start(seed, here, steps, rows, replay, step_size)
            parts.append(self._refine(keys, values, here, start, kept=len(chunks) == 1))
        nll, energy, contrast, final = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        if self.replay is not None and self.training:
            # First back to their slots, which the fresh windows may then take.
            if replay is not None:
                self.replay.update(replay, final[fresh:])
            self.replay.push(tokens, final[:fresh])
        terms = {"token": nll[:fresh, :, -1].mean()}
        if nll.shape[-1] > 1:
            terms["intermediate"] = nll[:fresh, :, :-1].mean()
        if config.contrastive_weight:
            terms["contrastive"] = contrast[:fresh].mean()
        if replay is not None:
            terms["replay"] = nll[fresh:, :, -1].mean()
        return {**terms, "energy": energy.mean().detach(), "step_size": self.step_size.detach()}

    def _draw_replay(self, fresh: int, length: int, generator: torch.Generator) -> Replay | None:
        if self.replay is None:
            return None
        if length > self.replay.length:
            raise ConfigError(
                f"ebt.replay_tokens={self.replay.length} is less than the {length} tokens of a "
                "window: raise it to data.block_size"
            )
        count = max(1, round(self.config.replay_share * fresh))
        return self.replay.draw(count, length, generator)

    def _jittered_step_size(self, rows: int, length: int, generator: torch.Generator) -> Tensor:
        """alpha of each trained position, (R, T, 1)."""
        jitter, place = self.config.step_jitter, self.prior.device
        if jitter == 1:
            return self.step_size.expand(rows, length, 1)
        drawing = generator if place.type == "cpu" else None
        share = torch.rand((rows, length, 1), generator=drawing, device=place).to(self.prior)
        return self.step_size * (1 / jitter + share * (jitter - 1 / jitter))

    def _training_noise(
        self, key: tuple[int, ...], places: range, rows: int, scale: float
    ) -> Tensor:
        """Normal noise (rows, P, V) of deviation `scale`, as `noise` in main memory alone.

        A device draws it itself, so that all these numbers need not be copied there.
        """
        if self.prior.device.type == "cpu":
            return self.noise(key, places, rows, scale)
        shape = (rows, len(places), self.vocab_size)
        return scale * torch.randn(shape, device=self.prior.device)

    def _start(
        self,
        seed: int,
        here: slice,
        steps: int,
        rows: Tensor,
        replay: Replay | None,
        step_size: Tensor,
    ) -> _Start:
        places, config = range(here.start, here.stop), self.config
        initial = self.prior + self._training_noise(
            (seed, 0), places, len(rows), config.initial_noise
        )
        if replay is not None:
            initial[-len(replay.states) :] = replay.states[:, here]
        noise = [
            self._training_noise((seed, 1 + step), places, len(rows), config.langevin_noise)
            for step in range(steps if config.langevin_noise else 0)
        ]
        return _Start(rows[:, 1:][:, here], initial, noise, step_size[:, here], steps)

    def _refine(
        self, keys: list[Tensor], values: list[Tensor], here: slice, start: _Start, kept: bool
    ) -> tuple[Tensor, ...]:
        """What `losses` needs of a chunk: nll (R, P, K), energy, contrast (R, P), final (R, P, V).

        Its graph is kept, or otherwise built again when it is needed.
        """
        layers = len(keys)

        def run(inputs: Sequence[Tensor], differentiate: bool) -> tuple[Tensor, ...]:
            text = list(inputs[:layers]), list(inputs[layers:-1])
            real = self.backbone.part(*text, here.start, here.stop)
            return self._refined(real, start._replace(step_size=inputs[-1]), differentiate)

        inputs = [*keys, *values, start.step_size]
        if kept or not torch.is_grad_enabled():
            return run(inputs, torch.is_grad_enabled())
        return recomputed(run, inputs, list(self.parameters()))

    def _refined(self, real: RealPart, start: _Start, differentiate: bool) -> tuple[Tensor, ...]:
        config, energy = self.config, self.energy_of(real)
        descent = self.descent()
        if differentiate:
            descent = replace(descent, gradient=config.gradient)
        refined = descent(energy, start.initial, start.step_size, start.steps, start.noise)
        final = refined.states[-1]
        scored = refined.states[-1:] if config.gradient == "truncate" else refined.states
        targets, share = start.targets, self.label_smoothing
        nll = [
            F.cross_entropy(
                state.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=share
            )
            for state in scored
        ]
        contrast = torch.zeros_like(refined.energies[-1])
        if config.contrastive_weight:
            predicted = energy(final.detach().softmax(-1), start.steps - 1)
            true = self.certain_energies(targets, real, start.steps - 1)
            contrast = F.softplus(true - predicted)
        stored = final.detach() if self.replay is not None else final.detach()[..., :0]
        nll_of_steps = torch.stack(nll, -1).view(*targets.shape, len(nll))
        return nll_of_steps, refined.energies[-1], contrast, stored
