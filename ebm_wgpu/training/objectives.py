"""What training minimises: the weighted sum of a model's losses and of score matching."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebm_wgpu.config import Config, TrainConfig
from ebm_wgpu.models.splat_lm import SplatLM
from ebm_wgpu.text.datasets import TokenStream
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
    """total = token + latent_weight latent + dsm_weight score_matching + balance_weight balance.

    token is the cross-entropy of p(w|c), latent the exact -log p(e_w|c)/(d-1), balance the load
    balancing of the experts; score_matching is computed only where its weight is not 0.

    Attributes:
        train: gives the weights, the latent and the noise levels.
    """

    train: TrainConfig

    def __call__(
        self, model: SplatLM, tokens: Tensor, seed: int
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
        total = measured["token"] + train.latent_weight * measured["latent"]
        total = total + train.balance_weight * measured["balance"]
        if train.dsm_weight:
            measured["score_matching"] = score_matching_loss(
                model, tokens, train.dsm_levels, np.random.default_rng([_STREAM, seed])
            )
            total = total + train.dsm_weight * measured["score_matching"]
        parts = {name: float(value.detach()) for name, value in measured.items()}
        return total, {"loss": float(total.detach()), **parts}


def score_matching_loss(
    model: SplatLM, tokens: Tensor, kappas: tuple[float, ...], rng: np.random.Generator
) -> Tensor:
    """Mean `denoising_loss` of `TRAIN_ROWS` random positions of a batch, each at a random level.

    tokens: (B, T+1); kappas: noise concentrations per degree of freedom.
    """
    mixture, x = _rows(model, tokens, TRAIN_ROWS, rng)
    d = x.shape[1]
    levels = (d - 1) * np.asarray(kappas, np.float32)[rng.integers(len(kappas), size=(len(x), 1))]
    return denoising_loss(x, torch.from_numpy(levels), mixture.score, rng).mean()


@torch.no_grad()
def evaluate_score_matching(
    model: SplatLM, stream: TokenStream, config: Config, seed: int = 0
) -> tuple[NoiseLevel, ...]:
    """Score matching on held-out text at each of train.dsm_levels, of `REPORT_ROWS` positions.

    The positions are spread over windows at the start of `stream`; a text too short for one window
    gives an empty report.
    """
    block, batch = config.data.block_size, config.train.batch_size
    windows = min(batch, (len(stream) - 1) // block)
    if windows < 1:
        return ()
    starts = np.arange(windows, dtype=np.int64) * block
    tokens = torch.from_numpy(stream.windows(starts, block + 1)).long()
    rng = np.random.default_rng([_STREAM, seed])
    mixture, x = _rows(model, tokens, REPORT_ROWS, rng)
    return noise_levels(mixture, x, config.train.dsm_levels, rng)


def _rows(
    model: SplatLM, tokens: Tensor, limit: int, rng: np.random.Generator
) -> tuple[TiltedMixture, Tensor]:
    """The mixtures at random positions of a batch, and the latents of the tokens that follow."""
    h = model.features(tokens[:, :-1]).h
    h = h.reshape(-1, h.shape[-1])
    targets = tokens[:, 1:].reshape(-1)
    if len(h) > limit:
        chosen = torch.from_numpy(np.sort(rng.choice(len(h), limit, replace=False)))
        h, targets = h[chosen], targets[chosen]
    mixture = TiltedMixture(Mixture(*model.splats(), h), model.product)
    return mixture, model.token_latents(targets).detach()
