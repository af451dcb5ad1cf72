import math

import numpy as np
import pytest

from ebm_wgpu.training.verdicts import QUALITIES, SCALES, judge

UNIGRAM = 6.0


def run_of(losses, valid_every=10, energy=None, **last):
    """The metrics of a run with these training losses; validation is a little worse."""
    records = [{"step": 0, "unigram_nll": UNIGRAM, "valid": scores(losses[0])}]
    for step, loss in enumerate(losses, 1):
        record = {"step": step, "loss": loss, "token": loss}
        if energy is not None:
            record["energy"] = energy[step - 1]
        if valid_every and step % valid_every == 0:
            record["valid"] = scores(loss + 0.05)
        records.append(record)
    records[-1] |= last
    return records


def scores(nll):
    nll = nll if math.isfinite(nll) else None
    level = {"kappa": 1.0, "loss": 0.2, "floor": 0.1, "explained": 0.95}
    return {"nll_per_token": nll, "score_matching": [level]}


STEPS = np.arange(1, 121)
NOISE = 0.01 * np.random.default_rng(0).standard_normal(len(STEPS))
FALLING = list(2.5 + 3.5 * np.exp(-STEPS / 50) + NOISE)
SETTLED = list(2.5 + 3.5 * np.exp(-STEPS / 10) + NOISE)
TURNED = list(2.5 + 3.5 * np.exp(-STEPS / 10) + np.maximum(0, STEPS - 60) * 0.05 + NOISE)
OVERFIT = list(2.5 + 3.5 * np.exp(-STEPS / 10) + np.maximum(0, STEPS - 60) * 0.003 + NOISE)


@pytest.mark.parametrize(
    ("records", "quality", "trend", "reason"),
    [
        (run_of(SETTLED), "excellent", "stable", "the validation loss stays at"),
        (run_of(FALLING), "excellent", "converging", "the validation loss still falls"),
        (run_of(FALLING[:60]), "good", "converging", "the validation loss still falls"),
        (run_of(FALLING[:30]), "fair", "converging", "the validation loss still falls"),
        (run_of(FALLING[:10]), "bad", "converging", "the validation loss still falls"),
        (run_of(TURNED), "bad", "diverging", "at its best it was"),
        (run_of(OVERFIT), "excellent", "needs attention", "the validation loss has risen"),
        (run_of([*SETTLED[:-1], math.inf]), "bad", "diverging", "is not finite"),
        ([*run_of(SETTLED), {"step": 121, "failed": "loss is nan"}], "bad", "diverging", "gave up"),
        (run_of(FALLING, 0)[1:], "bad", "converging", "the training loss still falls"),
        (run_of(FALLING, 0)[:1], "bad", "needs attention", "too few lines"),
        ([], "bad", "needs attention", "too few lines"),
    ],
)
def test_planted_runs_get_their_verdict(records, quality, trend, reason):
    verdict = judge(records)
    assert (verdict.quality, verdict.trend) == (quality, trend)
    assert reason in verdict.reasons[0]


def test_a_rising_energy_needs_attention():
    rising = list(-80 + 0.1 * STEPS + NOISE)
    verdict = judge(run_of(SETTLED, energy=rising))
    assert verdict.trend == "needs attention"
    assert "energy of the data rises" in verdict.reasons[0]
    assert judge(run_of(SETTLED, energy=list(-80 - 0.1 * STEPS + NOISE))).trend == "stable"
    assert judge(run_of(SETTLED, energy=list(-80 + NOISE))).trend == "stable"


def test_splats_and_score_matching_are_rated():
    splats = {"count": 100, "active": 15, "coverage": 0.7}
    verdict = judge(run_of(SETTLED, splats=splats))
    found = {rating.figure: (rating.value, rating.quality) for rating in verdict.ratings}
    assert found["active"] == (0.15, "bad")
    assert found["coverage"] == (0.7, "good")
    assert found["score_matching"] == (pytest.approx(0.95), "excellent")
    assert found["explained_entropy"][0] == pytest.approx(
        1 - (SETTLED[-1] + 0.05) / UNIGRAM, abs=1e-12
    )
    # What is worst is said first.
    assert SCALES["active"].label in verdict.reasons[1]


def test_without_a_reference_the_first_score_is_one():
    records = run_of(SETTLED)
    del records[0]["unigram_nll"]
    (entropy,) = (r for r in judge(records).ratings if r.figure == "explained_entropy")
    assert entropy.value == pytest.approx(1 - (SETTLED[-1] + 0.05) / SETTLED[0], abs=1e-12)


@pytest.mark.parametrize("figure", SCALES)
def test_scales_fall_from_excellent_to_bad(figure):
    scale = SCALES[figure]
    bounds = (scale.excellent, scale.good, scale.fair)
    assert list(bounds) == sorted(bounds, reverse=True)
    assert tuple(map(scale.rate, bounds)) == QUALITIES[:3]
    for bound, below in zip(bounds, QUALITIES[1:], strict=True):
        assert scale.rate(np.nextafter(bound, 0)) == below
    assert scale.rate(math.nan) == "bad"
