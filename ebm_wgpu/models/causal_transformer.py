"""CausalTransformer: the compact baseline, and the yardstick of every other family."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor

from ebm_wgpu.models.linear_cross_entropy import linear_cross_entropy
from ebm_wgpu.models.transformer_lm import TransformerLM

_WEIGHTS: Mapping[str, float] = MappingProxyType({"token": 1.0})


class CausalTransformer(TransformerLM):
    """p(w | tokens) = softmax_w(h.W_w + b_w), h the last state of a transformer, W its embedding.

    Config: `TransformerConfig`; `TRANSFORMER_PRESETS` has sizes from .8 to 71 M parameters.
    """

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """The cross-entropy alone."""
        return _WEIGHTS

    def losses(self, tokens: Tensor, latent: str = "mean", seed: int = 0) -> dict[str, Tensor]:
        """{"token": mean cross-entropy of tokens[:, 1:] given those before}, nats.

        Args:
            tokens: (B, T+1) int64.
            latent, seed: change nothing; dropout follows torch's own random state.
        """
        h = self.backbone(tokens[:, :-1], dropping=self.training).flatten(0, 1)
        targets = tokens[:, 1:].flatten()
        loss = linear_cross_entropy(h, self.weight, self.bias, targets, self.config.max_logits)
        return {"token": loss}

    def log_probs(self, h: Tensor) -> Tensor:
        """log softmax(h.W_w + b_w), (P, V), of states (P, dim)."""
        return F.log_softmax(self.logits(h), dim=-1)
