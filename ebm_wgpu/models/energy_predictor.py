"""Predicting by refinement: starts, thinking, scores and generation of an energy model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm_wgpu.config import Latent
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.energy_blocks import EnergyBackbone, RealPart
from ebm_wgpu.models.energy_descent import Descent, StateEnergy, lowest_energy
from ebm_wgpu.models.energy_transformer_config import EnergyTransformerConfig, Thinking
from ebm_wgpu.models.ops import chunks
from ebm_wgpu.models.position_noise import position_noise
from ebm_wgpu.models.transformer_blocks import INIT_STD, KeyValueCache
from ebm_wgpu.models.unigram_start import UnigramStart

SYSTEM_1 = Thinking()


class EnergyPredictor(UnigramStart):
    """E(tokens, p) for a distribution p of the next token, and predictions of low energy.

    `latent` says what is random in a prediction: nothing (mean: it starts at the mean of the first
    state), the first state (exact), or that and the noise of each step (langevin). Noise depends on
    the seed and the position alone: not on the batch, nor on how a text is cut.

    `initialize` gives the first state the mean that the configuration says.

    Attributes:
        config: shape and refinement.
        thinking: how long inference thinks; assign another one to change that.
        embedding: of real tokens, (V, dim).
        prediction: of predicted distributions, (V, dim); with tie_prediction the same one.
        backbone: from embeddings to energies.
        log_step_size: log alpha.
        offset: added to the embedding of a prediction, (dim,). For a distribution that is the same
            as adding it to each row of the table; it bounds the slope of the first norm, whose
            argument the rows would average out to nearly zero.
        prior: mean of the first state, (V,).
    """

    prior: Tensor

    def __init__(
        self, config: EnergyTransformerConfig, vocab_size: int, thinking: Thinking = SYSTEM_1
    ) -> None:
        """Weights are those of seed 0 until `initialize`.

        Args:
            config: shape and refinement.
            vocab_size: V.
            thinking: how long inference thinks.
        """
        super().__init__()
        self.config, self.vocab_size, self.thinking = config, vocab_size, thinking
        self.embedding = nn.Embedding(vocab_size, config.dim)
        self.prediction = (
            self.embedding if config.tie_prediction else nn.Embedding(vocab_size, config.dim)
        )
        self.backbone = EnergyBackbone(config)
        self.log_step_size = nn.Parameter(torch.empty(()), requires_grad=config.learn_step_size)
        self.offset = nn.Parameter(torch.empty(config.dim))
        self.register_buffer("prior", torch.zeros(vocab_size))
        self._draw_weights(0)

    @torch.no_grad()
    def _draw_weights(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.backbone.reset(generator)
        self.embedding.weight.normal_(0.0, INIT_STD, generator=generator)
        if self.prediction is not self.embedding:
            self.prediction.weight.normal_(0.0, INIT_STD, generator=generator)
        self.offset.normal_(0.0, INIT_STD, generator=generator)
        self.log_step_size.fill_(math.log(self.config.step_size))

    def _start_from(self, log_frequencies: Tensor) -> None:
        self.prior.zero_()
        if self.config.initial == "unigram":
            self.prior.copy_(log_frequencies)

    @property
    def step_size(self) -> Tensor:
        """alpha, a scalar."""
        return self.log_step_size.exp()

    def energies(self, tokens: Tensor, distributions: Tensor, step: int = 0) -> Tensor:
        """E(tokens[b, :t+1], distributions[b, t]) in nats, (B, T), for (B, T) and (B, T, V).

        Args:
            tokens: int64.
            distributions: of the token after each; with update=raw scores of it.
            step: number of the refinement step, for the variants that look at it.

        Raises:
            ConfigError: more tokens than max_length.
        """
        return self.energy_of(self._read(tokens, 0))(distributions, step)

    @torch.no_grad()
    def token_energies(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """E(tokens[b, :t+1], targets[b, t]) of certain predictions, (B, T), for (B, T) each."""
        return self.certain_energies(targets, self._read(tokens, 0), self._steps() - 1)

    def energy_of(self, real: RealPart) -> StateEnergy:
        """The energies (B, P) of what is predicted (B, P, V) after a real part."""
        table, offset = self.prediction.weight, self.offset
        return lambda x, step: self.backbone.energies(x @ table + offset, real, step)

    def certain_energies(self, targets: Tensor, real: RealPart, step: int) -> Tensor:
        """The same of the distributions that are certain of targets (B, P)."""
        embedded = F.embedding(targets, self.prediction.weight) + self.offset
        return self.backbone.energies(embedded, real, step)

    def descent(self) -> Descent:
        """How the configuration refines."""
        config = self.config
        return Descent(
            update=config.update,
            step_rule=config.step_rule,
            spectral_c=config.spectral_c,
            spectral_iterations=config.spectral_iterations,
        )

    def noise(
        self, key: tuple[int, ...], positions: Sequence[int], rows: int, scale: float
    ) -> Tensor:
        """Normal noise (rows, P, V) of deviation `scale` from the stream `key`."""
        return scale * position_noise(key, positions, rows, self.vocab_size).to(self.prior)

    @torch.no_grad()
    def token_log_probs(
        self, tokens: Tensor, targets: Tensor, latent: Latent = "mean", seed: int = 0
    ) -> Tensor:
        """log p(targets[b, t] | tokens[b, :t+1]), nats, (B, T), for tokens and targets (B, T).

        At most `max_logits` entries of a (positions, V) matrix exist at a time.

        Args:
            tokens: int64.
            targets: int64.
            latent: what is random in a prediction; see the class.
            seed: of that.

        Raises:
            ConfigError: more tokens than max_length, or several starts without noise between them.
        """
        keys, values = self.backbone.read(self.embedding(tokens))
        parts = []
        for here in self.chunks(*tokens.shape):
            real = self.backbone.part(keys, values, here.start, here.stop)
            noise = _Noise(self, seed, range(here.start, here.stop))
            log_probs = F.log_softmax(self._think(real, len(tokens), latent, noise), -1)
            parts.append(log_probs.gather(2, targets[:, here, None]).squeeze(2))
        return torch.cat(parts, 1)

    @torch.no_grad()
    def next_token_log_probs(
        self, tokens: Tensor, latent: Latent = "mean", seed: int = 0
    ) -> Tensor:
        """log p(next token | tokens), (B, V), for tokens (B, T); otherwise as `token_log_probs`."""
        last = tokens.shape[1] - 1
        noise = _Noise(self, seed, [last])
        state = self._think(self._read(tokens, last), len(tokens), latent, noise)
        return F.log_softmax(state[:, 0], -1)

    def start_cache(self, rows: int) -> KeyValueCache:
        """An empty cache for the real parts of `rows` texts that grow side by side."""
        return self.backbone.start_cache(rows)

    @torch.no_grad()
    def step(
        self,
        tokens: Tensor,
        cache: KeyValueCache,
        lengths: Tensor | None = None,
        latent: Latent = "mean",
        seed: int = 0,
    ) -> Tensor:
        """log p(next token | all read so far), (B, V), after reading on.

        Arguments and errors as `TransformerLM.step`, but for `latent` and `seed`: see the class.
        """
        rows, count = tokens.shape
        lengths = cache.new_lengths(count, lengths)
        self.backbone.read_cached(self.embedding(tokens), cache, lengths)
        noise = _Noise(self, seed, (cache.lengths - 1).tolist(), by_row=True)
        state = self._think(self.backbone.cached_part(cache), rows, latent, noise)
        return F.log_softmax(state[:, 0], -1)

    def chunks(self, rows: int, length: int) -> list[slice]:
        """Slices of `length` positions such that a chunk of all rows is within `max_logits`."""
        return chunks(length, rows * self.vocab_size, self.config.max_logits)

    def _read(self, tokens: Tensor, start: int) -> RealPart:
        """What positions `start` and later see of tokens (B, T)."""
        keys, values = self.backbone.read(self.embedding(tokens))
        return self.backbone.part(keys, values, start, tokens.shape[1])

    def _steps(self) -> int:
        return self.config.max_steps if self.thinking.steps is None else self.thinking.steps

    def _think(self, real: RealPart, rows: int, latent: Latent, noise: _Noise) -> Tensor:
        """Refined states (B, P, V)."""
        thinking, config = self.thinking, self.config
        if thinking.best_of > 1 and not config.initial_noise:
            raise ConfigError(
                f"think_best_of={thinking.best_of} needs starts that differ: train with "
                "ebt.initial_noise > 0, or use think_best_of=1"
            )
        descent, steps, energy = self.descent(), self._steps(), self.energy_of(real)
        if thinking.step_rule is not None:
            descent = replace(descent, step_rule=thinking.step_rule)
        states, energies = [], []
        for candidate in range(thinking.best_of):
            first = self.prior
            if latent != "mean" or candidate > 0:
                first = first + noise(candidate, 0, config.initial_noise)
            first = first.expand(rows, noise.positions, -1)
            added = []
            if latent == "langevin" and config.langevin_noise:
                added = [noise(candidate, 1 + i, config.langevin_noise) for i in range(steps)]
            state = descent(energy, first, self.step_size, steps, added).states[-1]
            states.append(state)
            if thinking.best_of > 1:
                energies.append(energy(descent.argument(state, steps), steps - 1))
        return lowest_energy(states, energies) if energies else states[0]


class _Noise:
    """Noise of inference: one draw a position, the same for each row that stands there.

    Attributes:
        positions: how many positions a row has.
    """

    def __init__(
        self, model: EnergyPredictor, seed: int, places: Sequence[int], by_row: bool = False
    ) -> None:
        """`places` are those of a row's positions, or with `by_row` of each row's only one."""
        self._model, self._seed, self._places, self._by_row = model, seed, places, by_row
        self.positions = 1 if by_row else len(places)

    def __call__(self, candidate: int, draw: int, scale: float) -> Tensor:
        """Draw number `draw` of a candidate, (1 or B, P, V), of deviation `scale`."""
        drawn = self._model.noise((self._seed, candidate, draw), self._places, 1, scale)
        return drawn.transpose(0, 1) if self._by_row else drawn
