"""The splat language model over a transformer context, whose splats are states of the text.

A transformer gives the state s_t. Token t+1 is predicted by a decoder tied to the token directions,
by the splats of the context, and by stored splats, which consolidation makes of training states:

    p(w|c) = (1 - g2) [(1 - g1) p_decoder(w|s) + g1 p_context(w|s)] + g2 p_stored(w|s)
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from ebm_wgpu.config import Latent, ModelConfig
from ebm_wgpu.errors import StoreError
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.class_softmax import ClassSoftmax
from ebm_wgpu.models.context_splats import ContextSplats
from ebm_wgpu.models.linear_cross_entropy import map_chunks
from ebm_wgpu.models.memory_config import MemoryConfig
from ebm_wgpu.models.recall import Neighbours, Reading, RecallGate, mix
from ebm_wgpu.models.transformer_backbone import TransformerBackbone
from ebm_wgpu.models.transformer_config import TransformerConfig
from ebm_wgpu.models.unigram_start import UnigramStart
from ebm_wgpu.splats.search import NeighbourSearch, make_search
from ebm_wgpu.splats.store import SplatStore

_WEIGHTS: Mapping[str, float] = MappingProxyType({"token": 1.0})


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
    ) -> None:
        """Weights are those of seed 0 until `initialize`.

        Args:
            model_config: kappa_init and the range of kappa.
            config: the backbone.
            memory: how stored splats are found.
            vocab_size: V.
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
    def stored_splats(self) -> SplatStore | None:
        """The splats that consolidation stored, or none."""
        return self._store

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

    def losses(self, tokens: Tensor, latent: Latent = "mean", seed: int = 0) -> dict[str, Tensor]:
        """token: -log p(w|c) without stored splats, nats; decoder: of the decoder alone; gate: g1.

        Args:
            tokens: (B, T+1) int64; inputs [:, :-1], targets [:, 1:].
            latent, seed: change nothing; dropout follows torch's own random state.
        """
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        states = self.backbone(inputs, dropping=self.training)
        decoded = self._decode(states, targets)
        recalled = self.context(states, targets)
        return {
            "token": -mix(decoded, recalled).mean(),
            "decoder": -decoded.detach().mean(),
            "gate": torch.sigmoid(recalled.gate).mean().detach(),
        }

    @torch.no_grad()
    def token_log_probs(
        self, tokens: Tensor, targets: Tensor, latent: Latent = "mean", seed: int = 0
    ) -> Tensor:
        """log p(target | tokens up to its position) in nats, (B, T), for tokens and targets (B, T).

        latent, seed: change nothing.
        """
        return self.read(tokens, targets).log_p

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

        latent, seed: change nothing.
        """
        states = self.backbone(tokens)
        decoded = self.classes.log_probs(states[:, -1], self.backbone.embedding.weight, self.bias)
        log_p = mix(decoded, self.context.last(states, tokens[:, 1:], self.vocab_size))
        if self._store is None:
            return log_p
        found = self.neighbours(self.context.queries(states[:, -1]))
        return mix(log_p, self.recall.every_token(found, self.vocab_size))

    def neighbours(self, queries: Tensor) -> Neighbours:
        """The `n_neighbours` stored splats nearest to the directions of tilts (P, d)."""
        if self._search is None:
            assert self._store is not None
            self._search = make_search(self.search_kind)
            self._search.add(self._store.mu)
        k = min(self.n_neighbours, len(self._search))
        found = self._search.search(queries.cpu().numpy(), k)
        rows = torch.from_numpy(found.indices)
        similar = torch.from_numpy(found.similarities)
        held = (similar, self._log_alpha[rows], self._sids[rows])
        return Neighbours(*(tensor.to(queries.device) for tensor in held))

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
