"""A time limit by a clock that stands still unless told."""

import pytest

from ebm_wgpu.training import time_budget
from ebm_wgpu.training.time_budget import TimeBudget


def test_work_is_allowed_that_ends_within_its_share(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time_budget, "perf_counter", lambda: now)
    budget = TimeBudget(10.0)
    assert budget.limited and (budget.spent, budget.left) == (0, 10)
    assert budget.allows(10) and not budget.allows(10.1)
    now += 4
    assert (budget.spent, budget.left) == (4, 6)
    assert budget.allows(2, share=0.6) and not budget.allows(2.1, share=0.6)
    now += 7
    assert budget.left == 0 and not budget.allows(0)


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_without_a_limit_all_is_allowed(share):
    budget = TimeBudget(None)
    assert not budget.limited and budget.left is None
    assert budget.allows(1e300, share)
