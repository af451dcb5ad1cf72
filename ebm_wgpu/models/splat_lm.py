"""The splat language model: tokens from the energy of a latent on the sphere.

A hierarchical context c of the tokens so far tilts the splats by h(c). The tilted mixture has a
closed form: component posterior p(k|c), mean latent E[x|c], log Z(c). The next token is read off it
twice, by the splats' own token ids and by a decoder of [x; c], mixed by a gate:

    p(w|c) = (1 - g(c)) p_decoder(w | x, c) + g(c) sum over {k: sid_k = w} of p(k|c).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ebm_wgpu.config import EnergyConfig, Latent, ModelConfig, SamplerConfig
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models import ops
from ebm_wgpu.models.base import SplatModel
from ebm_wgpu.models.context import Context, HierarchicalContext
from ebm_wgpu.models.decoder import Decoded, ExpertDecoder
from ebm_wgpu.models.distinct import Distinct, room_for
from ebm_wgpu.models.dropout import dropout
from ebm_wgpu.models.energy_ops import (
    EnergyTerms,
    latent_loss_weights,
    latent_losses,
    of_one_latent,
)
from ebm_wgpu.models.label_smoothing import smoothed
from ebm_wgpu.models.mixture_ops import (
    Readout,
    Splats,
    mixture_energy,
    mixture_log_weights,
    mixture_posterior,
    mixture_readout,
    target_log_softmax,
)
from ebm_wgpu.models.splat_mixture import SplatMixture
from ebm_wgpu.splats import initialization

USAGE_RATE = 0.05
_FIRST_GATE = -2.0
_DEFAULT_SAMPLER = SamplerConfig()
_TERM_ROWS = 256
"""Positions of a batch whose latents `latent_losses` looks at: it compares all pairs of them."""
_MAX_ENTRIES = 2**24
"""Most entries of a matrix of positions and tokens, or splats, where all of a row are needed."""


class _Scored(NamedTuple):
    """Scores of targets: log_p (P,), and what the losses want to know besides."""

    log_p: Tensor
    context: Context
    readout: Readout
    decoded: Decoded
    gate: Tensor


class SplatLM(SplatMixture, SplatModel):
    """Language model of splats, context, gate and decoder.

    Attributes:
        token_directions: (V, d); rows are normalised where they are used.
        bias: (V,) of the decoder's logits, log unigram frequencies at first.
        context: from token directions to (c, h).
        decoder: from [x; c] to logits.
        gate: (d + 1,) weights of the gate over c, the last one constant.
        terms: of the energy beside the mixture, those that the configuration has weights for.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        energy_config: EnergyConfig,
        vocab_size: int,
        device: KernelDevice,
        sampler_config: SamplerConfig = _DEFAULT_SAMPLER,
    ) -> None:
        """A model with random directions and parameters; `initialize` fits it to a corpus.

        Args:
            model_config: shape and first values.
            energy_config: form and temperature of the energy, terms beside the splats.
            vocab_size: number of token ids.
            device: runs the kernels; parameters stay in main memory.
            sampler_config: how latents are drawn with latent="langevin".
        """
        super().__init__(model_config, energy_config, vocab_size)
        self._config, self._energy_config = model_config, energy_config
        self._sampler_config, self.device = sampler_config, device
        self._sampling: tuple[tuple[int, ...], Any] | None = None
        self.token_directions = nn.Parameter(torch.empty(vocab_size, model_config.dim))
        self.token_directions.no_decay = True  # type: ignore[attr-defined]
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.context = HierarchicalContext(model_config, device)
        self.decoder = ExpertDecoder(model_config, device)
        self.gate = nn.Parameter(torch.empty(model_config.dim + 1))
        self.terms = EnergyTerms(energy_config)
        directions = initialization.uniform_directions(vocab_size, model_config.dim)
        self._start(directions, np.ones(vocab_size, np.int64), 0)

    def initialize(
        self,
        corpus_ids: ArrayLike,
        token_counts: ArrayLike,
        seed: int,
        vocabulary: Sequence[str] | None = None,
    ) -> None:
        """First values from a corpus: directions by `model.splat_init`, splats, unigram bias.

        Args:
            corpus_ids: (n,) token ids of the training text, for splat_init=spectral.
            token_counts: (V,) uses of each token.
            seed: of everything random.
            vocabulary: text of each token, for word vectors.

        Raises:
            ConfigError: splat_init=embedding with an embedding that does not fit.
            DataError: ids out of range, or an embedding that cannot be read.
        """
        self._start(self._first_directions(corpus_ids, seed, vocabulary), token_counts, seed)

    def _first_directions(
        self, corpus_ids: ArrayLike, seed: int, vocabulary: Sequence[str] | None
    ) -> Any:
        config, size = self._config, self.vocab_size
        if config.splat_init == "spectral":
            return initialization.spectral_directions(corpus_ids, size, config.dim, seed=seed)
        if config.splat_init == "uniform":
            return initialization.uniform_directions(size, config.dim, seed)
        path = str(config.embedding_path)
        if Path(path).is_file():
            if vocabulary is None:
                raise ConfigError(
                    f"model.embedding_path={path} holds word vectors, which need the text of each "
                    "token: use a transformers folder or model.splat_init=spectral"
                )
            matrix, known = initialization.load_word_vectors(path, vocabulary)
            return initialization.from_embedding(matrix, config.dim, known=known, seed=seed)
        matrix = initialization.load_transformers_embedding(path)
        if len(matrix) < size:
            raise ConfigError(
                f"model.embedding_path={path} has {len(matrix)} rows for {size} token ids: use the "
                "embedding of the tokenizer, such as gpt2 with data.tokenizer=gpt2"
            )
        return initialization.from_embedding(matrix[:size], config.dim, seed=seed)

    @torch.no_grad()
    def _start(self, directions: Any, token_counts: ArrayLike, seed: int) -> None:
        config = self._config
        generator = torch.Generator().manual_seed(seed)
        self.context.reset(generator)
        self.decoder.reset(generator)
        self.gate.zero_()
        self.gate[-1] = _FIRST_GATE
        self.token_directions.copy_(torch.from_numpy(directions))
        counts = torch.as_tensor(np.asarray(token_counts), dtype=torch.float64)
        self.bias.copy_(torch.log((counts + 1) / (counts.sum() + len(counts))))
        store = initialization.build_store(
            directions,
            token_counts,
            config.n_splats,
            config.kappa_init,
            kappa_range=(config.kappa_min, config.kappa_max),
            seed=seed,
        )
        if self._energy_config.form == "published":
            # There alpha is the depth of a well as well as its weight: the original's is 1.
            store.alpha[:] = 1
        self.load_store(store)

    @property
    def device_description(self) -> str:
        """The device of the kernels."""
        return self.device.description

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """The cross-entropy, and `latent_losses`; the rest of the weights is up to the training."""
        return {"token": 1.0, **latent_loss_weights(self._energy_config)}

    @property
    def energy_terms(self) -> EnergyTerms | None:
        """The terms beside the mixture, if there are any."""
        return self.terms if self.terms.active else None

    @property
    def energy_config(self) -> EnergyConfig:
        """The energy as it is now: the configuration, with what the terms have learned."""
        return dataclasses.replace(self._energy_config, **self.terms.learned())

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """a b on the device, differentiable."""
        return ops.matmul(self.device, a, b)

    def directions(self) -> Tensor:
        """Unit directions of all tokens, (V, d)."""
        return ops.normalize(self.device, self.token_directions)

    def token_latents(self, tokens: Tensor) -> Tensor:
        """Unit direction e_w of each token, (..., d)."""
        return ops.normalize(self.device, self.token_directions[tokens])

    def features(self, tokens: Tensor) -> Context:
        """Context and tilt after each of the tokens (B, T): c and h, (B, T, d)."""
        return self._context(F.embedding(tokens, self.directions()))

    def _context(self, x: Tensor) -> Context:
        context = self.context(x)
        return Context(context.c, context.h / self._energy_config.temperature)

    def losses(self, tokens: Tensor, latent: Latent = "mean", seed: int = 0) -> dict[str, Tensor]:
        """What training minimises and watches, each averaged over the B T positions.

        token: -log p(w|c), nats, smoothed by `label_smoothing`. latent: -log p(e_w|c)/(d-1), nats a
        degree of freedom, with e_w held fixed. balance: of the experts, 1 where even. gate: mean of
        g. energy: mean of E(e_w|c), nats. With weights for them, `latent_losses` of the directions
        of E[x|c] at positions spread over the batch; and the learned values of the energy's further
        terms. In training mode `model.dropout` acts on the directions of the inputs, and on what
        the decoder reads.

        Args:
            tokens: (B, T+1) int64; inputs [:, :-1], targets [:, 1:].
            latent: what the decoder reads: the mean, an exact draw or a Langevin state. No gradient
                flows through draws.
            seed: of draws.
        """
        return self._losses(tokens, Distinct.of(tokens[:, 1:].reshape(-1)), latent, seed)

    def prepare(self, batches: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """The distinct targets of each batch, and which of them each target is.

        For a device, numbers of distinct targets are rounded up (`room_for`).
        """
        distinct = [Distinct.of(tokens[:, 1:].reshape(-1)) for tokens in batches]
        if self.mu.device.type == "cpu":
            return list(distinct)
        room = room_for(max(len(each.tokens) for each in distinct))
        return [each.padded(room) for each in distinct]

    def prepared_losses(
        self, tokens: Tensor, prepared: Sequence[Tensor], latent: Latent, seed: int
    ) -> dict[str, Tensor]:
        """See `LanguageModel.prepared_losses`."""
        return self._losses(tokens, Distinct(*prepared), latent, seed)

    @property
    def repeats_launches(self) -> bool:
        """See `LanguageModel.repeats_launches`."""
        return True

    def _losses(
        self, tokens: Tensor, distinct: Distinct, latent: Latent, seed: int
    ) -> dict[str, Tensor]:
        inputs, targets = tokens[:, :-1], tokens[:, 1:].reshape(-1)
        table = self.directions()
        share = self._config.dropout if self.training else 0.0
        splats = self.splats()
        scored = self._score(inputs, targets, table, splats, latent, seed, share)
        energy = self._latent_energies(scored.context.h, distinct, table.detach(), splats)
        return {
            "token": self._token_loss(scored, table),
            "latent": (energy + scored.readout.log_z).mean() / (self._dim - 1),
            "balance": scored.decoded.balance,
            "gate": scored.gate.mean(),
            "energy": energy.mean(),
            **self._latent_losses(scored.readout.mean, splats),
            **{name: log.detach().exp() for name, log in self.terms.logs.items()},
        }

    def _token_loss(self, scored: _Scored, table: Tensor) -> Tensor:
        loss = -scored.log_p.mean()
        if not self.label_smoothing:
            return loss
        return smoothed(
            loss,
            self.label_smoothing,
            lambda h, c, y: self._log_probs(h, c, y, table),
            max(self.vocab_size, len(self.mu)),
            _MAX_ENTRIES,
            scored.context.h,
            scored.context.c,
            scored.decoded.y,
        )

    def _latent_losses(self, means: Tensor, splats: Splats) -> dict[str, Tensor]:
        """`latent_losses` of the directions of mean latents (P, d), those with a weight."""
        if not latent_loss_weights(self._energy_config):
            return {}
        rows = means[:: -(-len(means) // _TERM_ROWS)]
        x = ops.normalize(self.device, rows.contiguous())
        return latent_losses(x, splats, self._energy_config)

    @torch.no_grad()
    def token_log_probs(
        self, tokens: Tensor, targets: Tensor, latent: Latent = "mean", seed: int = 0
    ) -> Tensor:
        """log p(target | tokens up to its position) in nats, (B, T), for tokens and targets (B, T).

        Probabilities over all tokens are never held for all positions at once.
        """
        scored = self._score(
            tokens, targets.reshape(-1), self.directions(), self.splats(), latent, seed
        )
        return scored.log_p.reshape(targets.shape)

    @torch.no_grad()
    def target_energies(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """E(e_w|c) = E_splats(e_w) - h(c).e_w of each target w, nats, (B, T), for (B, T) each."""
        table = self.directions()
        h = self._context(F.embedding(tokens, table)).h.flatten(0, 1)
        distinct = Distinct.of(targets.flatten())
        return self._latent_energies(h, distinct, table, self.splats()).view(targets.shape)

    def _latent_energies(
        self, h: Tensor, targets: Distinct, table: Tensor, splats: Splats
    ) -> Tensor:
        """E(e_w|c), (P,), of P targets after contexts with the tilts h (P, d)."""
        latents = table[targets.tokens]
        energy = mixture_energy(self.device, latents, splats)[targets.which]
        return energy - (h * latents[targets.which]).sum(1)

    @torch.no_grad()
    def record_usage(self, tokens: Tensor, steps: int) -> None:
        """Age all splats by `steps` and move their frequencies toward their use after `tokens`.

        frequency <- (1 - r) frequency + r mean p(k|c) over the contexts of tokens (B, T), with
        r = `USAGE_RATE`: frequencies are shares of all use, recent use counting most.
        """
        h = self.features(tokens).h.flatten(0, 1)
        use = self._posterior(h).mean(0).cpu().double()
        self.frequency.lerp_(use, USAGE_RATE)
        self.age += steps

    def _posterior(self, h: Tensor) -> Tensor:
        """p(k|c) for tilts h (P, d), (P, N)."""
        similarities = self.product(h, self.mu.T)
        square = h.square().sum(1)
        log_weights = mixture_log_weights(self.device, similarities, self.splats(), square)
        return mixture_posterior(self.device, log_weights)[0]

    def _score(
        self,
        tokens: Tensor,
        targets: Tensor,
        table: Tensor,
        splats: Splats,
        latent: Latent,
        seed: int,
        dropped: float = 0.0,
    ) -> _Scored:
        """Scores of targets (B T,) after tokens (B, T); dropout drops the share `dropped`."""
        full = self._context(_drop(F.embedding(tokens, table), dropped))
        context = Context(full.c.flatten(0, 1), full.h.flatten(0, 1))
        readout = mixture_readout(self.device, context.h, splats, *self.groups(targets))
        x = self._latent(context.h, readout.mean, latent, seed)
        decoded = self.decoder(_drop(x, dropped), _drop(context.c, dropped))
        log_decoder = target_log_softmax(self.device, decoded.y, table, self.bias, targets)
        open_gate = self._gate(context.c)
        log_p = ops.gated_log_p(self.device, log_decoder, readout.log_mass, open_gate)
        return _Scored(log_p, context, readout, decoded, torch.sigmoid(open_gate))

    def _gate(self, c: Tensor) -> Tensor:
        return c @ self.gate[:-1] + self.gate[-1]

    @torch.no_grad()
    def next_token_log_probs(
        self, tokens: Tensor, latent: Latent = "mean", seed: int = 0
    ) -> Tensor:
        """log p(w | tokens) of every token w to come, (B, V) nats, for tokens (B, T)."""
        table = self.directions()
        full = self._context(F.embedding(tokens, table))
        c, h = full.c[:, -1], full.h[:, -1].contiguous()
        nothing = torch.zeros(len(h), dtype=torch.int64, device=h.device)
        mean = mixture_readout(self.device, h, self.splats(), nothing, nothing).mean
        y = self.decoder(self._latent(h, mean, latent, seed), c).y
        return self._log_probs(h, c, y, table)

    def _log_probs(self, h: Tensor, c: Tensor, y: Tensor, table: Tensor) -> Tensor:
        """log p(w|c) of every token, (P, V), from tilts, contexts and decoded latents (P, d)."""
        shares = self._posterior(h).cpu()
        p_splat = torch.zeros(len(h), self.vocab_size).index_add_(1, self.sid, shares).to(h.device)
        log_decoder = F.log_softmax(self.product(y, table.T) + self.bias, 1)
        open_gate = self._gate(c)[:, None]
        # Tokens without a splat have no logarithm, and would have no gradient.
        log_splat = p_splat.clamp_min(torch.finfo(p_splat.dtype).tiny).log()
        return torch.logaddexp(
            F.logsigmoid(-open_gate) + log_decoder, F.logsigmoid(open_gate) + log_splat
        )

    def _latent(self, h: Tensor, mean: Tensor, latent: Latent, seed: int) -> Tensor:
        """What the decoder reads, (P, d)."""
        if latent == "mean":
            return mean
        from ebm_wgpu import sampling
        from ebm_wgpu.sampling.langevin import langevin_options

        energy, sampler = self._sampler(), self._sampler_config
        # The energy divides tilts by its temperature; these are divided already.
        tilt = (h.detach() * self._energy_config.temperature).cpu().numpy()
        if latent == "exact":
            x = sampling.sample_exact(energy, len(h), tilt, seed=seed).x
        else:
            x = sampling.sample_langevin(
                energy,
                len(h),
                tilt,
                list_size=sampler.list_size,
                list_eps=sampler.list_eps,
                seed=seed,
                **langevin_options(sampler),
            ).x
        return torch.from_numpy(x).to(h.device)

    def _sampler(self) -> Any:
        """`of_one_latent` for the splats as they are, made anew when they have changed."""
        learned = (self.mu, self.log_alpha, self.kappa_logit, *self.terms.parameters())
        state = (len(self.mu), *(parameter._version for parameter in learned))
        if self._sampling is None or self._sampling[0] != state:
            from ebm_wgpu.energy import Energy

            alone = of_one_latent(self.energy_config)
            energy = Energy.from_config(self.to_store(), self.device, alone)
            self._sampling = (state, energy)
        return self._sampling[1]

    def load_store(self, store: Any) -> None:
        """Take over the splats of a store; see `SplatMixture.load_store`."""
        self._sampling = None
        super().load_store(store)


def _drop(x: Tensor, share: float) -> Tensor:
    return dropout(x, share) if share else x
