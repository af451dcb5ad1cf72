"""How `ebm train` shows a run: a live view in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ebm_wgpu.evaluation.perplexity import PerplexityReport
from ebm_wgpu.training.alerts import Alert
from ebm_wgpu.training.callbacks import StartEvent, StepEvent, TrainerCallback, TrainResult

from ._dashboard import LARGE, Dashboard, View, clock

_PLAIN_LINE_SECONDS = 10.0
_REFRESHES_A_SECOND = 2


class TrainingConsole(Console):
    """A console whose reader may go away: the run it tells of goes on without one."""

    def on_broken_pipe(self) -> None:
        """Print no more, where rich would end the process."""
        self.quiet = True
        # Python flushes standard output once more at the end.
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())


class TrainingDisplay(TrainerCallback):
    """Shows progress, losses, perplexities, splats, speed, memory and alerts while it is entered.

    Attributes:
        view: what is shown.
    """

    def __init__(self, console: Console, title: str = "") -> None:
        """Show on `console` the run called `title`."""
        self._console = console
        self.view = View(title)
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                console=console,
                get_renderable=lambda: Dashboard(self.view),
                refresh_per_second=_REFRESHES_A_SECOND,
            )
        self._next_line = 0.0

    def __enter__(self) -> TrainingDisplay:
        """Begin to draw."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._live.stop()

    def on_start(self, event: StartEvent) -> None:
        """Say what is trained on what."""
        self.view.start = event
        origin = "from the start" if event.step == 0 else f"from step {event.step:,}"
        self._print(
            f"{event.parameters:,} parameters, {event.train_tokens:,} training tokens, "
            f"{origin}, kernels on {event.device}"
        )
        for change in event.changes:
            self._print(change)

    def on_step(self, event: StepEvent) -> None:
        """Bring the view up to date; without a terminal, print a line now and then."""
        view = self.view
        view.take(event)
        if self._live is None and event.elapsed >= self._next_line:
            self._next_line = event.elapsed + _PLAIN_LINE_SECONDS
            self._print(
                f"step {event.step} loss {event.loss:.3f}  token {event.parts['token']:.3f}  "
                f"{event.tokens_per_second:,.0f} tokens/s ({view.done:.0%}, "
                f"{event.elapsed:.0f} s, {clock(view.seconds_left)} left)"
            )

    def on_eval(self, step: int, report: PerplexityReport) -> None:
        """Show the validation perplexity."""
        self.view.take_scores(step, report.summary())
        self._print(
            f"step {step:,}: validation perplexity {_exact(report.token_perplexity)} per token, "
            f"{_exact(report.word_perplexity)} per word"
        )

    def on_checkpoint(self, step: int, path: Path, best: bool) -> None:
        """Say where a best checkpoint went."""
        if best:
            self._print(f"step {step:,}: best so far, {path}")

    def on_alert(self, alert: Alert) -> None:
        """Say what is wrong, why, and what to do."""
        self.view.alerts.append(alert)
        self._print(
            f"{alert.severity}: step {alert.step:,}: {alert.line}",
            "bold red" if alert.severity == "error" else "yellow",
        )

    def on_end(self, result: TrainResult) -> None:
        """Print perplexity before and after."""
        self._print(
            f"{result.reason} at step {result.step:,} after {result.elapsed / 60:.1f} minutes"
        )
        first, last = result.first_valid, result.last_valid
        if first is not None and last is not None:
            kinds = (
                f"{_exact(first[key])} before, {_exact(last[key])} after per {kind}"
                for kind, key in (("token", "token_perplexity"), ("word", "word_perplexity"))
            )
            self._print(f"validation perplexity: {'; '.join(kinds)}")

    def _print(self, line: str, style: str = "") -> None:
        # A terminal that is gone must not take the run with it.
        with contextlib.suppress(OSError):
            self._console.print(Text(line, style=style), soft_wrap=True)


def _exact(value: float | None) -> str:
    if value is None or not value < math.inf:
        return "too large"
    return f"{value:,.1f}" if value < LARGE else f"{value:.3g}"
