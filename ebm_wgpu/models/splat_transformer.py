"""The splat language model over a transformer context, whose splats are states of the text.

A transformer gives the state s_t. Token t+1 is predicted by a decoder tied to the token directions,
by the splats of the context, and by stored splats, which consolidation makes of training states:

    p(w|c) = (1 - g2) [(1 - g1) p_decoder(w|s) + g1 p_context(w|s)] + g2 p_stored(w|s)

Both kinds are mixtures of one concentration, each with an energy E(x|c) = -log sum_k w_k
exp(a (mu_k.x - 1)) - h.x of latents x. Their closed form gives p_context, p_stored and the evidence
that the gates go by; p_context and p_stored can be read off latents that are drawn as well, which
gives the same on average (`splat_latents`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from ebm_wgpu.config import Latent, ModelConfig, SamplerConfig
from ebm_wgpu.errors import StoreError
from ebm_wgpu.kernels import KernelDevice, open_device
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.class_softmax import ClassSoftmax
from ebm_wgpu.models.context_cache import ContextCache, SeenSplats
from ebm_wgpu.models.context_splats import ContextSplats, Recalled, log_masses
from ebm_wgpu.models.label_smoothing import smoothed
from ebm_wgpu.models.linear_cross_entropy import map_chunks
from ebm_wgpu.models.memory_config import MemoryConfig
from ebm_wgpu.models.ops import chunks
from ebm_wgpu.models.recall import Neighbours, NextReading, Reading, RecallGate, mix
from ebm_wgpu.models.splat_latents import SplatLatents, TiltedRows, context_rows, stored_rows
from ebm_wgpu.models.transformer_backbone import TransformerBackbone
from ebm_wgpu.models.transformer_config import TransformerConfig
from ebm_wgpu.models.unigram_start import UnigramStart
from ebm_wgpu.splats.search import NeighbourSearch, make_search
from ebm_wgpu.splats.store import SplatStore

_WEIGHTS: Mapping[str, float] = MappingProxyType({"token": 1.0})
_DEFAULT_SAMPLER = SamplerConfig()
_ENTRIES = 1 << 24
"""Elements of stored directions that latents are drawn of at a time."""


class SplatTransformer(UnigramStart, LanguageModel):
    """Language model of a transformer context, context splats, stored splats and a tied decoder.

    The stored splats are no parameters: they are the training states that consolidation kept, all
    of the concentration `model.kappa_init`. Without them g2 is 0.

    Attributes:
        backbone: tokens to states.
        bias: (V,) of the decoder.
        classes: the decoder's softmax.
        context: splats of the context, and g1.
        recall: the length of the tilt of stored splats, and g2.
        n_neighbours: nearest stored splats that count.
        search_kind: how they are found, see `splats.search.make_search`.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        config: TransformerConfig,
        memory: MemoryConfig,
        vocab_size: int,
        sampler_config: SamplerConfig = _DEFAULT_SAMPLER,
        device: KernelDevice | None = None,
    ) -> None:
        """Weights are those of seed 0 until `initialize`.

        Args:
            model_config: kappa_init and the range of kappa.
            config: the backbone.
            memory: how stored splats are found.
            vocab_size: V.
            sampler_config: how latents move with latent="langevin".
            device: draws latents and searches; opened as "auto" when first needed, unless given.
        """
        super().__init__()
        self.vocab_size, self.config = vocab_size, config
        self.kappa = model_config.kappa_init
        self.kappa_range = (model_config.kappa_min, model_config.kappa_max)
        self.n_neighbours, self.search_kind = memory.n_neighbours, memory.search
        self.backbone = TransformerBackbone(config, vocab_size)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.classes = ClassSoftmax(vocab_size, config.dim, config.class_bounds or ())
        self.context = ContextSplats(config.dim, self.kappa)
        self.recall = RecallGate(config.dim, self.kappa, exponent=1.0)
        self._latents = SplatLatents(self.context.concentration, sampler_config, device)
        self._device = device
        self._store: SplatStore | None = None
        self._search: NeighbourSearch | None = None
        self._sids = torch.zeros(0, dtype=torch.int64)
        self._log_alpha = torch.zeros(0)

    def _draw_weights(self, seed: int) -> None:
        self.backbone.reset(torch.Generator().manual_seed(seed))
        self.context.reset()

    def _start_from(self, log_frequencies: Tensor) -> None:
        self.bias.copy_(log_frequencies)
        self.classes.reset(log_frequencies)

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """The cross-entropy alone."""
        return _WEIGHTS

    @property
    def storing_model(self) -> SplatTransformer:
        """Itself."""
        return self

    @property
    def stored_splats(self) -> SplatStore | None:
        """The splats that consolidation stored, or none."""
        return self._store

    @property
    def stored_search(self) -> NeighbourSearch:
        """The search among the stored splats, made when first asked for.

        Raises:
            StoreError: there are none.
        """
        if self._search is None:
            if self._store is None:
                raise StoreError("the model stores no splats: run `ebm consolidate` on it")
            self._search = make_search(self.search_kind, self._device or open_device())
            self._search.add(self._store.mu)
        return self._search

    def store_splats(self, store: SplatStore | None) -> None:
        """Predict with these splats from now on, or with none.

        Raises:
            StoreError: another dimension, or token ids that the vocabulary does not have.
        """
        if store is not None:
            _check_store(store, self.config.dim, self.vocab_size)
        self._store, self._search = store, None
        if store is not None:
            self._sids = torch.from_numpy(store.sid)
            self._log_alpha = torch.from_numpy(np.log(store.alpha))

    @property
    def repeats_launches(self) -> bool:
        """Unless classes of tokens are scored apart, as many targets as they have."""
        return not self.classes.bounds

    def losses(self, tokens: Tensor, latent: Latent = "mean", seed: int = 0) -> dict[str, Tensor]:
        """token: -log p(w|c) without stored splats, nats; decoder: of the decoder alone; gate: g1.

        Args:
            tokens: (B, T+1) int64; inputs [:, :-1], targets [:, 1:].
            latent, seed: change nothing; dropout follows torch's own random state.
        """
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        states = self.backbone(inputs, dropping=self.training)
        decoded = self._decode(states, targets)
        seen = self.context.see(states)
        recalled = self.context.score(seen, targets)
        token = -mix(decoded, recalled).mean()
        if self.label_smoothing:
            sids = targets[:, None].expand_as(seen.weights)
            rows = (states, seen.weights, sids, seen.gate)
            token = smoothed(
                token,
                self.label_smoothing,
                self._mixed_log_probs,
                self.vocab_size,
                self.config.max_logits,
                *(values.flatten(0, 1) for values in rows),
            )
        return {
            "token": token,
            "decoder": -decoded.detach().mean(),
            "gate": torch.sigmoid(recalled.gate).mean().detach(),
        }

    @torch.no_grad()
    def token_log_probs(
        self, tokens: Tensor, targets: Tensor, latent: Latent = "mean", seed: int = 0
    ) -> Tensor:
        """log p(target | tokens up to its position) in nats, (B, T), for tokens and targets (B, T).

        With latent="exact" or "langevin" the exponential is an estimate of p without bias, from
        latents that seed and position decide (`SplatLatents.target_mass`).
        """
        if latent == "mean":
            return self.read(tokens, targets).log_p
        states = self.backbone(tokens)
        queries = self.context.queries(states)
        place = torch.arange(tokens.shape[1], device=tokens.device)
        age = place[:, None] - place
        rows = context_rows(self.context, self.context.keys(states), queries, age)
        hits = targets[:, :, None] == targets[:, None, :]
        drawn = self._latents.target_mass(rows, hits, latent, seed)
        recalled = self.context(states, targets)._replace(log_mass=drawn)
        log_p = mix(self._decode(states, targets), recalled)
        if self._store is not None:
            flat, tilts, ids = log_p.view(-1), queries.flatten(0, 1), targets.flatten()
            for part in chunks(len(ids), self.n_neighbours * self.config.dim, _ENTRIES):
                first = 2 * (len(ids) + part.start)
                flat[part] = self._mix_stored(
                    flat[part], tilts[part], ids[part], latent, seed, first
                )
        return log_p

    def _mix_stored(
        self,
        log_p: Tensor,
        queries: Tensor,
        targets: Tensor,
        latent: Latent,
        seed: int,
        first_chain: int,
    ) -> Tensor:
        """log_p (P,) of targets (P,), mixed with what latents of stored splats say."""
        found, rows = self._search_stored(queries)
        hits = found.sids[:, None] == targets[:, None, None]
        tilted = self._stored_rows(found, rows, queries)
        drawn = self._latents.target_mass(tilted, hits, latent, seed, first_chain)[:, 0]
        return mix(log_p, self.recall(found, targets)._replace(log_mass=drawn))

    @torch.no_grad()
    def read(self, tokens: Tensor, targets: Tensor, wanted: Tensor | None = None) -> Reading:
        """Scores, keys and queries of tokens (B, T), for an online memory.

        wanted: (B, T) bool, where stored splats are looked up; everywhere unless given.
        """
        states = self.backbone(tokens)
        alone = self._decode(states, targets)
        log_p = mix(alone, self.context(states, targets))
        keys, queries = self.context.keys(states), self.context.queries(states)
        if self._store is not None:
            where = torch.ones_like(targets, dtype=torch.bool) if wanted is None else wanted
            if where.any():
                stored = self.recall(self.neighbours(queries[where]), targets[where])
                log_p[where] = mix(log_p[where], stored)
                alone[where] = mix(alone[where], stored)
        return Reading(log_p, keys, queries, alone)

    @torch.no_grad()
    def next_token_log_probs(
        self, tokens: Tensor, latent: Latent = "mean", seed: int = 0
    ) -> Tensor:
        """log p(w | tokens) of every token w to come, (B, V) nats, for tokens (B, T).

        With latent="exact" or "langevin" it is read off one latent of each text.
        """
        states = self.backbone(tokens)
        return self._predict(states[:, -1], self._last_sees(states, tokens), latent, seed)

    @torch.no_grad()
    def read_next(self, tokens: Tensor) -> NextReading:
        """What follows tokens (B, T), for an online memory."""
        states = self.backbone(tokens)
        state, seen = states[:, -1], self._last_sees(states, tokens)
        nothing = SeenSplats(*(values[:, :0] for values in seen))
        log_p, alone = (self._predict(state, splats, "mean", seed=0) for splats in (seen, nothing))
        return NextReading(log_p, self.context.keys(state), self.context.queries(state), alone)

    def _last_sees(self, states: Tensor, tokens: Tensor) -> SeenSplats:
        """The splats that the states (B, T, d) of tokens (B, T) make for the last of them."""
        age = torch.arange(tokens.shape[1] - 1, 0, -1, device=tokens.device)
        keys = self.context.keys(states[:, :-1])
        return SeenSplats(keys, tokens[:, 1:], age.expand(len(tokens), -1))

    def start_cache(self, rows: int) -> ContextCache:
        """An empty cache for `rows` texts that grow side by side."""
        attention = self.backbone.start_cache(rows)
        like = self.backbone.embedding.weight
        tokens = attention.lengths.new_zeros(rows, 0)
        return ContextCache(attention, like.new_zeros(rows, 0, self.config.dim), tokens)

    @torch.no_grad()
    def step(
        self,
        tokens: Tensor,
        cache: ContextCache,
        lengths: Tensor | None = None,
        latent: Latent = "mean",
        seed: int = 0,
    ) -> Tensor:
        """`next_token_log_probs` of all read so far, (B, V), after reading on.

        Args:
            tokens: new tokens (B, S); shorter rows are padded at the end with any ids.
            cache: what was read before; extended in place.
            lengths: real tokens of each row (B,), from 1 to S; all S unless given.
            latent: the latent that is decoded.
            seed: of its draw.

        Raises:
            ConfigError: lengths out of range, or more tokens than `max_length`.
        """
        before = cache.attention.lengths
        states = self.backbone.read_on(tokens, cache.attention, lengths)
        offsets = torch.arange(tokens.shape[1], device=tokens.device)
        cache.write(before[:, None] + offsets, self.context.keys(states), tokens)
        last = cache.attention.lengths - before - 1
        state = states[torch.arange(len(tokens), device=tokens.device), last]
        return self._predict(state, cache.seen(), latent, seed)

    def _predict(self, state: Tensor, seen: SeenSplats, latent: Latent, seed: int) -> Tensor:
        """log p(w|c), (B, V), of every token after states (B, d) that see splats of the context."""
        decoded = self.classes.log_probs(state, self.backbone.embedding.weight, self.bias)
        recalled = self.context.recall(state, *seen, self.vocab_size)
        query = self.context.queries(state)
        if latent != "mean":
            tilted = context_rows(self.context, seen.keys, query[:, None], seen.age[:, None])
            drawn = self._latents.token_mass(tilted, seen.sids, self.vocab_size, latent, seed)
            recalled = recalled._replace(log_mass=drawn)
        log_p = mix(decoded, recalled)
        if self._store is None:
            return log_p
        found, rows = self._search_stored(query)
        stored = self.recall.every_token(found, self.vocab_size)
        if latent != "mean":
            tilted = self._stored_rows(found, rows, query)
            drawn = self._latents.token_mass(
                tilted, found.sids, self.vocab_size, latent, seed, first_chain=len(query)
            )
            stored = stored._replace(log_mass=drawn)
        return mix(log_p, stored)

    def neighbours(self, queries: Tensor) -> Neighbours:
        """The `n_neighbours` stored splats nearest to the directions of tilts (P, d)."""
        return self._search_stored(queries)[0]

    def _search_stored(self, queries: Tensor) -> tuple[Neighbours, Tensor]:
        """The same, and their rows in the store, (P, K)."""
        search = self.stored_search
        k = min(self.n_neighbours, len(search))
        found = search.search(queries.cpu().numpy(), k)
        rows = torch.from_numpy(found.indices)
        similar = torch.from_numpy(found.similarities)
        held = (similar, self._log_alpha[rows], self._sids[rows])
        return Neighbours(*(tensor.to(queries.device) for tensor in held)), rows

    def _stored_rows(self, found: Neighbours, rows: Tensor, queries: Tensor) -> TiltedRows:
        """Neighbours that `_search_stored` found for tilts (P, d), as latents are drawn of them."""
        assert self._store is not None
        mu = torch.from_numpy(self._store.mu[rows.numpy()])
        return stored_rows(self.recall, mu, queries, found.prior)

    def _mixed_log_probs(
        self, states: Tensor, weights: Tensor, sids: Tensor, gate: Tensor
    ) -> Tensor:
        """log p(w|c) without stored splats, (P, V), after states (P, d) that see weights (P, K)."""
        decoded = self.classes.log_probs(states, self.backbone.embedding.weight, self.bias)
        return mix(decoded, Recalled(log_masses(weights, sids, self.vocab_size), gate))

    def _decode(self, states: Tensor, targets: Tensor) -> Tensor:
        (log_p,) = map_chunks(
            self._decode_rows,
            max(self.classes.widths),
            self.config.max_logits,
            states.flatten(0, 1),
            targets.flatten(),
        )
        return log_p.view(targets.shape)

    def _decode_rows(self, h: Tensor, targets: Tensor) -> tuple[Tensor]:
        weight = self.backbone.embedding.weight
        return (self.classes.target_log_probs(h, weight, self.bias, targets),)


def _check_store(store: SplatStore, dimension: int, vocab_size: int) -> None:
    if store.dimension != dimension:
        raise StoreError(
            f"the splats have dimension {store.dimension} and the model {dimension}: use splats of "
            "the model's dimension"
        )
    if int(store.sid.max()) >= vocab_size:
        raise StoreError(
            f"a splat stands for token id {int(store.sid.max())} and the vocabulary has "
            f"{vocab_size}: use splats made with this tokenizer"
        )
