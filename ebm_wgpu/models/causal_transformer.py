"""CausalTransformer: the compact baseline, and the yardstick of every other family."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm_wgpu.models.class_softmax import ClassSoftmax
from ebm_wgpu.models.label_smoothing import smoothed
from ebm_wgpu.models.linear_cross_entropy import linear_cross_entropy
from ebm_wgpu.models.recall import NextReading, Reading
from ebm_wgpu.models.transformer_config import TransformerConfig
from ebm_wgpu.models.transformer_lm import TransformerLM

_WEIGHTS: Mapping[str, float] = MappingProxyType({"token": 1.0})


class CausalTransformer(TransformerLM):
    """p(w | tokens) = softmax_w(h.W_w + b_w), h the last state of a transformer, W its embedding.

    With `transformer.class_bounds` the softmax is that of `ClassSoftmax`, over the same W and b.
    Config: `TransformerConfig`; `TRANSFORMER_PRESETS` has sizes from 1 to 70 M parameters.

    Attributes:
        classes: the softmax by classes, or none.
    """

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        """Weights are those of seed 0 until `initialize`."""
        super().__init__(config, vocab_size)
        bounds = config.class_bounds
        self.classes = None if bounds is None else ClassSoftmax(vocab_size, config.dim, bounds)

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """The cross-entropy alone."""
        return _WEIGHTS

    @property
    def repeats_launches(self) -> bool:
        """Unless classes of tokens are scored apart, as many targets as they have."""
        return self.classes is None

    def losses(self, tokens: Tensor, latent: str = "mean", seed: int = 0) -> dict[str, Tensor]:
        """{"token": mean cross-entropy of tokens[:, 1:] given those before}, nats.

        Args:
            tokens: (B, T+1) int64.
            latent, seed: change nothing; dropout follows torch's own random state.
        """
        h = self.backbone(tokens[:, :-1], dropping=self.training).flatten(0, 1)
        targets = tokens[:, 1:].flatten()
        limit, share = self.config.max_logits, self.label_smoothing
        if self.classes is None:
            loss = linear_cross_entropy(h, self.weight, self.bias, targets, limit, share)
            return {"token": loss}
        loss = -self.classes.target_log_probs(h, self.weight, self.bias, targets).mean()
        if share:
            loss = smoothed(loss, share, self.log_probs, self.vocab_size, limit, h)
        return {"token": loss}

    def log_probs(self, h: Tensor) -> Tensor:
        """log p(w | h), (P, V), of states (P, dim)."""
        if self.classes is None:
            return F.log_softmax(self.logits(h), dim=-1)
        return self.classes.log_probs(h, self.weight, self.bias)

    @torch.no_grad()
    def read(self, tokens: Tensor, targets: Tensor, wanted: Tensor | None = None) -> Reading:
        """Scores, keys and queries of tokens (B, T), for an online memory.

        Keys and queries are both the states themselves; all positions are scored.
        """
        h = self.backbone(tokens)
        log_p = self._score(h, targets)
        return Reading(log_p, h, h, log_p)

    @torch.no_grad()
    def read_next(self, tokens: Tensor) -> NextReading:
        """What follows tokens (B, T), for an online memory; key and query as of `read`."""
        h = self.backbone(tokens)[:, -1]
        log_p = self.log_probs(h)
        return NextReading(log_p, h, h, log_p)

    def _start_from(self, log_frequencies: Tensor) -> None:
        super()._start_from(log_frequencies)
        if self.classes is not None:
            self.classes.reset(log_frequencies)

    def _target_log_probs(self, h: Tensor, targets: Tensor) -> tuple[Tensor]:
        if self.classes is None:
            return super()._target_log_probs(h, targets)
        return (self.classes.target_log_probs(h, self.weight, self.bias, targets),)
