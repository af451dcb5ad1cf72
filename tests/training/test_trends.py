import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ebm_wgpu.training.trends import fit_line, series


@given(st.integers(0, 10_000), st.integers(3, 60))
def test_the_line_is_that_of_least_squares(seed, count):
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.standard_normal(count)) * 10, rng.standard_normal(count)
    expected = stats.linregress(x, y)
    line = fit_line(y, x)
    assert line.change == pytest.approx(expected.slope * (x[-1] - x[0]), rel=1e-9, abs=1e-12)
    assert line.score == pytest.approx(expected.slope / expected.stderr, rel=1e-6, abs=1e-9)
    assert line.level == pytest.approx(y.mean(), rel=1e-12, abs=1e-15)


def test_points_on_a_line_have_no_noise():
    rising = fit_line([3 + 0.1 * i for i in range(20)])
    assert (rising.score, rising.rises, rising.falls) == (math.inf, True, False)
    assert rising.change == pytest.approx(1.9)
    falling = fit_line([-0.1 * i for i in range(20)])
    assert (falling.score, falling.rises, falling.falls) == (-math.inf, False, True)
    flat = fit_line([0.1 + 0.2] * 20)
    assert (flat.score, flat.rises, flat.falls) == (0, False, False)


def test_few_points_say_nothing_and_bad_ones_are_refused():
    assert fit_line([1.0, 2.0]).score == 0
    assert fit_line([1.0, 2.0]).change == 1
    assert fit_line([5.0]).level == 5
    assert fit_line([1.0, 2.0, 3.0], [4.0, 4.0, 4.0]).change == 0
    for values, positions in (([], None), ([1.0, math.nan], None), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="a line needs finite values"):
            fit_line(values, positions)


def test_noise_alone_has_a_trend_as_seldom_as_its_score_says():
    rng = np.random.default_rng(0)
    found = sum(fit_line(rng.standard_normal(40)).rises for _ in range(2000))
    # 3 standard errors of a t distribution with 38 degrees of freedom, one side.
    assert found == pytest.approx(2000 * stats.t.sf(3, 38), abs=3 * math.sqrt(2000 * 0.0024))


def test_series_takes_numbers_under_a_path():
    records = [
        {"step": 1, "loss": 2, "splats": {"active": 7}},
        {"step": 2, "splats": None},
        {"step": 3, "loss": None, "splats": {"active": "x"}},
        {"step": 4, "loss": 1.5},
    ]
    assert series(records, "loss") == [(1, 2.0), (3, math.inf), (4, 1.5)]
    assert series(records, "splats", "active") == [(1, 7.0)]
