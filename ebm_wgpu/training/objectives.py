"""What training minimises: the weighted sum of a model's losses and of score matching."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from ebm_wgpu.config import Config, TrainConfig
from ebm_wgpu.models.base import LanguageModel, SplatModel
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.training.placement import place_of
from ebm_wgpu.training.score_matching import (
    Mixture,
    NoiseLevel,
    TiltedMixture,
    denoising_loss,
    noise_levels,
)

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
    balancing of experts, and "score_matching", which is computed only where its weight is not 0.
    Terms without a weight are watched only.

    Attributes:
        train: gives the weights, the latent and the noise levels.
    """

    train: TrainConfig

    def __call__(
        self, model: LanguageModel, tokens: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, a scalar to differentiate, and its parts as numbers.

        Args:
            model: what to train.
            tokens: (B, T+1) int64; inputs [:, :-1], targets [:, 1:].
            seed: of random latents and of the noise.

        Returns:
            The loss in nats, and a dictionary of it ("loss"), its parts, and whatever else the
            model measures.
        """
        train = self.train
        measured = dict(model.losses(tokens, latent=train.token_latent, seed=seed))
        splats = model.splat_model
        if train.dsm_weight and splats is not None:
            measured["score_matching"] = score_matching_loss(
                splats, tokens, train.dsm_levels, np.random.default_rng([_STREAM, seed])
            )
        weights = {
            **model.loss_weights,
            "latent": train.latent_weight,
            "balance": train.balance_weight,
            "score_matching": train.dsm_weight,
        }
        weighted = [weights[name] * measured[name] for name in weights if name in measured]
        total = reduce(torch.add, weighted)
        parts = {name: float(value.detach()) for name, value in measured.items()}
        return total, {"loss": float(total.detach()), **parts}


def score_matching_loss(
    model: SplatModel, tokens: Tensor, kappas: tuple[float, ...], rng: np.random.Generator
) -> Tensor:
    """Mean `denoising_loss` of `TRAIN_ROWS` random positions of a batch, each at a random level.

    tokens: (B, T+1); kappas: noise concentrations per degree of freedom.
    """
    mixture, x = _rows(model, tokens, TRAIN_ROWS, rng)
    d = x.shape[1]
    levels = (d - 1) * np.asarray(kappas, np.float32)[rng.integers(len(kappas), size=(len(x), 1))]
    noise = torch.from_numpy(levels).to(x.device)
    return denoising_loss(x, noise, mixture.score, rng).mean()


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
    return noise_levels(mixture, x, config.train.dsm_levels, rng)


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
    mixture = TiltedMixture(Mixture(*model.splats(), h), model.product)
    return mixture, model.token_latents(targets).detach()
