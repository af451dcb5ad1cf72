"""Further energy terms learned by denoising score matching, over a mixture that stays as it is.

They have no normaliser, so that likelihood cannot teach them. The score of the whole energy is that
of the mixture, smoothed for the noise (`TiltedMixture`), less the gradient of the terms; its error
against the exact target is what the terms' parameters descend.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ebm_wgpu.models.energy_ops import EnergyTerms
from ebm_wgpu.models.mixture_ops import Splats
from ebm_wgpu.training.score_matching import (
    Mixture,
    NoiseLevel,
    Score,
    TiltedMixture,
    denoising_floor,
    denoising_loss,
    explained_share,
)


def combined_score(mixture: TiltedMixture, terms: EnergyTerms | None) -> Score:
    """The score of mixture and terms: -(gradient of the energy), differentiable by the terms."""
    if terms is None:
        return mixture.score
    base = mixture.mixture
    splats = Splats(base.mu, base.a, base.log_pi)

    def score(noisy: Tensor, noise: Tensor) -> Tensor:
        return mixture.score(noisy, noise) - terms.gradient(noisy, splats)

    return score


def fit_terms(
    terms: EnergyTerms,
    mixture: Mixture,
    x: Tensor,
    kappas: Sequence[float],
    *,
    steps: int,
    batch: int = 64,
    lr: float = 0.03,
    seed: int = 0,
) -> list[float]:
    """Fit the parameters of terms; the loss of each step.

    Args:
        terms: what learns, in place.
        mixture: one row a clean point.
        x: (n, d) clean points, unit rows.
        kappas: noise concentrations per degree of freedom, taken in turn.
        steps: of Adam.
        batch: points a step.
        lr: learning rate.
        seed: of batches and noise.
    """
    rng = np.random.default_rng(seed)
    parameters = [p for p in terms.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    losses = []
    for step in range(steps):
        rows = torch.from_numpy(rng.choice(len(x), min(batch, len(x)), replace=False))
        with torch.no_grad():
            part = TiltedMixture(_rows(mixture, rows))
        score = combined_score(part, terms)
        noise = kappas[step % len(kappas)] * (x.shape[1] - 1)
        loss = denoising_loss(x[rows], _noise(x[rows], noise), score, rng).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def score_terms(
    terms: EnergyTerms | None,
    mixture: Mixture,
    x: Tensor,
    kappas: Sequence[float],
    *,
    batch: int = 64,
    seed: int = 0,
) -> tuple[NoiseLevel, ...]:
    """Score matching of mixture and terms with clean points x (n, d) at each noise of `kappas`.

    The same seed gives the same noise, whatever the terms, so that differences are those of terms.
    """
    levels = []
    d = x.shape[1]
    for kappa in kappas:
        rng = np.random.default_rng(seed)
        losses, cosines = [], []
        for rows in torch.arange(len(x)).split(batch):
            with torch.no_grad():
                part = TiltedMixture(_rows(mixture, rows))
                cosines.append(len(rows) * part.attraction_cosine(x[rows]))
                score = combined_score(part, terms)
                noise = _noise(x[rows], kappa * (d - 1))
                losses.append(denoising_loss(x[rows], noise, score, rng))
        loss = float(torch.cat(losses).mean())
        cosine = min(max(sum(cosines) / len(x), 0.0), 1 - 1e-7)
        floor = denoising_floor(cosine, kappa * (d - 1), d)
        levels.append(NoiseLevel(kappa, loss, floor, explained_share(loss, floor)))
    return tuple(levels)


def _rows(mixture: Mixture, rows: Tensor) -> Mixture:
    return Mixture(mixture.mu, mixture.a, mixture.log_pi, mixture.h[rows])


def _noise(x: Tensor, noise: float) -> Tensor:
    return torch.full((len(x), 1), noise, dtype=x.dtype)
