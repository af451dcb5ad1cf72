"""Planted runs get the findings that were planted, and healthy ones none."""

import math

import numpy as np
import pytest

from ebm_wgpu.diagnosis.diagnose import diagnose

from .conftest import losses, splats

HEALTHY = [6.0, 4.5, 3.6, 3.1, 2.9, 2.81, 2.77, 2.76, 2.758, 2.757]


def found(run) -> dict:
    return {finding.name: finding for finding in diagnose(run.path).findings}


def test_a_healthy_run_has_no_findings(plant):
    run = plant(losses(HEALTHY, balance=1.02, gate=0.2), {400: splats(), 450: splats()}, best=450)
    diagnosis = diagnose(run.path)
    assert diagnosis.findings == ()
    assert (diagnosis.verdict.quality, diagnosis.verdict.trend) == ("excellent", "stable")


def test_a_diverged_run_is_bad_and_diverging(plant):
    run = plant(
        losses([6.0, 4.5, 4.0, 5.5, 7.5, 9.0], grad_norm=lambda step: 0.5 * 1.03**step),
        {100: splats(), 250: splats()}, best=100, lr=0.03, lr_splats=0.6, warmup_steps=5,
    )  # fmt: skip
    diagnosis = diagnose(run.path)
    assert (diagnosis.verdict.quality, diagnosis.verdict.trend) == ("bad", "diverging")
    finding = diagnosis.findings[0]
    assert (finding.name, finding.severity) == ("divergence", "serious")
    assert "a warm-up of only 5 steps" in finding.cause
    assert "gradient norms up to" in finding.cause
    assert "train.lr=0.01 and train.lr_splats=0.2" in finding.remedy
    assert "checkpoint 100 is the best so far" in finding.remedy
    assert "overfitting" not in {finding.name for finding in diagnosis.findings}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_losses_that_are_no_numbers_are_divergence(plant, value):
    diagnosis = diagnose(plant(losses([6.0, 5.0, 4.9, value], token=5.0, loss=5.0)).path)
    assert diagnosis.verdict.trend == "diverging"
    assert "divergence" in {finding.name for finding in diagnosis.findings}


def test_a_half_trained_run_is_told_to_go_on(plant):
    run = plant(losses([6.0, 5.2, 4.7, 4.3, 4.0, 3.8]), {250: splats()}, best=250)
    diagnosis = diagnose(run.path)
    assert diagnosis.verdict.trend == "converging"
    (finding,) = diagnosis.findings
    assert (finding.name, finding.severity) == ("still learning", "note")
    assert "step 250 of 1,000" in finding.evidence
    assert f"ebm train --resume --run {run.path}" in finding.remedy
    done = plant(losses([6.0, 5.2, 4.7, 4.3, 4.0, 3.8]), {250: splats()}, name="done", steps=250)
    assert "train.steps=500" in found(done)["still learning"].remedy


def test_overfitting_is_told_from_a_rate_that_is_too_high(plant):
    valid = [6.0, 4.5, 4.0, 3.9, 3.95, 4.0, 4.1]
    learned = plant(losses(valid, token=lambda step: 5 - step / 100), {300: splats()}, best=300)
    finding = found(learned)["overfitting"]
    assert "since step 150" in finding.evidence
    assert "step 150" in finding.remedy
    both = plant(losses(valid), {300: splats()}, name="both")
    names = found(both)
    assert "worsening" in names
    assert "overfitting" not in names
    # The trainer's own alert would tell the same with less.
    assert "perplexity worsening" not in names


def test_a_plateau_and_a_run_that_learned_nothing(plant):
    flat = [6.0, *[4.4] * 6]
    assert "36%" not in found(plant(losses(flat), {300: splats()}))["plateau"].evidence
    assert "27%" in found(plant(losses(flat), {300: splats()}, name="b"))["plateau"].evidence
    nothing = plant(losses([6.0, 5.99, 5.98, 5.98, 5.98]), {200: splats()}, name="nothing")
    assert "0.3%" in found(nothing)["nothing learned"].evidence
    assert "hardly begun" in found(nothing)["nothing learned"].cause
    assert "plateau" not in found(nothing)
    wild = losses([6.0, 5.99, 5.98, 5.98, 5.98], token=lambda step: 15.0 if step < 30 else 6.0)
    finding = found(plant(wild, {200: splats()}, name="wild"))["nothing learned"]
    assert "far too high: the training loss went up to 15" in finding.cause
    assert "ten times lower" in finding.remedy


@pytest.mark.parametrize(
    ("name", "parts", "evidence"),
    [
        ("uneven experts", {"balance": 1.9}, "1.90"),
        ("closed gate", {"gate": 0.001}, "0.1%"),
        ("closed gate", {"gate": 0.97}, "97.0%"),
        ("clipped gradients", {"grad_norm": 8.0}, "8"),
        ("slower", {"tokens_per_second": lambda step: 100 - step / 6}, "tokens a second"),
        ("energy rising", {"energy": lambda step: -100 + step / 10}, "rose by"),
        ("soc too fast", {"soc": {"rate": 1.0}, "splats": {"count": 50.0}}, "consolidation"),
        ("disk space", {"disk": {"free": 5e6, "checkpoint": 9e6}}, "5 MB are free"),
    ],
)
def test_figures_of_training_that_are_off(plant, name, parts, evidence):
    finding = found(plant(losses(HEALTHY, **parts), {450: splats()}))[name]
    assert evidence in finding.evidence
    assert finding.cause
    assert finding.remedy


def test_score_matching_below_the_aim(plant):
    records = losses(HEALTHY)
    levels = [{"kappa": 1.0, "loss": 0.9, "floor": 0.1, "explained": 0.11}]
    records[-1]["valid"]["score_matching"] = levels
    assert "11%" in found(plant(records, {450: splats()}))["score matching"].evidence


@pytest.mark.parametrize(
    ("name", "changes", "evidence"),
    [
        ("dead splats", {"frequency": np.arange(60) % 2 * 1.0}, "30 of 60"),
        ("exploding splats", {"alpha": np.where(np.arange(60) == 3, 300.0, 1.0)}, "1 of 60"),
        ("kappa limit", {"kappa": 50.0}, "model.kappa_max=50"),
        ("kappa limit", {"kappa": 1.0}, "model.kappa_min=1"),
        ("concentrated use", {"frequency": np.where(np.arange(60) < 2, 1.0, 2e-4)}, "equal ones"),
    ],
)
def test_splats_that_are_ill(plant, name, changes, evidence):
    finding = found(plant(losses(HEALTHY), {450: splats(**changes)}))[name]
    assert evidence in finding.evidence


def test_twins_and_splats_that_die(plant):
    store = splats()
    store.mu[1::2], store.sid[1::2] = store.mu[::2], store.sid[::2]
    assert "100%" in found(plant(losses(HEALTHY), {450: store}))["duplicate splats"].evidence
    dying = splats(frequency=np.where(np.arange(60) < 40, 1.0, 0.0), age=0)
    run = plant(losses(HEALTHY), {400: splats(), 450: dying}, name="dying")
    assert "40 splats in use, 60 at first" in found(run)["dying splats"].evidence.replace(
        "at the first checkpoint kept", "at first"
    )


def test_rollbacks_are_told(plant):
    records = losses(HEALTHY)
    records[20]["rollback"] = {"figure": "loss", "at": 205, "to": 200, "rate_scale": 0.5}
    finding = found(plant(records, {450: splats()}))["rolled back"]
    assert "step 205" in finding.evidence
    assert "train.lr=0.0005" in finding.remedy


def test_damage_comes_first(plant):
    run = plant(losses([6.0, 5.0, 4.5, 4.2]), {100: splats(), 150: splats()}, best=100)
    file = run.checkpoint_path(100) / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    diagnosis = diagnose(run.path)
    first = diagnosis.findings[0]
    assert (first.name, first.severity) == ("damaged checkpoint", "serious")
    assert str(file) in first.evidence
    without = plant(losses([6.0, 5.0, 4.5, 4.2]), name="without")
    assert "no checkpoint" in found(without)
