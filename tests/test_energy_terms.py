"""Geometry and composition: values by formula, gradients by float64 central differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit

from ebm_wgpu.energy_terms import CompositionTerm, EntropyTerm, GeometryTerm
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.sphere import proju, projx, random_uniform
from ebm_wgpu.splats import SplatStore
from ebm_wgpu.vmf import log_z0

Array = NDArray[np.float64]


def scene(
    seed: int, rows: int, d: int = 12, n: int = 20, k: int = 6
) -> tuple[Array, SplatStore, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    store = SplatStore.from_directions(random_uniform(rng, n, d), alpha=rng.uniform(0.5, 2, n))
    x = random_uniform(rng, rows, d)
    return x, store, np.argsort(-(x @ store.mu.T), axis=1)[:, :k]


def check_gradient(total: Callable[[Array], float], gradient: Array, x: Array) -> None:
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(np.sum(gradient * x, axis=1), 0, atol=1e-12)
    step = 1e-6
    for _ in range(5):
        direction = proju(x, rng.standard_normal(x.shape))
        ahead, behind = total(projx(x + step * direction)), total(projx(x - step * direction))
        slope = (ahead - behind) / (2 * step)
        assert np.sum(gradient * direction) == pytest.approx(slope, rel=1e-6, abs=1e-8)


@given(seed=st.integers(0, 1000), rows=st.integers(1, 6))
def test_spread_is_the_mean_over_pairs(seed: int, rows: int) -> None:
    x, store, near = scene(seed, rows)
    term = GeometryTerm(2.0, lambda_spread=1.5, lambda_cover=0)
    value, gradient = term.value_and_gradient(x, store, near)
    pairs = [np.log(1 - x[i] @ x[j]) for i, j in combinations(range(rows), 2)]
    assert value.sum() == pytest.approx(-3.0 * np.mean(pairs) if pairs else 0)
    check_gradient(lambda y: term.value_and_gradient(y, store, near)[0].sum(), gradient, x)


def test_spread_of_coincident_rows_is_finite() -> None:
    x, store, near = scene(0, 3)
    x[1] = x[0]
    value, gradient = GeometryTerm(1.0, lambda_cover=0).value_and_gradient(x, store, near)
    assert np.isfinite(value).all() and np.isfinite(gradient).all()
    assert value[0] > 1


@given(seed=st.integers(0, 1000), sharpness=st.floats(1, 20))
def test_cover_is_what_the_density_lacks(seed: int, sharpness: float) -> None:
    x, store, near = scene(seed, 4)
    term = GeometryTerm(1.0, 0, 2.0, rho_min=0.9, n_neighbours=6, sharpness=sharpness)
    value, gradient = term.value_and_gradient(x, store, near)
    for row in range(4):
        cosine = store.mu[near[row]].astype(np.float64) @ x[row]
        rho = np.mean(np.exp(sharpness * (cosine - 1)))
        assert term.density(x, store, near)[0][row] == pytest.approx(rho)
        assert value[row] == pytest.approx(2 * max(0, 0.9 - rho))
    check_gradient(lambda y: term.value_and_gradient(y, store, near)[0].sum(), gradient, x)


def test_cover_costs_nothing_where_splats_meet() -> None:
    _, store, _ = scene(1, 1)
    store.mu[:] = store.mu[0]
    near = np.arange(6)[None]
    value, gradient = GeometryTerm(1.0).value_and_gradient(store.mu[:1], store, near)
    assert value[0] == 0
    np.testing.assert_array_equal(gradient, 0)


weights = st.floats(-3, 3)


@given(seed=st.integers(0, 1000), w=st.tuples(weights, weights, weights), bias=weights)
def test_composition_is_the_sum_over_pairs(
    seed: int, w: tuple[float, float, float], bias: float
) -> None:
    x, store, near = scene(seed, 3)
    term = CompositionTerm(1.7, w, bias, n_neighbours=6)
    value, gradient = term.value_and_gradient(x, store, near)
    for row in range(3):
        pairs = list(combinations(sorted(near[row]), 2))
        share = np.array([store.alpha[i] * store.alpha[j] for i, j in pairs], np.float64)
        u = np.array([x[row] @ store.mu[i] for i, _ in pairs])
        v = np.array([x[row] @ store.mu[j] for _, j in pairs])
        gate = expit(w[0] * u + w[1] * v + w[2] * u * v + bias)
        assert value[row] == pytest.approx(1.7 * np.sum(share * gate) / share.sum())
    check_gradient(lambda y: term.value_and_gradient(y, store, near)[0].sum(), gradient, x)


def test_composition_does_not_depend_on_the_order_of_neighbours() -> None:
    x, store, near = scene(2, 3)
    term = CompositionTerm(1.0, (1.0, -1.0, 2.0))
    first = term.value_and_gradient(x, store, near)
    second = term.value_and_gradient(x, store, near[:, ::-1])
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


@given(seed=st.integers(0, 1000), rows=st.integers(1, 6))
def test_entropy_is_that_of_the_mean_share_of_each_splat(seed: int, rows: int) -> None:
    x, _, near = scene(seed, rows)
    rng = np.random.default_rng(seed)
    _, plain, _ = scene(seed, rows)
    store = SplatStore.from_directions(plain.mu, alpha=plain.alpha, kappa=rng.uniform(1, 2, 20))
    term = EntropyTerm(1.3)
    value, gradient = term.value_and_gradient(x, store, near)
    a = store.concentration
    mass = np.exp(store.log_pi + a * (x @ store.mu.T) - log_z0(a, 12))
    kept = np.zeros_like(mass)
    np.put_along_axis(kept, near, np.take_along_axis(mass, near, axis=1), axis=1)
    q = (kept / kept.sum(axis=1, keepdims=True)).mean(axis=0)
    assert value.sum() == pytest.approx(1.3 * np.sum(q[q > 0] * np.log(q[q > 0])))
    check_gradient(lambda y: term.value_and_gradient(y, store, near)[0].sum(), gradient, x)


def test_entropy_is_zero_on_one_splat_and_log_n_on_many() -> None:
    store = SplatStore.from_directions(np.eye(16), kappa=50)
    near = np.argsort(-store.mu, axis=1, kind="stable")[:, :4]
    term = EntropyTerm(2.0, n_neighbours=4)
    spread, _ = term.value_and_gradient(store.mu, store, near)
    assert spread.sum() == pytest.approx(-2 * np.log(16), rel=1e-9)
    alone, slope = term.value_and_gradient(store.mu[[3, 3]], store, near[[3, 3]])
    np.testing.assert_allclose(alone, 0, atol=1e-12)
    np.testing.assert_allclose(slope, 0, atol=1e-9)


TERMS = {
    "geometry": GeometryTerm(1.5, 0.7, 1.2, rho_min=0.9, n_neighbours=6, sharpness=2.0),
    "composition": CompositionTerm(1.7, (0.5, -1.0, 2.0), 0.3, n_neighbours=6),
    "entropy": EntropyTerm(0.8, n_neighbours=6),
}


@pytest.mark.parametrize("name", TERMS)
def test_derivatives_by_parameters(name: str) -> None:
    x, store, near = scene(5, 4)
    term = TERMS[name]
    found = term.parameter_gradients(x, store, near)
    settings = {field.name for field in dataclasses.fields(term)} - {"n_neighbours"}
    assert found.keys() == settings
    for key, gradient in found.items():
        values = np.atleast_1d(np.array(getattr(term, key), float))
        for i, slope in enumerate(np.atleast_1d(gradient)):
            energies = []
            for step in (1e-6, -1e-6):
                moved = values.copy()
                moved[i] += step
                new = tuple(moved) if isinstance(getattr(term, key), tuple) else float(moved[0])
                changed = dataclasses.replace(term, **{key: new})
                energies.append(changed.value_and_gradient(x, store, near)[0].sum())
            assert slope == pytest.approx((energies[0] - energies[1]) / 2e-6, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GeometryTerm(-1), "weight = -1 of the geometric term"),
        (lambda: GeometryTerm(1, rho_min=float("nan")), "rho_min = nan"),
        (lambda: CompositionTerm(-2), "weight = -2 of the compositional term"),
        (lambda: CompositionTerm(1, n_neighbours=1), "a pair takes at least 2"),
        (lambda: EntropyTerm(float("inf")), "weight = inf of the entropy term"),
    ],
)
def test_parameters_out_of_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
