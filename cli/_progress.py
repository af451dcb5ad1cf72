"""How `ebm train` shows a run: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ebm_wgpu.evaluation import PerplexityReport
from ebm_wgpu.training.callbacks import StartEvent, StepEvent, TrainerCallback, TrainResult

_PLAIN_LINE_SECONDS = 10.0


class TrainingDisplay(TrainerCallback):
    """Shows progress, losses, speed and validation perplexity while it is entered."""

    def __init__(self, console: Console) -> None:
        """Show on `console`."""
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=None, status="")
        self._start: StartEvent | None = None
        self._next_line = 0.0

    def __enter__(self) -> TrainingDisplay:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last state on the screen."""
        self._progress.stop()

    def on_start(self, event: StartEvent) -> None:
        """Say what is trained on what."""
        self._start = event
        origin = "from the start" if event.step == 0 else f"from step {event.step:,}"
        self._console.print(
            f"{event.parameters:,} parameters, {event.train_tokens:,} training tokens, "
            f"{origin}, kernels on {event.device}",
            highlight=False,
        )

    def on_step(self, event: StepEvent) -> None:
        """Advance by steps or by time, whichever ends the run first."""
        assert self._start is not None
        done = event.step / self._start.steps
        if self._start.max_seconds is not None:
            done = max(done, event.elapsed / self._start.max_seconds)
        status = (
            f"loss {event.loss:.3f}  token {event.parts['token']:.3f}  "
            f"{event.tokens_per_second:,.0f} tokens/s"
        )
        self._progress.update(
            self._task,
            description=f"step {event.step:,}",
            total=1.0,
            completed=min(done, 1.0),
            status=status,
        )
        if not self._console.is_terminal and event.elapsed >= self._next_line:
            self._next_line = event.elapsed + _PLAIN_LINE_SECONDS
            line = f"step {event.step} {status} ({min(done, 1.0):.0%}, {event.elapsed:.0f} s)"
            self._console.print(line, highlight=False, soft_wrap=True)

    def on_eval(self, step: int, report: PerplexityReport) -> None:
        """Print the validation perplexity."""
        self._console.print(
            f"step {step:,}: validation perplexity {report.token_perplexity:,.1f} per token, "
            f"{report.word_perplexity:,.1f} per word",
            highlight=False,
            soft_wrap=True,
        )

    def on_checkpoint(self, step: int, path: Path, best: bool) -> None:
        """Print where a best checkpoint went."""
        if best:
            self._console.print(
                f"step {step:,}: best so far, {path}", highlight=False, soft_wrap=True
            )

    def on_end(self, result: TrainResult) -> None:
        """Print perplexity before and after."""
        self._progress.update(self._task, completed=1.0, total=1.0)
        self._console.print(
            f"{result.reason} at step {result.step:,} after {result.elapsed / 60:.1f} minutes",
            highlight=False,
        )
        first, last = result.first_valid, result.last_valid
        if first is not None and last is not None:
            self._console.print(
                "validation perplexity: "
                f"{first['token_perplexity']:,.1f} before, {last['token_perplexity']:,.1f} after "
                f"per token; {first['word_perplexity']:,.1f} before, "
                f"{last['word_perplexity']:,.1f} after per word",
                highlight=False,
                soft_wrap=True,
            )
