"""Denoising score matching on the sphere, without bias, and with the floor a perfect model reaches.

A clean x is corrupted to x~ ~ vMF(x, k_n). The score of the corrupted density at x~ is the mean,
over the clean x that may have led there, of the Riemannian gradient of log p(x~ | x), so that

    target = k_n P_x~ x          (k_n natural units, P_x~ the tangent projection at x~)

is exact for any data and any d. |target|^2 has the mean k_n (d-1) A(k_n), A the mean cosine;
divided by it, a model whose score is zero loses exactly 1. A perfect model does not lose 0, because
x is not known from x~: data that is vMF of mean cosine A_c loses `denoising_floor`. What to look at
is therefore `explained_share`, 1 for a perfect model and 0 for one that knows nothing.

One energy cannot have the right score at all noise levels: `TiltedMixture.score` convolves each
component with the noise, a(k_n) = A^-1(A(a) A(k_n)) (Mardia and Jupp, "Directional Statistics",
12.3: a vMF convolved with a vMF is, to first order, a vMF of the product of the mean cosines).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebm_wgpu.vmf import inverse_mean_cosine, mean_cosine, sample_vmf_cosine

Score = Callable[[Tensor, Tensor], Tensor]
"""(noisy (B, d), noise (B, 1) in natural units) to the score (B, d)."""
Product = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Mixture:
    """Rows of vMF mixtures p(x|c) over shared splats, tilted by a context term h(c).

    log p(x|c) = log sum_k pi_k exp(a_k mu_k.x - log Z0(a_k)) + h.x - log Z(c): component k is
    vMF(eta_k), eta_k = a_k mu_k + h.

    Attributes:
        mu: (N, d) unit rows.
        a: (N,) concentrations > 0, natural units.
        log_pi: (N,) log weights; a constant added to all changes nothing.
        h: (B, d).
    """

    mu: Tensor
    a: Tensor
    log_pi: Tensor
    h: Tensor


@dataclass(frozen=True)
class NoiseLevel:
    """Score matching at one noise level.

    Attributes:
        kappa: noise concentration per degree of freedom, k_n / (d-1).
        loss: mean of `denoising_loss`, 1 for a zero model.
        floor: `denoising_floor` of data as close to its components as the model says this is.
        explained: `explained_share` of the two; a good model has more than .9, and less only where
            the noise hides which component a point came from.
    """

    kappa: float
    loss: float
    floor: float
    explained: float


def tangent(point: Tensor, vector: Tensor) -> Tensor:
    """P_x g = g - (x.g) x over rows: point (B, d) unit, vector (B, d)."""
    return vector - (point * vector).sum(-1, keepdim=True) * point


def corrupt(x: Tensor, noise: Tensor, rng: np.random.Generator) -> Tensor:
    """One draw x~ ~ vMF(k_n x) a row, exact (Wood's rejection).

    x: (B, d) unit; noise: (B, 1) k_n > 0, natural units. Returns (B, d) unit, of the type of x.
    """
    rows, d = x.shape
    exact = noise.cpu().double().numpy().reshape(-1)
    cosine = torch.from_numpy(sample_vmf_cosine(exact, d, rng))[:, None]
    clean = x.detach().cpu().double()
    across = torch.nn.functional.normalize(
        tangent(clean, torch.from_numpy(rng.standard_normal((rows, d)))), dim=-1
    )
    noisy = cosine * clean + ((1 - cosine) * (1 + cosine)).sqrt() * across
    return noisy.to(x.dtype).to(x.device)


def denoising_target(x: Tensor, noisy: Tensor, noise: Tensor) -> Tensor:
    """k_n P_x~ x, (B, d): x and noisy (B, d) unit, noise (B, 1) natural units."""
    return noise * tangent(noisy, x)


def denoising_loss(x: Tensor, noise: Tensor, score: Score, rng: np.random.Generator) -> Tensor:
    """|score(x~) - k_n P_x~ x|^2 / (k_n (d-1) A(k_n)) for one corruption of each row, (B,).

    x: (B, d) unit, constants; noise: (B, 1) natural units. Its mean is 1 for a zero score and
    `denoising_floor` for a perfect one.
    """
    noisy = corrupt(x, noise, rng)
    error = score(noisy, noise) - denoising_target(x, noisy, noise)
    return error.square().sum(-1) / _target_square(noise, x.shape[-1])[:, 0]


def denoising_floor(cosine: float, noise: float, d: int) -> float:
    """1 - k_c A(k_c) / (k_n A(k_n)), A(k_c) = A_c A(k_n): the loss of a perfect model.

    cosine: mean cosine A_c in [0, 1) of the clean data to its mean direction; noise: k_n > 0,
    natural units. Data of several directions well apart has the same floor.
    """
    level = float(mean_cosine(noise, d))
    corrupted = cosine * level
    return 1 - float(inverse_mean_cosine(corrupted, d)) * corrupted / (noise * level)


def explained_share(loss: float, floor: float) -> float:
    """(1 - loss) / (1 - floor): what the model explains of what can be explained."""
    return (1 - loss) / (1 - floor)


class TiltedMixture:
    """What score matching asks of a `Mixture`, with |eta_k| and p(k|c) worked out once.

    Attributes:
        mixture: the mixture.
        length: (B, N) |eta_k|.
        log_weight: (B, N) log p(k|c) + a constant of the row: log pi_k + log Z0(|eta_k|) -
            log Z0(a_k), in a form without large differences.
    """

    def __init__(self, mixture: Mixture, product: Product = torch.matmul) -> None:
        """Take a mixture, and what multiplies matrices (B, d) x (d, N) and (B, N) x (N, d).

        These products are all of the cost that grows with N d: one here, one a mean cosine, two a
        score.
        """
        self.mixture, self._product = mixture, product
        a, h = mixture.a, mixture.h
        delta = 2 * a * product(h, mixture.mu.T) + h.square().sum(-1, keepdim=True)
        self.length = (a.square() + delta).clamp_min(torch.finfo(a.dtype).tiny).sqrt()
        ratio = _log_z0_ratio(a, self.length, delta, mixture.mu.shape[1])
        self.log_weight = mixture.log_pi + ratio

    def score(self, noisy: Tensor, noise: Tensor) -> Tensor:
        """The Riemannian score of the mixture after corruption by vMF noise, (B, d).

        sum_k q_k a'_k P_x~ m_k with m_k the direction of eta_k, a'_k = A^-1(A(|eta_k|) A(k_n)) and
        q_k ~ p(k|c) exp(a'_k m_k.x~ - log Z0(a'_k)). Differentiable in all of the mixture.

        noisy: (B, d) unit; noise: (B, 1) natural units.
        """
        mu, a, h = self.mixture.mu, self.mixture.a, self.mixture.h
        d = mu.shape[1]
        level = _mean_cosine(self.length, d) * _mean_cosine(noise, d)
        smoothed = (d - 1) * level / ((1 - level) * (1 + level))
        log_q = self.log_weight + smoothed * (self._cosine(noisy) - 1) + _peak(smoothed, d)
        pull = torch.softmax(log_q, dim=-1) * smoothed / self.length
        force = self._product(pull * a, mu) + pull.sum(-1, keepdim=True) * h
        return tangent(noisy, force)

    def attraction_cosine(self, x: Tensor) -> float:
        """E[m_k.x], x clean data (B, d) and k drawn from p(k|x, c): A_c of `denoising_floor`."""
        cosine = self._cosine(x)
        log_q = self.log_weight + self.length * (cosine - 1) + _peak(self.length, x.shape[-1])
        return float((torch.softmax(log_q, dim=-1) * cosine).sum(-1).mean())

    def _cosine(self, x: Tensor) -> Tensor:
        """m_k.x, (B, N), for x (B, d)."""
        along = self.mixture.a * self._product(x, self.mixture.mu.T)
        return (along + (self.mixture.h * x).sum(-1, keepdim=True)) / self.length


def noise_levels(
    mixture: TiltedMixture,
    x: Tensor,
    kappas: Sequence[float],
    rng: np.random.Generator,
    score: Score | None = None,
) -> tuple[NoiseLevel, ...]:
    """Score matching with clean data x (B, d), at each noise of `kappas`.

    score: of an energy with more terms than `mixture`, whose score counts unless given.
    """
    d = x.shape[1]
    # A mean cosine that rounds to 1 or below 0 has no concentration.
    cosine = min(max(mixture.attraction_cosine(x), 0.0), 1 - 1e-7)
    levels = []
    for kappa in kappas:
        noise = kappa * (d - 1)
        rows = x.new_full((len(x), 1), noise)
        loss = float(denoising_loss(x, rows, score or mixture.score, rng).mean())
        floor = denoising_floor(cosine, noise, d)
        levels.append(NoiseLevel(kappa, loss, floor, explained_share(loss, floor)))
    return tuple(levels)


def _target_square(noise: Tensor, d: int) -> Tensor:
    """E|k_n P_x~ x|^2 = k_n (d-1) A(k_n)."""
    level = torch.from_numpy(np.asarray(mean_cosine(noise.cpu().double().numpy(), d)))
    return noise * (d - 1) * level.to(noise.dtype).to(noise.device)


def _mean_cosine(k: Tensor, d: int) -> Tensor:
    """2b / (1 + sqrt(1 + 4 b^2)), b = k/(d-1): within 0.25/d, with an exact inverse."""
    b = k / (d - 1)
    return 2 * b / (1 + (1 + 4 * b.square()).sqrt())


def _log_z0_ratio(a: Tensor, length: Tensor, delta: Tensor, d: int) -> Tensor:
    """log Z0(|eta|) - log Z0(a) by the Debye expansion, |eta|^2 = a^2 + delta."""
    nu = d / 2 - 1
    start, stop = (1 + (a / nu).square()).sqrt(), (1 + (length / nu).square()).sqrt()
    change = delta / nu**2 / (start + stop)
    leading = nu * (change - torch.log1p(change / (1 + start)))
    correction = torch.log(_debye(1 / stop, nu) / _debye(1 / start, nu))
    return leading - torch.log1p(change / start) / 2 + correction


def _peak(k: Tensor, d: int) -> Tensor:
    """k - log Z0(k), the log density of a vMF at its mode, in a form without large differences."""
    nu = d / 2 - 1
    q = k / nu
    s = (1 + q.square()).sqrt()
    debye = torch.log(_debye(1 / s, nu) / _debye(s.new_ones(()), nu))
    return nu * (1 - 1 / (s + q) + torch.log((1 + s) / 2)) + torch.log(s) / 2 - debye


def _debye(p: Tensor, nu: float) -> Tensor:
    """U(p) = 1 + u_1(p)/nu + u_2(p)/nu^2 (Abramowitz and Stegun 9.3.9)."""
    square = p.square()
    first = p * (3 - 5 * square) / 24
    second = square * (81 - 462 * square + 385 * square.square()) / 1152
    return 1 + first / nu + second / nu**2
