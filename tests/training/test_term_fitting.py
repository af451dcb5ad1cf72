"""Terms by score matching: they find what a mixture lacks, and fade where it lacks nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from ebm_wgpu.config import EnergyConfig
from ebm_wgpu.models.energy_ops import EnergyTerms
from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.training.score_matching import Mixture, TiltedMixture, noise_levels
from ebm_wgpu.training.term_fitting import fit_terms, score_terms
from ebm_wgpu.vmf import sample_vmf

D, CLUSTERS = 16, 8
CONFIG = EnergyConfig(lambda_comp=0.1, term_neighbours=4)


def scene(n: int, seed: int, between: bool) -> tuple[torch.Tensor, Mixture]:
    """Points on splats, or half way between pairs of them; the mixture knows splats alone."""
    rng = np.random.default_rng(0)
    mu, a = random_uniform(rng, CLUSTERS, D), 60.0
    rng = np.random.default_rng(seed)
    first = rng.integers(0, CLUSTERS, n)
    second = (first + rng.integers(1, CLUSTERS, n)) % CLUSTERS if between else first
    middle = mu[first] + mu[second]
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    mixture = Mixture(
        torch.from_numpy(mu),
        torch.full((CLUSTERS,), a, dtype=torch.float64),
        torch.full((CLUSTERS,), -np.log(CLUSTERS), dtype=torch.float64),
        torch.zeros(n, D, dtype=torch.float64),
    )
    return torch.from_numpy(sample_vmf(a * middle, rng)), mixture


def test_without_terms_the_levels_are_those_of_the_mixture() -> None:
    x, mixture = scene(200, 1, between=False)
    (found,) = score_terms(None, mixture, x, [2.0], batch=200, seed=3)
    (expected,) = noise_levels(TiltedMixture(mixture), x, [2.0], np.random.default_rng(3))
    assert found == expected
    nothing = EnergyTerms(EnergyConfig())
    (found,) = score_terms(nothing, mixture, x, [2.0], batch=200, seed=3)
    assert found == expected


def test_pair_interaction_finds_points_between_splats() -> None:
    x, mixture = scene(400, 1, between=True)
    terms = EnergyTerms(CONFIG).double()
    fit_terms(terms, mixture, x, [2.0, 6.0], steps=120, lr=0.1)
    held, mixture = scene(400, 2, between=True)
    without = score_terms(None, mixture, held, [2.0, 6.0])
    fitted = score_terms(terms, mixture, held, [2.0, 6.0])
    for before, after in zip(without, fitted, strict=True):
        assert after.floor == before.floor
        assert after.explained > before.explained + 0.06
    learned = terms.configuration()
    assert learned.lambda_comp > 1
    assert learned.pair_coefficients != CONFIG.pair_coefficients


def test_where_the_mixture_is_right_terms_fade() -> None:
    x, mixture = scene(400, 1, between=False)
    terms = EnergyTerms(dataclasses.replace(CONFIG, lambda_comp=2.0)).double()
    fit_terms(terms, mixture, x, [4.0], steps=60, lr=0.1)
    (exact,) = score_terms(None, mixture, x, [4.0])
    (worse,) = score_terms(
        EnergyTerms(dataclasses.replace(CONFIG, lambda_comp=2.0)).double(), mixture, x, [4.0]
    )
    (fitted,) = score_terms(terms, mixture, x, [4.0])
    assert fitted.loss - exact.loss < 0.5 * (worse.loss - exact.loss)


def test_fitting_repeats_itself() -> None:
    x, mixture = scene(50, 1, between=True)
    losses = [
        fit_terms(EnergyTerms(CONFIG).double(), mixture, x, [2.0], steps=3, seed=7)
        for _ in range(2)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 3
