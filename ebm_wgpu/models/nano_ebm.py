"""NanoEBM: a token model that answers at once (System 1) or thinks first (System 2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.contrastive_divergence import ContrastiveDivergence
from ebm_wgpu.models.energy_transformer_config import StepRule
from ebm_wgpu.models.linear_cross_entropy import linear_cross_entropy, map_chunks
from ebm_wgpu.models.nano_ebm_config import NanoEBMConfig
from ebm_wgpu.models.system2 import System2
from ebm_wgpu.models.transformer_config import TransformerConfig
from ebm_wgpu.models.transformer_lm import TransformerLM


class NanoEBM(TransformerLM):
    """E(h, w) = -(h.W_w + b_w) for a context state h and a next token w.

    System 1 answers softmax(-E). System 2 starts there and goes downhill in the energy of the guess
    (`System2`); training differentiates through its steps. Contrastive divergence teaches
    p(x) = u(x_1) exp(-sum_t E(h_t, x_{t+1})) / Z of sequences x, u the frequencies of tokens.

    Terms of the loss: "token", the cross-entropy of the refined guess; "auxiliary", that of
    System 1; "negative_entropy" of the refined guess; "infonce"; "contrastive". Those of weight
    zero are not computed, except "auxiliary", which is reported whenever System 2 is on.

    Attributes:
        think_steps: steps of System 2 when scoring and generating, those of the configuration at
            first; 0 answers with System 1. Losses are always those of the configuration.
        think_rule: rule of the size of these steps, at first that of the configuration.
    """

    unigram: Tensor

    def __init__(self, config: TransformerConfig, nano: NanoEBMConfig, vocab_size: int) -> None:
        """Weights are those of seed 0 until `initialize`.

        Args:
            config: the backbone.
            nano: System 2 and the loss.
            vocab_size: V.
        """
        super().__init__(config, vocab_size)
        self.nano = nano
        self.think_steps, self.think_rule = nano.think_steps, nano.step_rule
        self.system2 = System2(nano, config.dim)
        self.system2.reset(torch.Generator().manual_seed(0))
        self.register_buffer("unigram", torch.full((vocab_size,), 1 / vocab_size))
        self.contrast: ContrastiveDivergence | None = None
        if nano.contrastive_weight > 0:
            self.contrast = ContrastiveDivergence(
                nano.contrastive_method,
                nano.contrastive_length + 1,
                nano.contrastive_steps,
                nano.n_particles,
                nano.restart_probability,
            )

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Weights of the terms of `losses`."""
        nano = self.nano
        return {
            "token": 1.0,
            "auxiliary": nano.auxiliary_weight,
            "negative_entropy": nano.entropy_weight,
            "infonce": nano.infonce_weight,
            "contrastive": nano.contrastive_weight,
        }

    @torch.no_grad()
    def initialize(
        self,
        corpus_ids: npt.NDArray[np.integer[Any]],
        token_counts: npt.NDArray[np.integer[Any]],
        seed: int,
        vocabulary: Sequence[str] | None = None,
    ) -> None:
        """As `TransformerLM.initialize`; System 2 starts out equal to System 1."""
        super().initialize(corpus_ids, token_counts, seed, vocabulary)
        self.unigram.copy_(self.bias.exp())
        self.system2.reset(torch.Generator().manual_seed(seed + 1))
        if self.contrast is not None:
            self.contrast.reset()

    @property
    def repeats_launches(self) -> bool:
        """Unless main memory draws steps, negatives or chains, or steps end when little is left."""
        nano = self.nano
        drawn = nano.random_steps or nano.infonce_weight > 0 or self.contrast is not None
        return not drawn and nano.energy_tolerance == 0

    def think(
        self,
        steps: int | None = None,
        best_of: int | None = None,
        step_rule: StepRule | None = None,
    ) -> None:
        """Choose `think_steps` and `think_rule`; see `LanguageModel.think`.

        The start is System 1's: there is one.

        Raises:
            ConfigError: a value out of range, or more starts than one.
        """
        if best_of is not None and best_of != 1:
            raise ConfigError(
                f"think_best_of={best_of} is for models that start from noise and this one starts "
                "from its first answer: leave out think_best_of"
            )
        chosen = dataclasses.replace(
            self.nano,
            think_steps=self.think_steps if steps is None else steps,
            step_rule=self.think_rule if step_rule is None else step_rule,
        )
        self.think_steps, self.think_rule = chosen.think_steps, chosen.step_rule

    def losses(self, tokens: Tensor, latent: str = "mean", seed: int = 0) -> dict[str, Tensor]:
        """Terms of the loss, scalars in nats; see the class and `loss_weights`.

        Args:
            tokens: (B, T+1) int64.
            latent: changes nothing.
            seed: of the number of steps, the negatives and the chains; dropout and Langevin noise
                follow torch's own random state.

        Raises:
            ConfigError: T < contrastive_length.
        """
        generator = torch.Generator().manual_seed(seed)
        steps = self._training_steps(generator)
        h = self.backbone(tokens[:, :-1], dropping=self.training).flatten(0, 1)
        targets = tokens[:, 1:].flatten()
        terms = self._prediction_terms(h, targets, steps)
        if self.nano.infonce_weight > 0:
            terms["infonce"] = self._infonce(h, targets, generator)
        if self.contrast is not None:
            terms["contrastive"] = self._contrastive(self.contrast, tokens, generator)
        return terms

    def log_probs(self, h: Tensor, think_steps: int | None = None) -> Tensor:
        """log p(w | h), (P, V), of states (P, dim), after `think_steps` steps of System 2."""
        steps = self.think_steps if think_steps is None else think_steps
        rule = self.think_rule
        logits = self.system2(h, -self.logits(h), self.weight, steps, step_rule=rule)
        return F.log_softmax(logits, dim=-1)

    def read(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """E(x) = -log u(x_1) + sum_t E(h_t, x_{t+1}), (N,) nats, of tokens (N, T), and h.

        u are the token frequencies; h, (N, T-1, dim), the states that the energies come from.
        """
        h = self.backbone(tokens[:, :-1])
        first = self.propose_first()[tokens[:, 0]]
        return self.token_energies(h, tokens[:, 1:]).sum(1) - first, h

    def propose(self, states: Tensor) -> Tensor:
        """log softmax(-E(h, .)), (N, V), of states (N, dim): System 1."""
        return F.log_softmax(self.logits(states), dim=-1)

    def propose_first(self) -> Tensor:
        """log u, (V,), the logarithm of the token frequencies."""
        return self.unigram.log()

    @torch.no_grad()
    def target_energies(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """E(h_t, targets[b, t]), nats, (B, T), for tokens and targets (B, T)."""
        return self.token_energies(self.backbone(tokens), targets)

    def token_energies(self, h: Tensor, targets: Tensor) -> Tensor:
        """E(h, w) = -(h.W_w + b_w), (...), of states (..., dim) and tokens (...)."""
        return -((h * self.weight[targets]).sum(-1) + self.bias[targets])

    def _training_steps(self, generator: torch.Generator) -> int:
        steps = self.nano.think_steps
        if self.nano.random_steps and self.training and steps > 1:
            return int(torch.randint(1, steps + 1, (), generator=generator))
        return steps

    def _prediction_terms(self, h: Tensor, targets: Tensor, steps: int) -> dict[str, Tensor]:
        bound, share = self.config.max_logits, self.label_smoothing
        if steps == 0 and self.nano.entropy_weight == 0:
            loss = linear_cross_entropy(h, self.weight, self.bias, targets, bound, share)
            return {"token": loss}

        def score(h: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
            energies = -self.logits(h)
            noisy = self.training
            logits = self.system2(h, energies, self.weight, steps, noisy=noisy)
            log_p = F.log_softmax(logits, dim=-1)
            token = F.nll_loss(log_p, targets, reduction="none")
            if share:
                token = (1 - share) * token - share * log_p.mean(-1)
            first = F.cross_entropy(-energies, targets, reduction="none", label_smoothing=share)
            return token, first, (log_p.exp() * log_p).sum(-1)

        token, first, negative_entropy = map_chunks(score, self.vocab_size, bound, h, targets)
        terms = {"token": token.mean()}
        if steps > 0:
            terms["auxiliary"] = first.mean()
        if self.nano.entropy_weight > 0:
            terms["negative_entropy"] = negative_entropy.mean()
        return terms

    def _infonce(self, h: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        """-log of the share of exp(-E)/q that the target has against tokens drawn from q.

        q is the token frequency; dividing by it makes -E = log p(w|h) + constant the optimum
        (ranking noise-contrastive estimation; Ma and Collins 2018, arXiv:1809.01812).
        """
        count = self.nano.infonce_negatives
        drawn = torch.multinomial(self.unigram.cpu(), count, True, generator=generator)
        negatives = drawn.to(targets.device)
        log_q = self.unigram.log()
        true = -self.token_energies(h, targets) - log_q[targets]
        offered = F.linear(h, self.weight[negatives], self.bias[negatives] - log_q[negatives])
        scores = torch.cat((true[:, None], offered), dim=1)
        return (scores.logsumexp(1) - true).mean()

    def _contrastive(
        self, contrast: ContrastiveDivergence, tokens: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Contrastive divergence of a part of each row, nats a token."""
        length = self.nano.contrastive_length
        room = tokens.shape[1] - length
        if room < 1:
            raise ConfigError(
                f"nano.contrastive_length={length} exceeds the {tokens.shape[1] - 1} tokens "
                "predicted in a window: lower it, or raise data.block_size"
            )
        first = int(torch.randint(room, (), generator=generator))
        data = tokens[:, first : first + length + 1]
        return contrast(self, data, generator) / length
