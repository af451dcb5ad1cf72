"""Expectation maximisation: fit the splats, as a von Mises-Fisher mixture, to points on the sphere.

Each iteration needs one pass over the points. Fifteen are enough to find planted clusters.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.sphere import FloatArray, projx
from ebm_wgpu.splats.store import SplatStore
from ebm_wgpu.vmf import inverse_mean_cosine, log_z0, mean_cosine

_BLOCK_NUMBERS = 1 << 23
_SMALLEST_SHARE = 1e-12


@dataclass(frozen=True, eq=False)
class EMResult:
    """The fitted store, and the mean log-likelihood before each iteration and after the last.

    log_likelihood: (iterations + 1,) float64, nats a point relative to the uniform probability.
    """

    store: SplatStore
    log_likelihood: FloatArray


class _Mixture(NamedTuple):
    pi: FloatArray  # (N,)
    mu: FloatArray  # (N, d)
    a: FloatArray  # (N,)


class _Statistics(NamedTuple):
    counts: FloatArray  # (N,) expected number of points of each splat
    sums: FloatArray  # (N, d) their expected sum
    log_likelihood: float


def fit_mixture(
    store: SplatStore,
    points: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    iterations: int = 15,
    prior_count: float = 0.0,
) -> EMResult:
    """Maximise sum_i weight_i log sum_k pi_k exp(a_k mu_k.x_i - log Z0(a_k)) from a given store.

    E-step: responsibilities p(k | x_i). M-step, with n_k the expected count and m_k the expected
    sum of splat k: pi_k = n_k / sum n, mu_k = m_k / |m_k|, A_d(a_k) = |m_k| / n_k with a_k kept
    within (d-1) `kappa_range`. The likelihood never falls. A splat without points keeps its place.

    `prior_count` > 0 adds that many imagined points to each splat's estimate of a_k, with the mean
    cosine of the concentration the splat started from: it stops splats that hold a few points each
    from closing in on them. What never falls is then the likelihood with that prior.

    points: (n, d) unit rows. weights: (n,) >= 0 (default 1). Returns a new store with alpha, mu
    and kappa fitted (the mean of alpha is 1) and sid, frequency, age and history as they were.
    Source: Banerjee et al., JMLR 6 (2005), with the concentration solved exactly.
    Raises `ConfigError` for points or options that do not fit.
    """
    x = projx(np.asarray(points, np.float64))
    if x.ndim != 2 or x.shape[1] != store.dimension:
        raise ConfigError(f"points of shape {x.shape}: give (n, {store.dimension})")
    mass = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    if mass.shape != (len(x),) or not (mass >= 0).all() or not 0 < mass.sum() < np.inf:
        raise ConfigError(
            f"weights of shape {mass.shape}: give {(len(x),)} numbers >= 0, not all 0"
        )
    if iterations < 1 or not 0 <= prior_count < np.inf:
        raise ConfigError(
            f"iterations {iterations}, prior_count {prior_count}: use at least 1 and at least 0"
        )
    mixture = _Mixture(
        np.exp(store.log_pi), projx(store.mu.astype(np.float64)), store.concentration
    )
    prior_sum = prior_count * mean_cosine(mixture.a, store.dimension)
    history = []
    statistics = _expect(mixture, x, mass)
    for _ in range(iterations):
        history.append(statistics.log_likelihood)
        mixture = _maximise(mixture, statistics, store.kappa_range, prior_count, prior_sum)
        statistics = _expect(mixture, x, mass)
    history.append(statistics.log_likelihood)
    kappa = np.clip(mixture.a / (store.dimension - 1), *store.kappa_range)
    fitted = replace(
        store,
        mu=mixture.mu.astype(np.float32),
        alpha=(len(store) * mixture.pi).astype(np.float32),
        kappa=kappa.astype(np.float32),
    )
    fitted.validate()
    return EMResult(fitted, np.array(history))


def _expect(mixture: _Mixture, x: FloatArray, mass: FloatArray) -> _Statistics:
    """Expected counts and sums over all points, a block of rows at a time."""
    offset = np.log(mixture.pi) - log_z0(mixture.a, x.shape[1])
    counts, sums, total = np.zeros(len(mixture.mu)), np.zeros_like(mixture.mu), 0.0
    rows = max(1, _BLOCK_NUMBERS // len(mixture.mu))
    for start in range(0, len(x), rows):
        block, weight = x[start : start + rows], mass[start : start + rows]
        joint = offset + (block @ mixture.mu.T) * mixture.a
        largest = joint.max(axis=1, keepdims=True)
        np.exp(joint - largest, out=joint)
        norm = joint.sum(axis=1, keepdims=True)
        total += float(weight @ (largest + np.log(norm))[:, 0])
        joint *= weight[:, None] / norm
        counts += joint.sum(axis=0)
        sums += joint.T @ block
    return _Statistics(counts, sums, total / float(mass.sum()))


def _maximise(
    mixture: _Mixture,
    statistics: _Statistics,
    kappa_range: tuple[float, float],
    prior_count: float,
    prior_sum: FloatArray,
) -> _Mixture:
    """The mixture that explains the expected counts and sums best, within the range of kappa."""
    d = mixture.mu.shape[1]
    counts, lengths = statistics.counts, np.linalg.norm(statistics.sums, axis=1)
    held = counts > _SMALLEST_SHARE * counts.sum()
    mu = np.where(held[:, None], statistics.sums, mixture.mu)
    low, high = ((d - 1) * kappa for kappa in kappa_range)
    total = np.where(held, counts + prior_count, 1)
    # Between the mean cosines of the bounds, so that the inverse stays within them.
    cosine = np.clip((lengths + prior_sum) / total, mean_cosine(low, d), mean_cosine(high, d))
    a = np.where(held, np.clip(inverse_mean_cosine(cosine, d), low, high), mixture.a)
    pi = np.maximum(counts / counts.sum(), _SMALLEST_SHARE)
    return _Mixture(pi / pi.sum(), projx(mu), a)
