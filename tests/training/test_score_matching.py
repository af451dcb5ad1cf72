import functools
import math

import numpy as np
import pytest
import torch

from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.training.score_matching import (
    Mixture,
    TiltedMixture,
    corrupt,
    denoising_floor,
    denoising_loss,
    denoising_target,
    explained_share,
    tangent,
)
from ebm_wgpu.vmf import inverse_mean_cosine, mean_cosine, sample_vmf

D = 64
COSINE = 0.8


@functools.cache
def vmf_data(n, d, seed, cosine=COSINE):
    """n draws of one vMF of the given mean cosine, its direction and its concentration."""
    rng = np.random.default_rng(seed)
    mu = random_uniform(rng, 1, d)
    a = float(inverse_mean_cosine(cosine, d))
    x = sample_vmf(np.repeat(a * mu, n, axis=0), rng)
    return torch.from_numpy(x), torch.from_numpy(mu), a


def planted(n, d, clusters, seed, cosine=COSINE):
    """A mixture as data: draws, and the mixture itself without context."""
    rng = np.random.default_rng(seed)
    mu = random_uniform(rng, clusters, d)
    a = float(inverse_mean_cosine(cosine, d))
    pi = rng.dirichlet(np.full(clusters, 5.0))
    x = sample_vmf(a * mu[rng.choice(clusters, n, p=pi)], rng)
    mixture = Mixture(
        torch.from_numpy(mu),
        torch.full((clusters,), a, dtype=torch.float64),
        torch.from_numpy(np.log(pi)),
        torch.zeros(n, d, dtype=torch.float64),
    )
    return torch.from_numpy(x), mixture


def stein_ratio(target, noisy, mu):
    """E[target . P f] / ((d-1) E[f.x~]), f = mu: 1 for an unbiased target, by Stein's identity."""
    field = tangent(noisy, mu.expand_as(noisy))
    alignment = (mu * noisy).sum(-1).mean()
    return float((target * field).sum(-1).mean() / ((noisy.shape[1] - 1) * alignment))


def level(kappa, n, d=D):
    return torch.full((n, 1), kappa * (d - 1), dtype=torch.float64)


@pytest.mark.parametrize("kappa", [0.3, 1.0, 5.0, 20.0])
def test_the_vmf_target_is_unbiased(kappa):
    x, mu, _ = vmf_data(4000, 640, 1)
    noise = level(kappa, len(x), 640)
    noisy = corrupt(x, noise, np.random.default_rng(2))
    # A draw of the ratio deviates by at most sqrt(k_n) / ((d-1) A) = .13, a mean of 4,000 by .002.
    assert stein_ratio(denoising_target(x, noisy, noise), noisy, mu) == pytest.approx(1, abs=0.008)


def test_corruption_has_the_mean_cosine_of_its_noise():
    x, _, _ = vmf_data(20000, D, 5)
    noisy = corrupt(x, level(5.0, len(x)), np.random.default_rng(6))
    expected = mean_cosine(5.0 * (D - 1), D)
    assert float((x * noisy).sum(-1).mean()) == pytest.approx(expected, abs=1e-3)
    assert noisy.norm(dim=-1).sub(1).abs().max() < 1e-12


@pytest.mark.parametrize("d", [8, 64, 640])
@pytest.mark.parametrize("kappa", [0.3, 5.0])
def test_a_zero_model_loses_one(d, kappa):
    n = 8000
    x = torch.from_numpy(random_uniform(np.random.default_rng(7), n, d))
    loss = denoising_loss(
        x, level(kappa, n, d), lambda noisy, _: torch.zeros_like(noisy), np.random.default_rng(8)
    )
    error = float(loss.std()) / math.sqrt(n)
    assert float(loss.mean()) == pytest.approx(1, abs=4 * error)


@pytest.mark.parametrize("kappa", [0.3, 1.0, 5.0, 20.0])
def test_a_perfect_model_of_one_vmf_reaches_the_floor(kappa):
    n = 8000
    x, mu, a = vmf_data(n, D, 9)
    mixture = Mixture(
        mu,
        torch.tensor([a], dtype=torch.float64),
        torch.zeros(1, dtype=torch.float64),
        torch.zeros(n, D, dtype=torch.float64),
    )
    loss = denoising_loss(
        x,
        level(kappa, n),
        TiltedMixture(mixture).score,
        np.random.default_rng(10),
    )
    error = float(loss.std()) / math.sqrt(n)
    floor = denoising_floor(COSINE, kappa * (D - 1), D)
    assert float(loss.mean()) == pytest.approx(floor, abs=4 * error)
    assert 0 < floor < 1


def test_a_context_term_moves_the_perfect_model_along():
    # Data from the component tilted by h: splat and h together are one vMF of direction eta.
    n = 8000
    x, mu, a = vmf_data(n, D, 11)
    other = torch.from_numpy(random_uniform(np.random.default_rng(12), 1, D))
    split = 0.7 * a
    h = a * mu - split * other
    mixture = Mixture(
        other,
        torch.tensor([split], dtype=torch.float64),
        torch.zeros(1, dtype=torch.float64),
        h.expand(n, D),
    )
    noise = level(1.0, n)
    tilted = TiltedMixture(mixture).score(x, noise)
    zero = torch.zeros(1, dtype=torch.float64)
    whole = Mixture(mu, torch.tensor([a], dtype=torch.float64), zero, torch.zeros(n, D).double())
    plain = TiltedMixture(whole).score(x, noise)
    torch.testing.assert_close(tilted, plain, rtol=0, atol=1e-5)
    assert TiltedMixture(mixture).attraction_cosine(x) == pytest.approx(COSINE, abs=2e-3)


@pytest.mark.parametrize("kappa", [1.0, 5.0])
def test_the_true_mixture_explains_more_than_nine_tenths(kappa):
    n = 4000
    x, mixture = planted(n, D, 20, 13)
    a_data = TiltedMixture(mixture).attraction_cosine(x)
    assert a_data == pytest.approx(COSINE, abs=5e-3)

    def share(model):
        loss = denoising_loss(
            x,
            level(kappa, n),
            TiltedMixture(model).score,
            np.random.default_rng(14),
        )
        floor = denoising_floor(a_data, kappa * (D - 1), D)
        return explained_share(float(loss.mean()), floor)

    wrong = Mixture(mixture.mu.roll(1, -1), mixture.a, mixture.log_pi, mixture.h)
    assert 0.9 < share(mixture) < 1.1
    assert share(wrong) < 0.5


def test_the_score_is_the_gradient_of_the_smoothed_log_density():
    x, mixture = planted(5, 16, 4, 15)
    h = torch.from_numpy(np.random.default_rng(16).standard_normal((5, 16))) * 10
    mixture = Mixture(mixture.mu, mixture.a, mixture.log_pi, h)
    # Without noise (k_n to infinity) the density is the mixture's own, up to its normaliser.
    noise = torch.full((5, 1), 1e9, dtype=torch.float64)
    point = x.clone().requires_grad_()
    log_density = (
        torch.logsumexp(mixture.log_pi + mixture.a * (point @ mixture.mu.T), -1)
        + (h * point).sum(-1)
    ).sum()
    (gradient,) = torch.autograd.grad(log_density, point)
    score = TiltedMixture(mixture).score(x, noise)
    # All a are equal, so that the splats' own normalisers cancel; the quick mean cosine is off by
    # up to .25/d in the pull at finite noise, and exact here.
    torch.testing.assert_close(score, tangent(x, gradient), rtol=1e-5, atol=1e-3)


def test_float32_agrees_with_float64():
    x, mixture = planted(50, 640, 30, 17)
    h = torch.from_numpy(random_uniform(np.random.default_rng(18), 50, 640)) * 16
    double = Mixture(mixture.mu, mixture.a * 20, mixture.log_pi, h)
    single = Mixture(double.mu.float(), double.a.float(), double.log_pi.float(), h.float())
    for kappa in (1.0, 20.0):
        noise = level(kappa, 50, 640)
        expected = TiltedMixture(double).score(x, noise)
        found = TiltedMixture(single).score(x.float(), noise.float())
        # a cosines of rounding 1e-7 times concentrations up to 2e4 give log weights to 2e-3.
        assert (found - expected).norm() / expected.norm() < 2e-3


def test_score_matching_is_differentiable_in_every_part():
    x, mixture = planted(3, 8, 2, 19)
    parts = [mixture.mu, mixture.a / 10, mixture.log_pi, mixture.h + 1.0]
    parts = [part.clone().requires_grad_() for part in parts]

    def total(*values):
        return denoising_loss(
            x,
            level(1.0, 3, 8),
            TiltedMixture(Mixture(*values)).score,
            np.random.default_rng(20),
        ).sum()

    assert torch.autograd.gradcheck(total, parts)
