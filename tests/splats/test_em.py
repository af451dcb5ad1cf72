"""EM: the likelihood never falls, planted clusters are found, and limits hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.splats import History, SplatStore
from ebm_wgpu.splats import em as splats_em
from ebm_wgpu.splats.em import fit_mixture
from ebm_wgpu.vmf import inverse_mean_cosine, log_z0, mean_cosine, sample_vmf


def planted(seed: int, clusters: int, points: int, d: int, cosine: float):
    """Cluster centres, their weights and points drawn from the mixture."""
    rng = np.random.default_rng(seed)
    centres = random_uniform(rng, clusters, d)
    shares = rng.dirichlet(np.full(clusters, 5.0))
    labels = rng.choice(clusters, points, p=shares)
    return centres, shares, sample_vmf(inverse_mean_cosine(cosine, d) * centres[labels], rng)


def mean_log_likelihood(store: SplatStore, x, weights=None) -> float:
    """The definition, splat by splat."""
    terms = [
        store.log_pi[k]
        + store.concentration[k] * (x @ store.mu[k].astype(np.float64))
        - log_z0(store.concentration[k], store.dimension)
        for k in range(len(store))
    ]
    return float(np.average(np.logaddexp.reduce(terms, axis=0), weights=weights))


@given(seed=st.integers(0, 10_000), count=st.integers(1, 12), d=st.sampled_from([8, 33]))
@settings(max_examples=15)
def test_likelihood_never_falls(seed, count, d):
    _, _, x = planted(seed, 4, 60, d, 0.7)
    start = SplatStore.from_directions(random_uniform(np.random.default_rng(seed), count, d))
    weights = np.random.default_rng(seed).random(60)
    trace = fit_mixture(start, x, weights=weights, iterations=8).log_likelihood
    assert trace.shape == (9,)
    assert np.diff(trace).min() >= -1e-10 * np.abs(trace).max()


def test_trace_holds_the_likelihood_of_the_stores():
    _, _, x = planted(0, 3, 80, 16, 0.8)
    weights = np.random.default_rng(1).random(80)
    start = SplatStore.from_directions(random_uniform(np.random.default_rng(2), 5, 16))
    result = fit_mixture(start, x, weights=weights, iterations=3)
    expected = [
        mean_log_likelihood(start, x, weights),
        mean_log_likelihood(result.store, x, weights),
    ]
    # The stores hold float32; the trace was computed before rounding.
    assert result.log_likelihood[[0, -1]] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("start", ["uniform", "data"])
def test_planted_clusters_are_recovered_in_fifteen_iterations(start):
    d, clusters = 64, 20
    centres, shares, x = planted(11, clusters, 3000, d, 0.8)
    rng = np.random.default_rng(3)
    directions = (
        random_uniform(rng, 120, d) if start == "uniform" else x[rng.permutation(3000)[:120]]
    )
    result = fit_mixture(SplatStore.from_directions(directions), x, prior_count=5)
    used = np.exp(result.store.log_pi) > 1e-3
    best = (result.store.mu[used] @ centres.T).max(axis=0)
    assert (best > 0.9).sum() == clusters
    truth = SplatStore.from_directions(
        centres, alpha=shares, kappa=inverse_mean_cosine(0.8, d) / (d - 1)
    )
    _, _, unseen = planted(11, clusters, 1000, d, 0.8)
    gap = mean_log_likelihood(truth, unseen) - mean_log_likelihood(result.store, unseen)
    # Fitting p = 120 * 65 numbers to n = 3000 points costs p / 2n = 1.3 nats on unseen ones.
    assert gap < 1.3


def test_a_single_splat_is_the_maximum_likelihood_estimate():
    _, _, x = planted(5, 1, 500, 32, 0.75)
    fitted = fit_mixture(SplatStore.from_directions(np.eye(32)[:1]), x, iterations=1).store
    mean = x.mean(axis=0)
    length = float(np.linalg.norm(mean))
    assert fitted.mu[0] == pytest.approx(mean / length, abs=1e-6)
    assert mean_cosine(fitted.concentration[0], 32) == pytest.approx(length, rel=1e-6)


def test_weights_count_like_repeated_points():
    _, _, x = planted(6, 3, 50, 8, 0.8)
    repeats = np.random.default_rng(7).integers(0, 4, 50)
    start = SplatStore.from_directions(np.eye(8))
    weighted = fit_mixture(start, x, weights=repeats)
    repeated = fit_mixture(start, np.repeat(x, repeats, axis=0))
    assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood, rel=1e-12)
    assert weighted.store.mu == pytest.approx(repeated.store.mu, abs=1e-6)


def test_concentrations_stay_in_their_range_and_splats_without_points_stay_in_place():
    x = np.repeat(np.eye(8)[:2], 5, axis=0)
    start = SplatStore.from_directions(
        np.eye(8)[[0, 1, 7]], kappa=[1, 1, 40], kappa_range=(0.5, 40), sid=[9, 8, 7]
    )
    fitted = fit_mixture(start, x).store
    assert fitted.kappa.tolist() == [40, 40, 40]
    assert np.array_equal(fitted.mu, start.mu)
    assert np.exp(fitted.log_pi) == pytest.approx([0.5, 0.5, 0], abs=1e-9)
    spread = fit_mixture(start, np.concatenate([np.eye(8), -np.eye(8)])).store
    assert spread.kappa.min() >= 0.5


def test_a_prior_keeps_lone_points_from_being_closed_in_on():
    x = random_uniform(np.random.default_rng(8), 6, 64)
    start = SplatStore.from_directions(x, kappa=2)
    assert (fit_mixture(start, x).store.kappa == 50).all()
    held = fit_mixture(start, x, prior_count=4).store
    # One point at cosine 1 and four imagined ones at the cosine of kappa = 2.
    expected = (1 + 4 * mean_cosine(126.0, 64)) / 5
    assert mean_cosine(held.concentration, 64) == pytest.approx(expected, rel=1e-3)


def test_blocks_do_not_change_the_result(monkeypatch):
    _, _, x = planted(9, 3, 70, 8, 0.8)
    start = SplatStore.from_directions(np.eye(8))
    whole = fit_mixture(start, x)
    monkeypatch.setattr(splats_em, "_BLOCK_NUMBERS", 90)
    blocks = fit_mixture(start, x)
    assert blocks.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-12)
    assert blocks.store.mu == pytest.approx(whole.store.mu, abs=1e-6)


def test_what_is_not_fitted_is_kept_and_the_start_is_left_alone():
    history = History(np.eye(8, dtype=np.float32), np.zeros(8, np.float32), np.arange(8))
    start = SplatStore.from_directions(
        np.eye(8), sid=np.arange(8)[::-1], frequency=0.5, age=3, history=history
    )
    fitted = fit_mixture(start, random_uniform(np.random.default_rng(0), 40, 8)).store
    assert np.array_equal(fitted.sid, start.sid)
    assert np.array_equal(fitted.frequency, start.frequency)
    assert np.array_equal(fitted.age, start.age)
    assert fitted.history is history
    assert np.array_equal(start.mu, np.eye(8))
    assert fitted.alpha.mean() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": np.eye(9)}, r"points of shape \(9, 9\): give \(n, 8\)"),
        ({"points": np.zeros((2, 8))}, "no direction"),
        ({"weights": [1, 2]}, r"weights of shape \(2,\)"),
        ({"weights": -np.ones(8)}, "numbers >= 0"),
        ({"weights": np.zeros(8)}, "not all 0"),
        ({"iterations": 0}, "iterations 0"),
        ({"prior_count": -1.0}, "prior_count -1.0"),
    ],
)
def test_arguments_out_of_range_are_refused(change, message):
    arguments = {"points": np.eye(8)} | change
    with pytest.raises(ConfigError, match=message):
        fit_mixture(SplatStore.from_directions(np.eye(8)), **arguments)
