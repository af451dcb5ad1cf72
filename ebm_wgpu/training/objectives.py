"""What training minimises: the weighted sum of a model's losses and of score matching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from ebm_wgpu.config import Config, TrainConfig
from ebm_wgpu.models.base import LanguageModel, SplatModel
from ebm_wgpu.models.mixture_ops import Splats
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.training.placement import place_of
from ebm_wgpu.training.score_matching import (
    Mixture,
    NoiseLevel,
    TiltedMixture,
    denoising_loss,
    noise_levels,
)
from ebm_wgpu.training.term_fitting import combined_score

TRAIN_ROWS = 64
"""Positions of a batch that score matching looks at; its cost is rows x splats x d, and more."""
REPORT_ROWS = 128
"""Positions that a report looks at."""
_STREAM = 0x5C0FE


@dataclass(frozen=True)
class Objective:
    """total = sum of weight * term over the terms a model measures.

    A family brings weights of its own (`LanguageModel.loss_weights`), 1 for the cross-entropy
    "token". The configuration weighs "latent", the exact -log p(e_w|c)/(d-1), "balance", the load
    balancing of experts, "score_matching" of the mixture, and "term_matching", that of the mixture
    as it is and of the energy's further terms, which it teaches. The last two are computed only
    where their weight is not 0, with the same noise: what the second is below the first is what the
    terms know. Terms without a weight are watched only.

    Attributes:
        train: gives the weights, the latent and the noise levels.
    """

    train: TrainConfig

    def repeats_launches(self, model: LanguageModel) -> bool:
        """Whether the loss of every batch of a shape takes the same launches on a device."""
        train, splats = self.train, model.splat_model
        if splats is None:
            return model.repeats_launches
        drawn = self._matches_terms(splats) or train.dsm_weight or train.token_latent != "mean"
        return model.repeats_launches and not drawn

    def _matches_terms(self, splats: SplatModel) -> bool:
        return self.train.terms_weight > 0 and splats.energy_terms is not None

    def __call__(
        self,
        model: LanguageModel,
        tokens: Tensor,
        seed: int,
        prepared: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar to differentiate, and its parts.

        Args:
            model: what to train.
            tokens: (B, T+1) int64; inputs [:, :-1], targets [:, 1:].
            seed: of random latents and of the noise.
            prepared: what `LanguageModel.prepare` found of the tokens, where they are; the model
                looks for it itself if it is not given.

        Returns:
            The loss in nats, and a dictionary of it ("loss"), its parts, and whatever else the
            model measures: scalars without gradient, where the model is, which nothing has waited
            for yet.
        """
        train = self.train
        latent = train.token_latent
        measured = (
            dict(model.losses(tokens, latent=latent, seed=seed))
            if prepared is None
            else dict(model.prepared_losses(tokens, prepared, latent, seed))
        )
        splats = model.splat_model
        if train.dsm_weight and splats is not None:
            measured["score_matching"] = score_matching_loss(
                splats, tokens, train.dsm_levels, np.random.default_rng([_STREAM, seed])
            )
        if splats is not None and self._matches_terms(splats):
            measured["term_matching"] = term_matching_loss(
                splats, tokens, train.dsm_levels, np.random.default_rng([_STREAM, seed])
            )
        weights = {
            **model.loss_weights,
            "latent": train.latent_weight,
            "balance": train.balance_weight,
            "score_matching": train.dsm_weight,
            "term_matching": train.terms_weight,
        }
        # A term without weight takes no backward pass, and one of weight 1 no product.
        weighted = [
            measured[name] if weight == 1 else weight * measured[name]
            for name, weight in weights.items()
            if weight and name in measured
        ]
        total = reduce(torch.add, weighted)
        parts = {name: value.detach() for name, value in measured.items()}
        return total, {"loss": total.detach(), **parts}


def score_matching_loss(
    model: SplatModel, tokens: Tensor, kappas: tuple[float, ...], rng: np.random.Generator
) -> Tensor:
    """Mean `denoising_loss` of `TRAIN_ROWS` random positions of a batch, each at a random level.

    tokens: (B, T+1); kappas: noise concentrations per degree of freedom.
    """
    mixture, x = _rows(model, tokens, TRAIN_ROWS, rng)
    return denoising_loss(x, _random_levels(x, kappas, rng), mixture.score, rng).mean()


def term_matching_loss(
    model: SplatModel, tokens: Tensor, kappas: tuple[float, ...], rng: np.random.Generator
) -> Tensor:
    """`score_matching_loss` of mixture and further terms; only the terms get a gradient."""
    with torch.no_grad():
        mixture, x = _rows(model, tokens, TRAIN_ROWS, rng)
    score = combined_score(mixture, model.energy_terms)
    return denoising_loss(x, _random_levels(x, kappas, rng), score, rng).mean()


def _random_levels(x: Tensor, kappas: tuple[float, ...], rng: np.random.Generator) -> Tensor:
    """A noise level at random for each row of x (B, d), (B, 1) natural units."""
    chosen = np.asarray(kappas, np.float32)[rng.integers(len(kappas), size=(len(x), 1))]
    return torch.from_numpy((x.shape[1] - 1) * chosen).to(x.device)


@torch.no_grad()
def evaluate_score_matching(
    model: LanguageModel, stream: TokenStream, config: Config, seed: int = 0
) -> tuple[NoiseLevel, ...]:
    """Score matching on held-out text at each of train.dsm_levels, of `REPORT_ROWS` positions.

    The positions are spread over windows at the start of `stream`; a text too short for one window
    gives an empty report, and so does a model without splats.
    """
    splats = model.splat_model
    if splats is None:
        return ()
    block, batch = config.data.block_size, config.train.batch_size
    windows = min(batch, (len(stream) - 1) // block)
    if windows < 1:
        return ()
    starts = np.arange(windows, dtype=np.int64) * block
    tokens = torch.from_numpy(stream.windows(starts, block + 1)).long().to(place_of(model))
    rng = np.random.default_rng([_STREAM, seed])
    mixture, x = _rows(splats, tokens, REPORT_ROWS, rng)
    score = combined_score(mixture, splats.energy_terms)
    return noise_levels(mixture, x, config.train.dsm_levels, rng, score)


def _rows(
    model: SplatModel, tokens: Tensor, limit: int, rng: np.random.Generator
) -> tuple[TiltedMixture, Tensor]:
    """The mixtures at random positions of a batch, and the latents of the tokens that follow."""
    h = model.features(tokens[:, :-1]).h
    h = h.reshape(-1, h.shape[-1])
    targets = tokens[:, 1:].reshape(-1)
    if len(h) > limit:
        chosen = torch.from_numpy(np.sort(rng.choice(len(h), limit, replace=False)))
        chosen = chosen.to(h.device)
        h, targets = h[chosen], targets[chosen]
    splats = model.splats()
    if not torch.is_grad_enabled():
        splats = Splats(*(values.detach() for values in splats))
    mixture = TiltedMixture(Mixture(*splats, h), model.product)
    return mixture, model.token_latents(targets).detach()
