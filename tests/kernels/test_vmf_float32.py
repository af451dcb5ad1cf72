"""The float32 von Mises-Fisher functions against the float64 ones."""

import numpy as np
import pytest

from ebm_wgpu.kernels._vmf import (
    fill_log_z0_ratio,
    log_z0,
    log_z0_ratio,
    mean_cosine,
    mean_cosine_slope,
    mean_ratio,
)
from ebm_wgpu.vmf import log_z0_ratio as exact_ratio

DIMENSIONS = [8, 9, 16, 63, 64, 65, 640, 1024]
N = 2000


def _tilts(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Concentrations, and changes of their square by contexts of any size and direction."""
    a = 10.0 ** rng.uniform(-1, 6, N)
    h = 10.0 ** rng.uniform(-6, 6, N)
    delta = 2 * a * h * rng.uniform(-1, 1, N) + h**2
    return a.astype(np.float32), np.maximum(delta, -(a**2)).astype(np.float32)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_ratio_is_stable(d: int) -> None:
    """Relative error of eight roundings, and of the 28 recurrence steps below d = 64."""
    a, delta = _tilts(np.random.default_rng(d))
    out = np.empty_like(a)
    fill_log_z0_ratio(a, delta, d, out)
    exact = exact_ratio(a.astype(np.float64), delta.astype(np.float64), d)
    # Where |eta| is almost zero, delta holds -a^2 to one rounding only, whatever is done with it.
    floor = 1e-7 * np.abs(exact_ratio(a.astype(np.float64), -(a.astype(np.float64) ** 2), d))
    error = np.abs(out - exact) / (np.abs(exact) + floor)
    assert error.max() < (6e-7 if d >= 63 else 2.5e-6)


@pytest.mark.parametrize("d", [8, 64, 640])
def test_row_and_scalar_agree(d: int) -> None:
    a, delta = _tilts(np.random.default_rng(1))
    out = np.empty_like(a)
    fill_log_z0_ratio(a, delta, d, out)
    scalar = [log_z0_ratio(x, y, d) for x, y in zip(a[:200], delta[:200], strict=True)]
    # The same operations, in which a compiler may fuse multiplications with additions.
    np.testing.assert_allclose(out[:200], scalar, rtol=6e-7)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_there_and_back_cancels(d: int) -> None:
    a, r = np.float32(0.75 * d), np.float32(1.25 * d)
    delta = np.float32(d * d)
    assert log_z0_ratio(a, delta, d) == pytest.approx(-log_z0_ratio(r, -delta, d), rel=1e-6)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_values_at_zero(d: int) -> None:
    zero = np.float32(0)
    assert log_z0(zero, d) == 0
    assert log_z0_ratio(np.float32(5), zero, d) == 0
    assert mean_cosine(zero, d) == 0
    assert mean_ratio(zero, d) == pytest.approx(1 / d, rel=1e-6)
    assert mean_cosine_slope(zero, d) == pytest.approx(1 / d, rel=1e-6)


def test_opposing_context_reaches_the_uniform() -> None:
    """A context that cancels the splat exactly, or by rounding a little more, leaves log Z0 = 0."""
    a = np.float32(639)
    for delta in (-a * a, np.float32(-1.0001) * a * a):
        assert log_z0_ratio(a, delta, 640) == pytest.approx(-float(log_z0(a, 640)), rel=1e-6)
