"""The live view of a training run, as rich draws it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ebm_wgpu.training.alerts import Alert
from ebm_wgpu.training.callbacks import StartEvent, StepEvent
from ebm_wgpu.training.history import perplexity
from ebm_wgpu.training.trends import fit_line

SPARK = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 10
COLUMN_WIDTH = 38
KEPT = 240
LARGE = 1e7
"""From here on figures are shown as powers of ten."""
_PART_NAMES = {
    "latent": "latent likelihood",
    "score_matching": "score matching",
    "balance": "expert balance",
    "grad_norm": "gradient norm",
}


@dataclass
class View:
    """What the live view knows of a run.

    Attributes:
        title: the run folder.
        start: how the run began.
        step: the newest step.
        record: the newest line of metrics that has training figures.
        valid: newest evaluation, with its step and the best so far.
        course: recent values of figures, by name.
        alerts: those raised, newest last.
        explained: share of the unigram entropy explained, where known.
    """

    title: str = ""
    start: StartEvent | None = None
    step: StepEvent | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    valid: Mapping[str, Any] | None = None
    valid_step: int = 0
    best: tuple[float, int] | None = None
    course: dict[str, deque[float]] = field(default_factory=dict)
    alerts: deque[Alert] = field(default_factory=lambda: deque(maxlen=3))

    def take(self, event: StepEvent) -> None:
        """Take in a step."""
        self.step = event
        record = event.record
        if record is None:
            return
        self.record = record
        for name, value in record.items():
            if isinstance(value, (int, float)):
                self.course.setdefault(name, deque(maxlen=KEPT)).append(float(value))

    def take_scores(self, step: int, figures: Mapping[str, Any]) -> None:
        """Take in an evaluation."""
        self.valid, self.valid_step = figures, step
        nll = figures["nll_per_token"]
        if nll is not None and (self.best is None or nll < self.best[0]):
            self.best = (nll, step)

    @property
    def done(self) -> float:
        """Share of the run that is over, by steps or by time, whichever ends it first."""
        if self.start is None or self.step is None:
            return 0.0
        done = self.step.step / self.start.steps
        if self.start.max_seconds is not None:
            done = max(done, self.step.elapsed / self.start.max_seconds)
        return min(done, 1.0)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the run ends, if it goes on as fast as since it was started."""
        if self.start is None or self.step is None:
            return None
        taken = self.step.step - self.start.step
        if taken < 1:
            return None
        pace = max(self.step.elapsed - self.start.elapsed, 0.0) / taken
        left = (self.start.steps - self.step.step) * pace
        if self.start.max_seconds is not None:
            left = min(left, self.start.max_seconds - self.step.elapsed)
        return max(left, 0.0)


@dataclass(frozen=True)
class Dashboard:
    """All of the live view, in as many columns as the console has room for.

    Attributes:
        view: what to draw.
    """

    view: View

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw."""
        view = self.view
        sections = (
            _section("loss", _loss_rows(view)),
            _section("validation", _validation_rows(view)),
            _section("model and machine", _state_rows(view)),
        )
        count = max(1, min(len(sections), options.max_width // COLUMN_WIDTH))
        columns = Table.grid(expand=True, padding=(0, 2))
        for _ in range(count):
            columns.add_column(ratio=1)
        for begin in range(0, len(sections), count):
            columns.add_row(*sections[begin : begin + count])
        parts: list[RenderableType] = [_progress(view, count > 1), Text(), columns]
        active = view.step.active if view.step is not None else ()
        if view.alerts or active:
            parts += [Text(), _alerts(view.alerts, active)]
        yield Panel(Group(*parts), title=f"ebm train {view.title}", border_style="blue")


def clock(seconds: float | None) -> str:
    """Seconds as h:mm:ss."""
    if seconds is None:
        return "-:--:--"
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """The course of `values` as `width` characters at most, each the mean of an equal stretch."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    count = min(width, len(finite))
    edges = [round(i * len(finite) / count) for i in range(count + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return SPARK[0] * count
    top = len(SPARK) - 1
    return "".join(SPARK[round((value - low) / (high - low) * top)] for value in means)


def direction(values: Sequence[float]) -> str:
    """An arrow up, down or to the side: recent `values` rise, fall, or are steady."""
    recent = [value for value in values if math.isfinite(value)][-40:]
    if len(recent) < 3:
        return ""
    line = fit_line(recent)
    return "↑" if line.rises else "↓" if line.falls else "→"


def _progress(view: View, wide: bool) -> RenderableType:
    steps = view.start.steps if view.start is not None else 0
    step = view.step.step if view.step is not None else view.start.step if view.start else 0
    elapsed = view.step.elapsed if view.step is not None else 0.0
    where = Text(f"step {step:,} of {steps:,}", style="bold")
    bar = ProgressBar(total=1.0, completed=view.done)
    when = Text(f"{view.done:.0%}  {clock(elapsed)} so far, {clock(view.seconds_left)} left")
    row = Table.grid(expand=True, padding=(0, 2))
    if not wide:
        row.add_row(bar)
        return Group(where, row, when)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True, justify="right")
    row.add_row(where, bar, when)
    return row


def _section(title: str, rows: Iterator[tuple[str, str]]) -> RenderableType:
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", ratio=1, no_wrap=True)
    for name, value in rows:
        table.add_row(name, value)
    return Group(Text(title, style="bold cyan"), table)


def _loss_rows(view: View) -> Iterator[tuple[str, str]]:
    if view.step is None:
        return
    for name, latest in view.step.parts.items():
        if name == "energy":
            continue
        value = view.record.get(name, latest)
        shown = "-" if value is None else f"{value:.4g}"
        course = sparkline(view.course.get(name, ())) if name in ("loss", "token") else ""
        yield _PART_NAMES.get(name, name.replace("_", " ")), f"{course} {shown}".strip()
    yield "learning rate", f"{view.step.lr:.2e}"


def _validation_rows(view: View) -> Iterator[tuple[str, str]]:
    yield "train perplexity", figure(perplexity(view.record.get("token")))
    if view.valid is None:
        return
    yield "perplexity per token", figure(view.valid["token_perplexity"])
    yield "perplexity per word", figure(view.valid["word_perplexity"])
    yield "bits per byte", figure(view.valid["bits_per_byte"])
    levels = view.valid.get("score_matching") or ()
    shares = [level["explained"] for level in levels if level["explained"] is not None]
    if shares:
        yield "score explained", f"{sum(shares) / len(shares):.0%}"
    yield "at step", f"{view.valid_step:,}"
    if view.best is not None:
        yield "best", f"{figure(perplexity(view.best[0]))} at step {view.best[1]:,}"


def _state_rows(view: View) -> Iterator[tuple[str, str]]:
    if "energy" in view.course:
        energy = view.course["energy"]
        yield "energy", f"{sparkline(energy)} {energy[-1]:.4g} {direction(energy)}"
    splats = view.record.get("splats")
    if splats is not None:
        yield "splats active", f"{splats['active']:,} of {splats['count']:,}"
        yield "coverage", f"{splats['coverage']:.0%}"
        yield "kappa", "{kappa_min:.3g} .. {kappa_mean:.3g} .. {kappa_max:.3g}".format(**splats)
        phase = view.record.get("phase")
        if phase is not None:
            yield "phase", f"{phase['number']}, temperature {phase['temperature']:g}"
        rate = view.record.get("soc", {}).get("rate", 0.0)
        yield "SOC rate", f"{rate:.3g} splats a step"
    speed = view.record.get("tokens_per_second")
    if speed is None and view.step is not None:
        speed = view.step.tokens_per_second
    if speed is not None:
        yield "speed", f"{speed:,.0f} tokens/s"
    memory = view.record.get("memory", {})
    if "resident" in memory:
        yield "memory", size(memory["resident"])
    if "device" in memory:
        yield "GPU memory", size(memory["device"])
    if "disk" in view.record:
        yield "disk free", size(view.record["disk"]["free"])


def _alerts(raised: Sequence[Alert], active: Sequence[Alert]) -> RenderableType:
    shown = {alert.name: alert for alert in (*raised, *active)}
    table = Table.grid(padding=(0, 1))
    for alert in shown.values():
        style = "bold red" if alert.severity == "error" else "yellow"
        now = any(alert.name == other.name for other in active)
        table.add_row(
            Text("▲" if now else "△", style=style),
            Text(f"{alert.name}, step {alert.step:,}: {alert.line}", style=style),
        )
    return Panel(table, title="alerts", border_style="yellow")


def size(count: float) -> str:
    """Bytes in the unit that suits them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"


def figure(value: float | None) -> str:
    """A perplexity, short; a dash where it is too large for a number."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if 1000 <= value < LARGE else f"{value:.4g}"
