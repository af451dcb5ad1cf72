"""Elementary float32 functions against float64: a few units in the last place, everywhere."""

from collections.abc import Callable

import numpy as np
import pytest
from numba import njit

from ebm_wgpu.kernels import _math

Function = Callable[[np.ndarray], np.ndarray]
RNG = np.random.default_rng(5)
N = 20_000


def _vector(function: Callable) -> Function:  # type: ignore[type-arg]
    @njit
    def fill(x: np.ndarray, out: np.ndarray) -> None:
        for i in range(x.size):
            out[i] = function(x[i])

    def apply(x: np.ndarray) -> np.ndarray:
        out = np.empty(x.shape, np.float32)
        fill(x.astype(np.float32), out)
        return out

    return apply


def _ulps(value: np.ndarray, exact: np.ndarray) -> float:
    spacing = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    return float(np.max(np.abs(value - exact) / spacing))


def _signed_powers(low: float, high: float) -> np.ndarray:
    return RNG.choice([-1, 1], N) * 10.0 ** RNG.uniform(low, high, N)


FUNCTIONS = [
    ("log", _math.log_accurate, np.log, 10.0 ** RNG.uniform(-37, 38, N), 1.5),
    ("log near 1", _math.log_accurate, np.log, RNG.uniform(0.5, 2, N), 1.5),
    ("log1p", _math.log1p_accurate, np.log1p, 10.0 ** RNG.uniform(-30, 30, N), 3),
    ("log1p below 0", _math.log1p_accurate, np.log1p, -(10.0 ** RNG.uniform(-30, -1e-6, N)), 3),
    ("exp", _math.exp_accurate, np.exp, RNG.uniform(-87, 88, N), 1.5),
    ("expm1", _math.expm1_accurate, np.expm1, RNG.uniform(-87, 88, N), 2),
    ("expm1 near 0", _math.expm1_accurate, np.expm1, _signed_powers(-30, 1), 2),
]


@pytest.mark.parametrize(("name", "function", "exact", "x", "ulps"), FUNCTIONS)
def test_last_places(
    name: str,
    function: Callable,
    exact: Function,
    x: np.ndarray,
    ulps: float,  # type: ignore[type-arg]
) -> None:
    x32 = x.astype(np.float32)
    assert _ulps(_vector(function)(x32), exact(x32.astype(np.float64))) < ulps, name


def test_special_values() -> None:
    inf, nan = np.inf, np.nan
    tables = [
        (_math.log_accurate, [0, -1, inf, nan, 1], [-inf, nan, inf, nan, 0]),
        (_math.log1p_accurate, [-1, -2, inf, nan, 0], [-inf, nan, inf, nan, 0]),
        (_math.exp_accurate, [-inf, -88, 89, inf, nan, 0], [0, 0, inf, inf, nan, 1]),
        (_math.expm1_accurate, [-inf, -88, 89, inf, nan, 0], [-1, -1, inf, inf, nan, 0]),
    ]
    for function, x, expected in tables:
        np.testing.assert_array_equal(_vector(function)(np.array(x)), np.float32(expected))


@pytest.mark.parametrize(
    ("function", "scale", "x"),
    [
        (_math.sincos_turns, 2 * np.pi, RNG.uniform(-3, 3, N)),
        (_math.sincos_accurate, 1.0, RNG.uniform(-8192, 8192, N)),
        (_math.sincos_accurate, 1.0, _signed_powers(-20, 0)),
    ],
)
def test_sine_and_cosine(function: Callable, scale: float, x: np.ndarray) -> None:  # type: ignore[type-arg]
    @njit
    def fill(x: np.ndarray, sine: np.ndarray, cosine: np.ndarray) -> None:
        for i in range(x.size):
            sine[i], cosine[i] = function(x[i])

    x32 = x.astype(np.float32)
    sine, cosine = np.empty_like(x32), np.empty_like(x32)
    fill(x32, sine, cosine)
    angle = scale * x32.astype(np.float64)
    np.testing.assert_allclose(sine, np.sin(angle), rtol=3e-7, atol=1.2e-7)
    np.testing.assert_allclose(cosine, np.cos(angle), rtol=3e-7, atol=1.2e-7)
    small = np.abs(angle) < 0.5
    np.testing.assert_allclose(sine[small], np.sin(angle[small]), rtol=3e-7)


def test_quarter_turns_are_exact() -> None:
    for quarter, expected in enumerate([(0, 1), (1, 0), (0, -1), (-1, 0), (0, 1)]):
        assert _math.sincos_turns(np.float32(quarter / 4)) == expected


def test_arc_tangent_in_all_quadrants() -> None:
    y, x = _signed_powers(-9, 9).astype(np.float32), _signed_powers(-9, 9).astype(np.float32)
    angle = np.array([_math.atan2_accurate(a, b) for a, b in zip(y[:500], x[:500], strict=True)])
    exact = np.arctan2(y[:500].astype(np.float64), x[:500].astype(np.float64))
    np.testing.assert_allclose(angle, exact, rtol=2e-7)
    zero = np.float32(0)
    assert _math.atan2_accurate(zero, zero) == 0
    assert _math.atan2_accurate(-zero, np.float32(-1)) == np.float32(np.pi)
