import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.config import TrainConfig
from ebm_wgpu.training.schedule import CLOCK_WARMUP_SHARE, Schedule


def test_warmup_is_linear_then_cosine():
    schedule = Schedule(steps=110, warmup_steps=10, min_ratio=0.1)
    assert [schedule.factor(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert schedule.factor(10) == pytest.approx(1.0)
    assert schedule.factor(60) == pytest.approx(0.55)
    assert schedule.factor(85) == pytest.approx(0.1 + 0.9 * (1 + math.cos(0.75 * math.pi)) / 2)
    assert schedule.factor(110) == pytest.approx(0.1)
    assert schedule.factor(10_000) == pytest.approx(0.1)


def test_the_share_of_a_run_that_is_over_goes_by_steps_or_by_the_clock():
    assert [Schedule(200, 10, 0.1).share(step, 99.0) for step in (0, 50, 200)] == [0, 0.25, 1]
    limited = Schedule(200, 10, 0.1, max_seconds=60.0)
    assert [limited.share(50, elapsed) for elapsed in (0.0, 15.0, 30.0)] == [0.25, 0.25, 0.5]


def test_no_warmup_and_only_warmup():
    assert Schedule(10, 0, 0.5).factor(0) == 1.0
    assert Schedule(10, 10, 0.5).factor(9) == 1.0


def test_the_clock_ends_warmup_and_brings_the_rate_down():
    schedule = Schedule(steps=10**6, warmup_steps=1000, min_ratio=0.1, max_seconds=100.0)
    warmed = 100 * CLOCK_WARMUP_SHARE
    assert schedule.factor(3, warmed / 2) == pytest.approx(0.5)
    assert schedule.factor(3, warmed) == pytest.approx(1.0)
    assert schedule.factor(3, (100 + warmed) / 2) == pytest.approx(0.55)
    assert schedule.factor(3, 100.0) == pytest.approx(0.1)


def test_steps_end_a_run_that_has_time_left():
    schedule = Schedule(steps=10, warmup_steps=0, min_ratio=0.0, max_seconds=1e9)
    assert schedule.factor(10, 1.0) == pytest.approx(0.0)
    assert schedule.out_of_time(1e9) and not schedule.out_of_time(1.0)
    assert not Schedule(10, 0, 0.0).out_of_time(math.inf)


@given(
    steps=st.integers(1, 500),
    warmup=st.integers(0, 500),
    ratio=st.floats(0, 1),
    step=st.integers(0, 600),
    elapsed=st.floats(0, 1000),
)
def test_factors_stay_between_zero_and_one(steps, warmup, ratio, step, elapsed):
    schedule = Schedule(steps, min(warmup, steps), ratio, 300.0)
    factor = schedule.factor(step, elapsed)
    assert 0 <= factor <= 1
    if step >= schedule.warmup_steps:
        assert factor >= ratio * (1 - 1e-12)


def test_from_config_counts_minutes_in_seconds():
    train = TrainConfig(steps=7, warmup_steps=2, min_lr_ratio=0.3, max_minutes=1.5)
    assert Schedule.from_config(train) == Schedule(7, 2, 0.3, 90.0)
    assert Schedule.from_config(TrainConfig()).max_seconds is None
