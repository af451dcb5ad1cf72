"""Alerts: what goes wrong in a run, seen in its lines of metrics, with its cause and its remedy.

A rule looks at the recent lines and says what it sees, or nothing. `AlertWatch` raises an alert
when a rule begins to see something, and not again until it has seen nothing for a while.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ebm_wgpu.training.trends import fit_line, series

Severity = Literal["warning", "error"]
Record = Mapping[str, Any]

WINDOW = 200
"""Lines of metrics a rule can look back on."""
RECENT = 40
"""Lines a trend is looked for in; with half of them a rule begins to look."""
QUIET = 20
"""Lines without a finding after which an alert may be raised again."""
GRADIENT_SPIKE = 10.0
"""Gradient norm over its recent median that counts as a spike."""
GRADIENT_LARGE = 100.0
"""Gradient norm, as a median, from which nearly all of every step is clipped away."""
DISK_CHECKPOINTS = 3
"""Checkpoints that must still fit on the disk."""


@dataclass(frozen=True)
class Course:
    """What a rule looks at.

    Attributes:
        lines: the recent lines of metrics.
        evaluations: every line with a "valid" part.
        first: the first training lines of the run.
    """

    lines: Sequence[Record]
    evaluations: Sequence[Record]
    first: Sequence[Record]

    def recent(self, *names: str) -> list[float]:
        """Values of the last `RECENT` lines under a path, those that are finite."""
        values = [value for _, value in series(list(self.lines)[-RECENT:], *names)]
        return [value for value in values if math.isfinite(value)]


@dataclass(frozen=True)
class Alert:
    """Something is wrong.

    Attributes:
        name: of its rule.
        severity: "error" where the run cannot go on as it is.
        step: optimiser step at which it was seen.
        seen: what was seen, with figures.
        cause: what usually leads to it.
        remedy: what to do.
    """

    name: str
    severity: Severity
    step: int
    seen: str
    cause: str
    remedy: str

    @property
    def line(self) -> str:
        """All of it in one line."""
        return f"{self.seen}; likely {self.cause}: {self.remedy}"


@dataclass(frozen=True)
class Rule:
    """One kind of alert.

    Attributes:
        name: as lines of metrics and tests give it.
        severity: of its alerts.
        find: what it sees in the course of a run, or none.
        cause: what usually leads to it.
        remedy: what to do.
    """

    name: str
    severity: Severity
    find: Callable[[Course], str | None]
    cause: str
    remedy: str

    def alert(self, step: int, seen: str) -> Alert:
        """An alert of this rule."""
        return Alert(self.name, self.severity, step, seen, self.cause, self.remedy)


def _energy_rising(course: Course) -> str | None:
    energy = course.recent("energy")
    if len(energy) < RECENT // 2:
        return None
    line = fit_line(energy)
    if not line.rises or line.change <= max(0.01 * abs(line.level), 0.1):
        return None
    return f"the energy of the data rose by {line.change:.3g} nats over {len(energy)} lines"


def _soc_too_fast(course: Course) -> str | None:
    rates, counts = course.recent("soc", "rate"), course.recent("splats", "count")
    if len(rates) < RECENT // 2 or not counts:
        return None
    line = fit_line(rates)
    share = 100 * line.level / counts[-1]
    if share > 0.05:
        return f"consolidation adds {share:.1%} of all splats every hundred steps"
    if line.rises and line.change > 0.5 * line.level > 0:
        return f"the rate of consolidation rises, to {rates[-1]:.3g} splats a step"
    return None


def _perplexity_worsening(course: Course) -> str | None:
    losses = [value for _, value in series(course.evaluations, "valid", "nll_per_token")]
    if len(losses) < 3:
        return None
    best = min(losses)
    if min(losses[-2:]) <= best + 0.01 * abs(best):
        return None
    return (
        f"validation perplexity per token is {math.exp(min(losses[-1], 700)):.4g}, at its best it "
        f"was {math.exp(min(best, 700)):.4g}"
    )


def _no_convergence(course: Course) -> str | None:
    first = [value for _, value in series(course.first, "token")]
    now = course.recent("token")
    if len(course.lines) < 2 * RECENT or len(now) < RECENT // 2 or not first:
        return None
    before, after = statistics.fmean(first), statistics.fmean(now)
    if after < 0.97 * before:
        return None
    return f"the loss per token is {after:.4g} nats and was {before:.4g} at first"


def _dead_splats(course: Course) -> str | None:
    active, count = course.recent("splats", "active"), course.recent("splats", "count")
    if len(active) < RECENT // 2 or not count or max(active[-5:]) >= 0.05 * count[-1]:
        return None
    return f"only {active[-1]:,.0f} of {count[-1]:,.0f} splats are used"


def _exploding_splats(course: Course) -> str | None:
    effective, count = course.recent("splats", "effective"), course.recent("splats", "count")
    if not effective or not count or effective[-1] >= max(1.5, 0.01 * count[-1]):
        return None
    return f"{count[-1]:,.0f} splats weigh as much as {effective[-1]:.3g}"


def _kappa_limit(course: Course) -> str | None:
    for limit, least in (("at_kappa_max", 0.1), ("at_kappa_min", 0.5)):
        share = course.recent("splats", limit)
        if share and share[-1] > least:
            name = limit.removeprefix("at_")
            return f"{share[-1]:.0%} of the splats are at model.{name}"
    return None


def _gradient_norm(course: Course) -> str | None:
    norms = course.recent("grad_norm")
    if len(norms) < RECENT // 2:
        return None
    median = statistics.median(norms[:-1])
    if norms[-1] > GRADIENT_SPIKE * median > 0:
        return f"the gradient norm jumped to {norms[-1]:.3g}, its median is {median:.3g}"
    if median > GRADIENT_LARGE:
        return f"the gradient norm stays at {median:.3g}"
    return None


def _disk_space(course: Course) -> str | None:
    free, size = course.recent("disk", "free"), course.recent("disk", "checkpoint")
    if not free or not size or free[-1] >= DISK_CHECKPOINTS * size[-1]:
        return None
    return f"{free[-1] / 1e6:,.0f} MB are free and a checkpoint takes {size[-1] / 1e6:,.0f} MB"


def _rolled_back(course: Course) -> str | None:
    event = course.lines[-1].get("rollback") if course.lines else None
    if event is None:
        return None
    return (
        f"{event['figure']} was not finite at step {event['at']}; the run went back to step "
        f"{event['to']} at {event['rate_scale']:g} times its rates"
    )


RULES: tuple[Rule, ...] = (
    Rule(
        "not-finite",
        "error",
        _rolled_back,
        "learning rates too high for this model",
        "watch it; if it happens again the run ends, and a new one needs a lower train.lr, "
        "train.lr_splats or train.grad_clip",
    ),
    Rule(
        "disk-space",
        "error",
        _disk_space,
        "other files, or many kept checkpoints",
        "make room, or stop and resume with lower train.keep_last and train.keep_best",
    ),
    Rule(
        "energy-rising",
        "warning",
        _energy_rising,
        "learning rates too high, or weights of other loss parts",
        "lower train.lr_splats, or raise train.latent_weight",
    ),
    Rule(
        "perplexity-worsening",
        "warning",
        _perplexity_worsening,
        "overfitting, or a learning rate too high",
        "use the best checkpoint, set train.patience, or train on more text or with a smaller "
        "model",
    ),
    Rule(
        "no-convergence",
        "warning",
        _no_convergence,
        "a learning rate too high or too low",
        "start a run with train.lr three times lower, then one with it three times higher",
    ),
    Rule(
        "gradient-norm",
        "warning",
        _gradient_norm,
        "a batch unlike the others, or rates too high",
        "lower train.lr or train.grad_clip if it goes on",
    ),
    Rule(
        "soc-too-fast",
        "warning",
        _soc_too_fast,
        "a threshold of consolidation too low",
        "raise the threshold or the least distance of new splats",
    ),
    Rule(
        "dead-splats",
        "warning",
        _dead_splats,
        "more splats than the text has to say, or too high a train.lr_splats",
        "lower model.n_splats or train.lr_splats; `ebm splats prune` removes dead ones",
    ),
    Rule(
        "exploding-splats",
        "warning",
        _exploding_splats,
        "weights that run away, train.lr_splats being too high",
        "lower train.lr_splats",
    ),
    Rule(
        "kappa-limit",
        "warning",
        _kappa_limit,
        "a range of concentrations too narrow for this text",
        "widen model.kappa_min to model.kappa_max, or lower train.lr_splats",
    ),
)
"""All alerts there are."""


class AlertWatch:
    """Follows a run line by line and says what is newly wrong.

    Attributes:
        active: alerts whose rules see something now.
    """

    def __init__(self, records: Sequence[Record] = (), rules: Sequence[Rule] = RULES) -> None:
        """Begin after `records`, the lines a resumed run has already."""
        self._rules = rules
        self._lines: deque[Record] = deque(maxlen=WINDOW)
        self._evaluations: list[Record] = []
        self._first: list[Record] = []
        self._quiet: dict[str, int] = {}
        self.active: dict[str, Alert] = {}
        for record in records:
            self.update(record)

    def update(self, record: Record) -> list[Alert]:
        """Take in a line of metrics; the alerts it raises."""
        if record["step"]:
            self._lines.append(record)
        if "valid" in record:
            self._evaluations.append(record)
        if "token" in record and len(self._first) < 5:
            self._first.append(record)
        course = Course(self._lines, self._evaluations, self._first)
        raised = []
        for rule in self._rules:
            seen = rule.find(course)
            if seen is None:
                self.active.pop(rule.name, None)
                self._quiet[rule.name] = self._quiet.get(rule.name, QUIET) + 1
                continue
            alert = rule.alert(int(record["step"]), seen)
            self.active[rule.name] = alert
            if self._quiet.get(rule.name, QUIET) >= QUIET:
                raised.append(alert)
            self._quiet[rule.name] = 0
        return raised
