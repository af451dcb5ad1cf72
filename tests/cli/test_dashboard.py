"""The live view says what the run measured, at any width."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ebm_wgpu.cli._dashboard import SPARK, Dashboard, View, clock, direction, size, sparkline
from ebm_wgpu.training.alerts import Alert
from ebm_wgpu.training.callbacks import StartEvent, StepEvent

SPLATS = {
    "count": 4096, "active": 3901, "coverage": 0.87, "kappa_min": 1.5, "kappa_mean": 5.25,
    "kappa_max": 12.5, "effective": 800.0,
}  # fmt: skip
ALERT = Alert("disk-space", "error", 40, "5 MB are free", "other files", "make room")
VALID = {
    "nll_per_token": math.log(50), "token_perplexity": 50.0, "word_perplexity": 1234.0,
    "bits_per_byte": 1.5, "score_matching": [{"explained": 0.9}, {"explained": 0.7}],
}  # fmt: skip


def event(step: int, **record: Any) -> StepEvent:
    token = 4.0 - step / 100
    line = {
        "step": step, "loss": token + 1, "token": token, "energy": -80.0 - step, "lr": 1e-3,
        "tokens_per_second": 2500.0, "memory": {"resident": 9e8}, "disk": {"free": 8e10}, **record,
    }  # fmt: skip
    parts = {"loss": token + 1, "token": token, "energy": -80.0}
    return StepEvent(step, 2.0 * step, token + 1, parts, 1e-3, 2500.0, line)


def running(steps: int = 40, **record: Any) -> View:
    view = View("runs/nano-1")
    view.start = StartEvent(0, 200, 0.0, None, 10, 10, 10, "numba")
    for step in range(1, steps + 1):
        view.take(event(step, **record))
    view.take_scores(40, VALID)
    return view


def drawn(view: View, width: int = 130) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, no_color=True)
    console.print(Dashboard(view))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


@pytest.mark.parametrize("width", [40, 80, 130, 200])
def test_everything_is_there_at_any_width(width: int) -> None:
    view = running(splats=SPLATS, memory={"resident": 9e8, "device": 2e9})
    view.alerts.append(ALERT)
    text = drawn(view, width)
    assert max(len(line) for line in text.splitlines()) <= width
    words = " ".join(text.replace("│", " ").split())
    for expected in (
        "runs/nano-1", "step 40 of 200", "loss", "4.6", "token", "3.6", "1.00e-03",
        "train perplexity", "36.6", "perplexity per token", "50", "perplexity per word", "1,234",
        "bits per byte 1.5", "score explained 80%", "at step 40", "50 at step 40", "energy",
        "-120", "↓", "3,901 of 4,096", "coverage 87%", "1.5 .. 5.25 .. 12.5",
        "SOC rate 0 splats a step", "2,500 tokens/s", "900.0 MB", "2.0 GB", "80.0 GB",
        "disk-space, step 40:",
    ):  # fmt: skip
        assert expected in words, expected


def test_the_rate_of_consolidation_is_shown_where_there_is_one() -> None:
    assert "0.25 splats a step" in drawn(running(splats=SPLATS, soc={"rate": 0.25}))


def test_the_phase_of_a_curriculum_is_shown() -> None:
    assert "2, temperature 1.4" in drawn(
        running(splats=SPLATS, phase={"number": 2, "temperature": 1.4})
    )


def test_families_without_splats_have_no_rows_of_them() -> None:
    text = drawn(running())
    assert "splats" not in text
    assert "SOC" not in text


def test_a_run_that_has_not_begun_can_be_drawn() -> None:
    assert "step 0 of 0" in drawn(View())


def test_alerts_that_hold_are_told_from_those_that_held() -> None:
    view = running()
    assert "alerts" not in drawn(view)
    view.alerts.append(ALERT)
    assert "△ disk-space" in drawn(view)
    step = event(41)
    view.step = StepEvent(**{**vars(step), "active": (ALERT,)})
    assert "▲ disk-space" in drawn(view)


def test_time_left_is_that_of_steps_or_of_minutes() -> None:
    view = running()
    assert (view.done, view.seconds_left) == (0.2, 320.0)
    assert view.start is not None
    view.start = StartEvent(**{**vars(view.start), "max_seconds": 100.0})
    assert (view.done, view.seconds_left) == (0.8, 20.0)
    # A resumed run counts its own pace only.
    view.start = StartEvent(
        **{**vars(view.start), "max_seconds": None, "step": 30, "elapsed": 40.0}
    )
    assert view.seconds_left == pytest.approx(160 * (80 - 40) / 10)


def test_the_best_evaluation_stays() -> None:
    view = running()
    view.take_scores(50, {**VALID, "nll_per_token": 9.0})
    view.take_scores(60, {**VALID, "nll_per_token": None, "token_perplexity": None})
    assert view.best == (math.log(50), 40)
    assert "50 at step 40" in drawn(view)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60), st.integers(2, 20))
def test_sparklines_span_lowest_to_highest(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == min(width, len(values))
    assert set(line) <= set(SPARK)
    if len(set(line)) > 1:
        assert SPARK[0] in line and SPARK[-1] in line


def test_sparklines_follow_the_values() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == SPARK
    assert sparkline([math.nan, 7, math.inf, 0]) == SPARK[-1] + SPARK[0]
    assert sparkline([3.0]) == ""
    assert sparkline([3.0] * 4) == SPARK[0] * 4


def test_figures_have_their_units() -> None:
    assert [clock(s) for s in (None, 0, 59.9, 3661)] == ["-:--:--", "0:00:00", "0:00:59", "1:01:01"]
    assert [size(b) for b in (500, 2.5e6, 3e9)] == ["0.5 kB", "2.5 MB", "3.0 GB"]
    assert [direction(v) for v in ([1, 2], [1, 2, 3, 4], [4, 3, 2, 1], [1, 1, 1])] == [
        "", "↑", "↓", "→",
    ]  # fmt: skip
