"""The store's derived quantities and invariants."""

import mpmath
import numpy as np
import pytest

from ebm_wgpu.errors import ConfigError, StoreError
from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.splats import History, SplatStore


def example(count: int = 6, dimension: int = 8) -> SplatStore:
    rng = np.random.default_rng(0)
    return SplatStore.from_directions(
        random_uniform(rng, count, dimension),
        alpha=rng.uniform(0.1, 3, count),
        kappa=rng.uniform(1, 50, count),
        history=History(
            random_uniform(rng, 2, dimension, np.float32),
            np.array([-1.5, 2.0], np.float32),
            np.array([3, 0]),
        ),
    )


def test_directions_are_normalised_and_defaults_filled_in():
    store = SplatStore.from_directions(np.diag(np.arange(1.0, 9.0)), kappa=2)
    assert np.array_equal(store.mu, np.eye(8, dtype=np.float32))
    assert (len(store), store.dimension) == (8, 8)
    assert np.array_equal(store.sid, np.arange(8))
    assert np.array_equal(store.alpha, np.ones(8, np.float32))
    assert np.array_equal(store.kappa, np.full(8, 2, np.float32))
    assert not store.frequency.any()
    assert not store.age.any()
    assert store.history is None


def test_arrays_are_copies():
    alpha = np.ones(3, np.float32)
    store = SplatStore.from_directions(np.eye(8)[:3], alpha=alpha)
    alpha[:] = 5
    assert np.array_equal(store.alpha, np.ones(3))


@pytest.mark.parametrize("dimension", [8, 64, 640])
def test_derived_quantities_follow_their_formulas(dimension):
    store = example(5, dimension)
    alpha, kappa = store.alpha.astype(np.float64), store.kappa.astype(np.float64)
    assert store.concentration == pytest.approx((dimension - 1) * kappa, rel=1e-15)
    assert np.exp(store.log_pi) == pytest.approx(alpha / alpha.sum(), rel=1e-14)
    for k in range(5):
        with mpmath.workdps(40):
            a, nu = mpmath.mpf(float(kappa[k])) * (dimension - 1), mpmath.mpf(dimension) / 2 - 1
            log_z0 = mpmath.log(mpmath.hyp0f1(nu + 1, a * a / 4))
            share = mpmath.mpf(float(alpha[k])) / mpmath.mpf(float(alpha.sum()))
            expected = float(mpmath.log(share) + a - log_z0)
        assert store.log_weight[k] == pytest.approx(expected, rel=1e-9)


def test_float32_versions_are_rounded_once():
    store = example()
    for name in ("concentration", "log_pi", "log_weight"):
        exact, rounded = getattr(store, name), getattr(store, f"{name}_f32")
        assert exact.dtype == np.float64
        assert rounded.dtype == np.float32
        assert np.array_equal(rounded, exact.astype(np.float32))


def with_entry(name: str, row: object, value: object):
    """A change that sets one entry of an array of the store."""

    def change(store: SplatStore) -> None:
        getattr(store, name)[row] = value

    return change


def with_field(name: str, make):
    def change(store: SplatStore) -> None:
        setattr(store, name, make(getattr(store, name)))

    return change


def in_history(change):
    return lambda store: change(store.history)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_entry("mu", (2, 3), np.nan), "mu of row 2 holds NaN"),
        (with_entry("mu", 4, 0), "mu of row 4 has length 0: expected 1"),
        (
            with_entry("mu", 1, 1.001 * np.eye(8, dtype=np.float32)[0]),
            "mu of row 1 has length 1.001",
        ),
        (with_entry("alpha", 3, 0), "alpha of row 3 is 0.0: not positive"),
        (with_entry("alpha", 3, -1), "alpha of row 3 is -1.0: not positive"),
        (with_entry("alpha", 1, np.inf), "alpha of row 1 is inf: not finite"),
        (with_entry("kappa", 0, 0.99), r"kappa of row 0 is 0.99: outside its range \[1, 50\]"),
        (with_entry("kappa", 5, 51), r"kappa of row 5 is 51.0: outside"),
        (with_entry("kappa", 5, np.nan), "kappa of row 5 is nan: outside"),
        (with_entry("sid", 2, -1), "sid of row 2 is -1: negative"),
        (with_entry("frequency", 2, np.nan), "frequency of row 2 is nan"),
        (with_entry("age", 2, -7), "age of row 2 is -7: negative"),
        (
            with_field("alpha", lambda a: a[:-1]),
            r"alpha is float32 \(5,\): expected float32 \(6,\)",
        ),
        (with_field("sid", lambda a: a.astype(np.int32)), "sid is int32 .*: expected int64"),
        (with_field("age", list), "age is a list: expected int64"),
        (with_field("mu", lambda a: a[0]), r"mu has shape \(8,\)"),
        (with_field("mu", lambda a: a[:0]), "no splats"),
        (with_field("mu", lambda a: a[:, :7]), "dimension 7 is below 8"),
        (with_field("mu", lambda a: np.asfortranarray(a)), "mu is not C-contiguous"),
        (with_field("kappa_range", lambda r: (5.0, 1.0)), r"kappa range \(5.0, 1.0\)"),
        (in_history(with_entry("latents", 1, 0)), "history latents of row 1 has length 0"),
        (in_history(with_entry("energies", 0, np.inf)), "history energies of row 0 is inf"),
        (in_history(with_entry("tokens", 0, -1)), "history tokens of row 0 is -1: negative"),
        (in_history(with_field("tokens", lambda a: a[:1])), r"history tokens is int64 \(1,\)"),
        (in_history(with_field("latents", lambda a: a[:, :7])), "history latents is float32"),
    ],
)
def test_each_broken_invariant_is_named(change, message):
    store = example()
    store.validate()
    change(store)
    with pytest.raises(StoreError, match=message) as caught:
        store.validate()
    assert "\n" not in str(caught.value)


def test_constructor_refuses_what_does_not_fit():
    with pytest.raises(StoreError, match=r"mu has shape \(8,\)"):
        SplatStore.from_directions(np.ones(8))
    with pytest.raises(StoreError, match=r"alpha has shape \(2,\): give a scalar or \(3,\)"):
        SplatStore.from_directions(np.eye(8)[:3], alpha=[1, 2])
    with pytest.raises(ConfigError, match=r"projx: row \(1,\)"):
        SplatStore.from_directions(np.diag([1.0] + [0.0] * 7))
    with pytest.raises(StoreError, match="kappa of row 0 is 60"):
        SplatStore.from_directions(np.eye(8), kappa=60)


def test_the_bounds_of_the_kappa_range_are_inside():
    for bound in (0.1, 70.3):
        SplatStore.from_directions(np.eye(8), kappa=bound, kappa_range=(0.1, 70.3))


def test_the_package_offers_the_store_and_nothing_else():
    import ebm_wgpu.splats

    assert ebm_wgpu.splats.SplatStore is SplatStore
    with pytest.raises(AttributeError, match="nothing"):
        ebm_wgpu.splats.nothing  # noqa: B018
