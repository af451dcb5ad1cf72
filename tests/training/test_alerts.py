import math
import re

import numpy as np
import pytest

from ebm_wgpu.training.alerts import QUIET, RULES, AlertWatch

LINES = 120
RNG = np.random.default_rng(3)
NOISE = RNG.standard_normal(LINES)
RAMP = np.linspace(0, 1, LINES)
SPLATS = {
    "count": 1000,
    "active": 900,
    "effective": 400.0,
    "at_kappa_min": 0.0,
    "at_kappa_max": 0.01,
}


def lines(change=lambda i: {}, splats=lambda i: {}):
    """A run in good health, as `change` and `splats` change line i of it."""
    records = [{"step": 0, "valid": {"nll_per_token": 6.0}}]
    for i in range(LINES):
        record = {
            "step": 10 * (i + 1),
            "token": 6 - 3 * RAMP[i] + 0.05 * NOISE[i],
            "energy": -80 - 20 * RAMP[i] + 0.5 * NOISE[i],
            "grad_norm": 1 + 0.2 * abs(NOISE[i]),
            "splats": {**SPLATS, **splats(i)},
            "soc": {"rate": 0.2 * math.exp(-3 * RAMP[i])},
            "disk": {"free": 10**10, "checkpoint": 10**7},
        }
        if i % 10 == 9:
            record["valid"] = {"nll_per_token": 6 - 2 * RAMP[i]}
        records.append({**record, **change(i)})
    return records


def late(value):
    """What a line has from two thirds of the run on."""
    return lambda i: value(i) if i >= 80 else {}


def valid_rises(i):
    return {"valid": {"nll_per_token": 3.0 + 0.1 * (i - 60)}} if i % 10 == 9 and i > 60 else {}


PLANTED = {
    "energy-rising": (lines(lambda i: {"energy": -80 + 5 * RAMP[i] + 0.2 * NOISE[i]}), "nats over"),
    "soc-too-fast": (lines(lambda i: {"soc": {"rate": 5.0}}), "every hundred steps"),
    "perplexity-worsening": (lines(valid_rises), "at its best it was"),
    "no-convergence": (
        lines(lambda i: {"token": 6 + 0.05 * NOISE[i]}),
        "nats and was 5.989 at first",
    ),
    "dead-splats": (lines(splats=late(lambda i: {"active": 30})), "only 30 of 1,000 splats"),
    "exploding-splats": (lines(splats=late(lambda i: {"effective": 3.0})), "weigh as much as 3"),
    "kappa-limit": (lines(splats=late(lambda i: {"at_kappa_max": 0.4})), "40% .*model.kappa_max"),
    "gradient-norm": (lines(lambda i: {"grad_norm": 40.0} if i == 90 else {}), "jumped to 40"),
    "disk-space": (
        lines(late(lambda i: {"disk": {"free": 2 * 10**7, "checkpoint": 10**7}})),
        "20 MB are free and a checkpoint takes 10 MB",
    ),
    "not-finite": (
        lines(
            lambda i: (
                {"rollback": {"figure": "loss", "at": 505, "to": 500, "rate_scale": 0.5}}
                if i == 50
                else {}
            )
        ),
        "loss was not finite at step 505; the run went back to step 500 at 0.5 times",
    ),
}


def raised(records):
    watch = AlertWatch()
    return [alert for record in records for alert in watch.update(record)]


def test_every_rule_is_planted():
    assert set(PLANTED) == {rule.name for rule in RULES}


def test_a_healthy_run_raises_nothing():
    assert raised(lines()) == []


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_series_raises_its_alert_and_no_other(name):
    records, words = PLANTED[name]
    alerts = raised(records)
    assert {alert.name for alert in alerts} == {name}
    assert re.search(words, alerts[0].line)
    assert alerts[0].cause in alerts[0].line
    assert alerts[0].remedy in alerts[0].line
    assert "\n" not in alerts[0].line


@pytest.mark.parametrize(
    ("change", "splats", "name"),
    [
        (lambda i: {"soc": {"rate": 0.05 + 0.2 * RAMP[i]}}, lambda i: {}, "soc-too-fast"),
        (lambda i: {"grad_norm": 300.0 + NOISE[i]}, lambda i: {}, "gradient-norm"),
        (lambda i: {}, lambda i: {"at_kappa_min": 0.7}, "kappa-limit"),
    ],
)
def test_rules_with_two_sides_see_both(change, splats, name):
    assert {alert.name for alert in raised(lines(change, splats))} == {name}


def test_an_alert_is_raised_once_while_it_lasts_and_again_after_a_quiet_time():
    def low(i):
        return {"disk": {"free": 1, "checkpoint": 10}} if i in (*range(20, 40), 45, 90) else {}

    steps = [alert.step for alert in raised(lines(low))]
    assert 45 - 40 < QUIET < 90 - 46
    assert steps == [10 * 21, 10 * 91]


def test_active_alerts_end_when_their_reason_does():
    watch = AlertWatch()
    for record in lines(lambda i: {"disk": {"free": 1, "checkpoint": 10}} if i == 30 else {}):
        watch.update(record)
        assert set(watch.active) == ({"disk-space"} if record["step"] == 310 else set())


@pytest.mark.parametrize("name", PLANTED)
def test_a_watch_that_begins_in_the_middle_knows_what_was(name):
    records, _ = PLANTED[name]
    whole = AlertWatch()
    for record in records[:70]:
        whole.update(record)
    resumed = AlertWatch(records[:70])
    for record in records[70:]:
        assert resumed.update(record) == whole.update(record)


def test_lines_without_splats_energy_and_soc_are_no_obstacle():
    bare = [{"step": i, "loss": 3.0, "token": 3.0 - i / 100, "grad_norm": None} for i in range(90)]
    assert raised(bare) == []
