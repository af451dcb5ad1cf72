"""What is wrong with a run, why that is likely so, and what to do: one function a finding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from ebm_wgpu.diagnosis.evidence import Evidence
from ebm_wgpu.training.alerts import AlertWatch
from ebm_wgpu.training.trends import series
from ebm_wgpu.training.verdicts import SCALES, Rating, Verdict

Severity = Literal["serious", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")
NOTHING = 0.05
"""Share of the unigram entropy explained below which nothing was learned but frequencies."""
LONG_GRADIENT = 5.0
"""Gradient norm over train.grad_clip from which clipping is worth a word."""


@dataclass(frozen=True)
class Finding:
    """Something to know about a run.

    Attributes:
        name: one word or two, the same for every run.
        severity: serious where the run is lost or damaged, warning where it learns less than it
            could, note where nothing is wrong.
        evidence: what was seen, with figures.
        cause: what that is likely due to.
        remedy: what to do.
    """

    name: str
    severity: Severity
    evidence: str
    cause: str
    remedy: str


Rule = Callable[[Evidence, Verdict], Iterator[Finding]]

_SAYS_MORE = MappingProxyType(
    {
        "perplexity-worsening": {"divergence", "overfitting", "worsening"},
        "no-convergence": {"divergence", "nothing learned"},
        "gradient-norm": {"clipped gradients"},
        "dead-splats": {"dead splats"},
        "exploding-splats": {"exploding splats"},
        "kappa-limit": {"kappa limit"},
        "not-finite": {"rolled back"},
    }
)
"""Alerts of the trainer, and the findings that tell the same with more evidence."""


def find(evidence: Evidence, verdict: Verdict) -> tuple[Finding, ...]:
    """All findings about a run, the serious ones first.

    Alerts of training that stand at the end of the metrics are findings too.
    """
    found = [finding for rule in RULES for finding in rule(evidence, verdict)]
    names = {finding.name for finding in found}
    for alert in AlertWatch(evidence.records).active.values():
        if names.isdisjoint(_SAYS_MORE.get(alert.name, ())):
            severity: Severity = "serious" if alert.severity == "error" else "warning"
            name = alert.name.replace("-", " ")
            found.append(Finding(name, severity, alert.seen, alert.cause, alert.remedy))
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def _damage(evidence: Evidence, verdict: Verdict) -> Iterator[Finding]:
    for state in evidence.checkpoints:
        if state.damage:
            yield Finding(
                "damaged checkpoint",
                "serious",
                state.damage,
                "a file was changed, cut short or deleted after it was written",
                "delete the checkpoint, or restore it from a copy; others of the run can be used",
            )
    if evidence.records and not evidence.checkpoints:
        yield Finding(
            "no checkpoint",
            "warning",
            f"{len(evidence.records)} lines of metrics, but no checkpoint",
            "the run was killed before its first checkpoint, or checkpoints were deleted",
            "start it again; a smaller train.checkpoint_every loses less",
        )


def _divergence(evidence: Evidence, verdict: Verdict) -> Iterator[Finding]:
    if verdict.trend != "diverging":
        return
    train = evidence.config.train
    causes = ["steps too large for the curvature of the loss"]
    if (norms := _late_norms(evidence)) and max(norms) > LONG_GRADIENT * train.grad_clip:
        causes.append(f"gradient norms up to {max(norms):.3g}, clipped to {train.grad_clip:g}")
    if train.warmup_steps < 100:
        causes.append(f"a warm-up of only {train.warmup_steps} steps")
    best = next((state.step for state in evidence.checkpoints if "best" in state.names), None)
    keep = "no best checkpoint is left" if best is None else f"checkpoint {best} is the best so far"
    yield Finding(
        "divergence",
        "serious",
        verdict.reasons[0],
        "; ".join(causes),
        f"start a new run with train.lr={train.lr / 3:.2g} and train.lr_splats="
        f"{train.lr_splats / 3:.2g} (were {train.lr:g} and {train.lr_splats:g}); {keep}",
    )


def _rollbacks(evidence: Evidence, verdict: Verdict) -> Iterator[Finding]:
    events = [record["rollback"] for record in evidence.records if "rollback" in record]
    if events and verdict.trend != "diverging":
        last, train = events[-1], evidence.config.train
        yield Finding(
            "rolled back",
            "warning",
            f"{last['figure']} was not finite at step {last['at']}, and the run went back to step "
            f"{last['to']} with {last['rate_scale']:g} times its rates",
            "learning rates too high for this model",
            f"a new run with train.lr={train.lr * last['rate_scale']:.2g} loses no steps to this",
        )


def _overfitting(evidence: Evidence, verdict: Verdict) -> Iterator[Finding]:
    valid = _validation(evidence)
    train = _finite(series(evidence.records, "token"))
    if verdict.trend in ("diverging", "converging") or len(valid) < 3 or len(train) < 3:
        return
    best_step, best = min(valid, key=lambda point: point[1])
    last_step, last = valid[-1]
    then = [value for step, value in train if step <= best_step][-5:]
    now = [value for step, value in train if step > best_step][-5:]
    if last > 1.01 * best and then and now and np.mean(now) < np.mean(then):
        yield Finding(
            "overfitting",
            "warning",
            f"since step {best_step} the validation loss rose from {best:.3f} to {last:.3f} while "
            f"the training loss fell to {np.mean(now):.3f}",
            "the model learns the training text by heart: it is large for this text, or saw it too "
            "often",
            f"use the best checkpoint, of step {best_step}; train with more text, dropout, a "
            "larger train.weight_decay or a smaller model",
        )
    elif last > 1.01 * best:
        yield Finding(
            "worsening",
            "warning",
            f"the validation loss is {last:.3f} at step {last_step}, at its best, at step "
            f"{best_step}, it was {best:.3f}, and the training loss does not fall either",
            "the learning rate is too high for this stage of the run",
            f"use the best checkpoint, of step {best_step}; a new run with a lower train.lr or "
            "train.min_lr_ratio goes further",
        )


def _stage(evidence: Evidence, verdict: Verdict) -> Iterator[Finding]:
    """How far along a run is that goes well."""
    planned, step = evidence.config.train.steps, evidence.step
    rated = {rating.figure: rating for rating in verdict.ratings}
    explained = rated.get("explained_entropy")
    if verdict.trend == "converging":
        done = f"step {step:,} of {planned:,}"
        more = (
            f"train.steps={2 * planned}" if step >= planned else "train.max_minutes=MINUTES or none"
        )
        yield Finding(
            "still learning",
            "note",
            f"{verdict.reasons[0]}, at {done}",
            "training stopped before the model had learned what it can",
            f"go on: ebm train --resume --run {evidence.path} {more}",
        )
    elif verdict.trend == "stable" and explained and _mediocre(explained):
        yield Finding(
            "plateau",
            "warning",
            f"{verdict.reasons[0]}; {explained.value:.0%} of the unigram entropy is explained",
            "the model is too small, or its learning rate has run out or is too low",
            "try a larger model (more splats, a larger dim), a higher train.lr, or a longer "
            "schedule",
        )
    if explained and explained.value < NOTHING and verdict.trend != "diverging" and step > 0:
        losses = [value for _, value in _finite(series(evidence.records, "token"))]
        before = [*series(evidence.records, "unigram_nll"), *_validation(evidence)][0][1]
        wild = bool(losses) and max(losses) > 1.5 * before
        yield Finding(
            "nothing learned",
            "warning",
            f"{max(explained.value, 0):.1%} of the unigram entropy is explained after {step:,} "
            "steps: it knows little more than how frequent tokens are",
            f"the learning rate is far too high: the training loss went up to {max(losses):.3g}"
            if wild
            else "training has hardly begun, or the learning rate is far too low or too high",
            "start a new run with train.lr and train.lr_splats ten times lower"
            if wild
            else "train longer; if nothing changes, try train.lr three times higher or lower",
        )


def _gradients(evidence: Evidence, verdict: Verdict) -> Iterator[Finding]:
    norms, clip = _late_norms(evidence), evidence.config.train.grad_clip
    if not norms or verdict.trend == "diverging" or np.median(norms) < LONG_GRADIENT * clip:
        return
    yield Finding(
        "clipped gradients",
        "warning",
        f"the gradient norm is {np.median(norms):.3g} of late, and train.grad_clip={clip:g}",
        "a few large gradients, of parameters or batches, leave little of a step to the others",
        f"lower train.lr, or raise train.grad_clip to {float(np.median(norms)):.2g}",
    )


def _experts(evidence: Evidence, verdict: Verdict) -> Iterator[Finding]:
    balance = _last(evidence, "balance")
    if balance is not None and balance > 1.5:
        yield Finding(
            "uneven experts",
            "warning",
            f"the load-balancing loss of the experts is {balance:.2f}; 1 is even",
            "the router sends most tokens to few experts",
            f"raise train.balance_weight, now {evidence.config.train.balance_weight:g}",
        )


def _gate(evidence: Evidence, verdict: Verdict) -> Iterator[Finding]:
    gate = _last(evidence, "gate")
    if gate is None or 0.01 <= gate <= 0.9:
        return
    unused, used = ("splats", "decoder") if gate < 0.5 else ("decoder", "splats")
    yield Finding(
        "closed gate",
        "warning",
        f"the gate gives the splats' own readout {gate:.1%} of the probability",
        f"the {used} predicted better early on, so that the {unused} got no gradient",
        "raise train.latent_weight and train.lr_splats"
        if unused == "splats"
        else "raise train.lr, or give the decoder more experts",
    )


def _matching(evidence: Evidence, verdict: Verdict) -> Iterator[Finding]:
    for rating in verdict.ratings:
        if rating.figure == "score_matching" and rating.quality in ("fair", "bad"):
            yield Finding(
                "score matching",
                "warning",
                f"{SCALES[rating.figure].label}: {rating.value:.0%}; the aim is above 90%",
                "concentrations do not fit the spread of the latents, or latents lie between "
                "splats",
                "train longer, add splats, or set train.dsm_weight=0.1",
            )


def _speed(evidence: Evidence, verdict: Verdict) -> Iterator[Finding]:
    speed = [value for _, value in _finite(series(evidence.records, "tokens_per_second"))]
    if len(speed) < 12:
        return
    quarter = len(speed) // 4
    first, last = float(np.median(speed[:quarter])), float(np.median(speed[-quarter:]))
    if last < 0.6 * first:
        yield Finding(
            "slower",
            "warning",
            f"{last:,.0f} tokens a second of late, {first:,.0f} at first",
            "other programs use the machine, it throttles, or the number of splats has grown",
            "look at what else runs; limit the number of splats",
        )


def _splats(evidence: Evidence, verdict: Verdict) -> Iterator[Finding]:
    state = evidence.latest
    if state is None or state.splats is None:
        return
    health, model, train = state.splats, evidence.config.model, evidence.config.train
    count = health.count
    if health.dead > 0.2 * count:
        yield Finding(
            "dead splats",
            "warning",
            f"{health.dead:,} of {count:,} splats are never used",
            "they stand for rare tokens or where no context points; they cost time and memory",
            "prune them (ebm splats prune), or train with fewer: a smaller model.n_splats",
        )
    if health.exploding:
        yield Finding(
            "exploding splats",
            "serious",
            f"{health.exploding} of {count:,} splats hold a tenth of all weight or more each, the "
            f"largest {health.largest_share:.0%}",
            "the rate of the splats is too high, so that one of them swallows the others' data",
            f"lower train.lr_splats, now {train.lr_splats:g}, and go on from an earlier checkpoint",
        )
    more = "lower train.lr_splats, or use more splats: wide ones hardly tell tokens apart"
    limits = (
        (
            "kappa_max",
            health.at_kappa_max,
            0.1,
            model.kappa_max,
            "sharper",
            "raise model.kappa_max",
        ),
        ("kappa_min", health.at_kappa_min, 0.5, model.kappa_min, "wider", more),
    )
    for name, share, bound, limit, wish, remedy in limits:
        if share > bound and model.kappa_min < model.kappa_max:
            yield Finding(
                "kappa limit",
                "warning",
                f"{share:.0%} of the splats have model.{name}={limit:g}",
                f"the data wants {wish} splats than the limit allows",
                remedy,
            )
    if 0 < health.effective_use < 0.05 * count:
        yield Finding(
            "concentrated use",
            "warning",
            f"the use of {count:,} splats is as concentrated as that of "
            f"{health.effective_use:,.0f} equal ones",
            "most contexts choose the same few splats",
            "train longer, or raise model.context_scale_init so that contexts choose more sharply",
        )
    if health.duplicates > 0.1:
        yield Finding(
            "duplicate splats",
            "note",
            f"{health.duplicates:.0%} of the splats have a twin of the same token and direction",
            "more splats than the text has meanings for, or they collapsed onto each other",
            "merge them (ebm splats merge or prune), or use a smaller model.n_splats",
        )
    first = next((s.splats for s in evidence.checkpoints if s.splats is not None), health)
    if first.active > 0 and health.active < 0.8 * first.active:
        yield Finding(
            "dying splats",
            "warning",
            f"{health.active:,} splats in use, {first.active:,} at the first checkpoint kept",
            "a few splats take over the use of the others",
            f"lower train.lr_splats, now {train.lr_splats:g}",
        )


RULES: tuple[Rule, ...] = (
    _damage,
    _divergence,
    _rollbacks,
    _overfitting,
    _stage,
    _gradients,
    _experts,
    _gate,
    _matching,
    _speed,
    _splats,
)


def _mediocre(explained: Rating) -> bool:
    return explained.quality in ("fair", "bad") and explained.value >= NOTHING


def _validation(evidence: Evidence) -> list[tuple[int, float]]:
    return _finite(series(evidence.records, "valid", "nll_per_token"))


def _finite(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in points if math.isfinite(value)]


def _last(evidence: Evidence, name: str) -> float | None:
    points = _finite(series(evidence.records, name))
    return points[-1][1] if points else None


def _late_norms(evidence: Evidence) -> list[float]:
    """Gradient norms before clipping, of the later half of the lines of metrics."""
    norms = [value for _, value in series(evidence.records, "grad_norm")]
    return norms[len(norms) // 2 :]
