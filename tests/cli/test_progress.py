"""What `ebm train` prints while it trains, with and without a terminal."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from ebm_wgpu.cli._progress import TrainingDisplay
from ebm_wgpu.evaluation.perplexity import PerplexityReport
from ebm_wgpu.training.callbacks import StartEvent, TrainResult

from .test_dashboard import ALERT, event

START = StartEvent(
    5, 200, 1.0, None, 1234, 10_000, 10, "numba", ("train.steps was 9 and is now 200",)
)
REPORT = PerplexityReport(math.log(50) * 10, 10, 5, 40, 8, 4, "mean", 1, 0.0, 0.0)


def shown(terminal: bool, last: dict[str, float | None] | None = None) -> str:
    """Everything a short run puts on a console."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    first = {"token_perplexity": 1234.5, "word_perplexity": 99.0}
    with TrainingDisplay(console, "runs/x") as display:
        display.on_start(START)
        for step in range(6, 12):
            display.on_step(event(step))
        display.on_eval(11, REPORT)
        display.on_checkpoint(11, Path("runs/x/checkpoints/00000011"), True)
        display.on_checkpoint(12, Path("runs/x/checkpoints/00000012"), False)
        display.on_alert(ALERT)
        display.on_end(TrainResult("finished", 12, 90.0, Path("c"), 11, first, last or first))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_events_are_lines(terminal: bool) -> None:
    text = shown(terminal)
    for line in (
        "1,234 parameters, 10,000 training tokens, from step 5, kernels on numba",
        "train.steps was 9 and is now 200",
        "step 11: validation perplexity 50.0 per token, 2,500.0 per word",
        "step 11: best so far, runs/x/checkpoints/00000011",
        "error: step 40: 5 MB are free; likely other files: make room",
        "finished at step 12 after 1.5 minutes",
        "validation perplexity: 1,234.5 before, 1,234.5 after per token; 99.0 before, 99.0 after",
    ):
        assert line in text
    assert "00000012" not in text


def test_without_a_terminal_lines_come_every_ten_seconds_and_nothing_is_drawn() -> None:
    text = shown(terminal=False)
    # Steps take two seconds each: the first one, and the one ten seconds later.
    assert [line.split()[1] for line in text.splitlines() if " tokens/s " in line] == ["6", "11"]
    assert "\x1b" not in text
    assert "╭" not in text


def test_a_terminal_gets_the_live_view() -> None:
    text = shown(terminal=True)
    assert "╭" in text
    assert "model and machine" in text
    assert "tokens/s (" not in text


def test_perplexities_too_large_for_a_number_are_said_so() -> None:
    text = shown(False, {"token_perplexity": 2.5e11, "word_perplexity": None})
    assert "1,234.5 before, 2.5e+11 after per token; 99.0 before, too large after per word" in text
