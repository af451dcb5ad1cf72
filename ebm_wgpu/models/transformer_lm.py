"""What the language models over a transformer backbone have in common: scoring and generation."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.linear_cross_entropy import map_chunks
from ebm_wgpu.models.transformer_backbone import TransformerBackbone
from ebm_wgpu.models.transformer_blocks import KeyValueCache
from ebm_wgpu.models.transformer_config import TransformerConfig
from ebm_wgpu.models.unigram_start import UnigramStart


class TransformerLM(UnigramStart, LanguageModel):
    """A distribution of the next token for each hidden state of a backbone.

    The head is tied: E(h, w) = -(h.W_w + b_w) with W the token embedding, and b starting at the
    logarithm of the token frequencies (`UnigramStart`).

    These families have no latents: `latent` is there for the interface all families share, and
    changes nothing. Dropout acts in `losses` alone, and only in training mode.
    """

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        """Weights are those of seed 0 until `initialize`."""
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.backbone = TransformerBackbone(config, vocab_size)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    @property
    def weight(self) -> Tensor:
        """W, the token embedding and the output matrix at once, (V, dim)."""
        return self.backbone.embedding.weight

    @abstractmethod
    def log_probs(self, h: Tensor) -> Tensor:
        """log p(w | h), (P, V), of states (P, dim)."""

    def logits(self, h: Tensor) -> Tensor:
        """-E(h, w) = h.W_w + b_w, (..., V), of states (..., dim)."""
        return F.linear(h, self.weight, self.bias)

    def _draw_weights(self, seed: int) -> None:
        self.backbone.reset(torch.Generator().manual_seed(seed))

    def _start_from(self, log_frequencies: Tensor) -> None:
        self.bias.copy_(log_frequencies)

    def token_log_probs(
        self, tokens: Tensor, targets: Tensor, latent: str = "mean", seed: int = 0
    ) -> Tensor:
        """log p(targets[b, t] | tokens[b, :t+1]), nats, (B, T), for tokens and targets (B, T).

        At most `max_logits` entries of the (B T, V) matrix exist at a time.
        """
        return self._score(self.backbone(tokens), targets)

    def _score(self, states: Tensor, targets: Tensor) -> Tensor:
        """log p of targets (B, T) after states (B, T, dim)."""
        (chosen,) = map_chunks(
            self._target_log_probs,
            self.vocab_size,
            self.config.max_logits,
            states.flatten(0, 1),
            targets.flatten(),
        )
        return chosen.view(targets.shape)

    def next_token_log_probs(self, tokens: Tensor, latent: str = "mean", seed: int = 0) -> Tensor:
        """log p(next token | tokens), (B, V), for tokens (B, T)."""
        return self.log_probs(self.backbone(tokens)[:, -1])

    def start_cache(self, rows: int) -> KeyValueCache:
        """An empty cache for `rows` texts that grow side by side."""
        return self.backbone.start_cache(rows)

    @torch.no_grad()
    def step(
        self,
        tokens: Tensor,
        cache: KeyValueCache,
        lengths: Tensor | None = None,
        latent: str = "mean",
        seed: int = 0,
    ) -> Tensor:
        """log p(next token | all read so far), (B, V), after reading on.

        One call reads the prompts, each further call the tokens that were chosen:

            cache = model.start_cache(len(prompts))
            log_probs = model.step(padded_prompts, cache, lengths)
            log_probs = model.step(chosen[:, None], cache)

        Args:
            tokens: new tokens (B, S); shorter rows are padded at the end with any ids.
            cache: what was read before; extended in place.
            lengths: real tokens of each row (B,), from 1 to S; all S unless given.
            latent, seed: change nothing.

        Raises:
            ConfigError: lengths out of range, or more tokens than `max_length`.
        """
        return self.log_probs(self.backbone.extend(tokens, cache, lengths))

    def _target_log_probs(self, h: Tensor, targets: Tensor) -> tuple[Tensor]:
        return (self.log_probs(h).gather(1, targets[:, None])[:, 0],)
