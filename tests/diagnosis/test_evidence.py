"""What is gathered from run folders: steps, damage, and what moved between checkpoints."""

import math

import numpy as np
import pytest

from ebm_wgpu.diagnosis.evidence import gather
from ebm_wgpu.errors import CheckpointError

from .conftest import losses, splats


def turned(degrees: float):
    """A store whose directions are all turned by an angle, in a plane of each."""
    store, rng = splats(), np.random.default_rng(5)
    mu = store.mu.astype(np.float64)
    across = rng.standard_normal(mu.shape)
    across -= (across * mu).sum(1, keepdims=True) * mu
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    angle = math.radians(degrees)
    store.mu[:] = math.cos(angle) * mu + math.sin(angle) * across
    return store


def test_checkpoints_are_compared_with_those_before(plant):
    run = plant(losses([6.0, 5.0, 4.0]), {50: splats(), 80: turned(3.0), 100: turned(3.0)}, best=80)
    first, second, third = gather(run.path).checkpoints
    assert (first.step, first.names, first.moved, first.changed) == (50, (), None, None)
    assert second.names == ("best",)
    assert third.names == ("last",)
    assert second.moved == pytest.approx(3, rel=1e-4)
    assert third.moved == pytest.approx(0, abs=1e-4)
    # Four weights of 1.0, 1.1, 1.2; the whole numbers beside them do not count.
    assert second.changed == pytest.approx(0.1 / 1.0, rel=1e-6)
    assert third.changed == pytest.approx(0.1 / 1.1, rel=1e-6)


def test_histograms_hold_every_splat(plant):
    use = np.arange(60) * 1.0
    run = plant(losses([6.0, 5.0]), {50: splats(frequency=use)})
    spreads = gather(run.path).latest.spreads
    assert {name: sum(spread.counts) for name, spread in spreads.items()} == {
        "kappa": 60, "log10 weight": 60, "log10 use": 59,
    }  # fmt: skip
    assert spreads["log10 use"].edges[-1] == pytest.approx(math.log10(59 / use.sum() * 60))
    assert spreads["log10 weight"].edges[0] == pytest.approx(-0.5)


def test_a_family_without_splats_has_checkpoints_all_the_same(plant):
    evidence = gather(plant(losses([6.0, 5.0]), {20: None, 50: None}, family="nano").path)
    assert [state.splats for state in evidence.checkpoints] == [None, None]
    assert evidence.checkpoints[1].changed == pytest.approx(0.1)
    assert evidence.checkpoints[1].moved is None


def test_a_checkpoint_is_where_the_run_is_looked_at(plant):
    run = plant(losses([6.0, 5.0, 4.0]), {50: splats(), 100: splats()})
    evidence = gather(run.checkpoint_path(50))
    assert [state.step for state in evidence.checkpoints] == [50]
    assert max(record["step"] for record in evidence.records) == 50
    assert (evidence.step, evidence.elapsed) == (50, 25)
    assert gather(run.path).step == 100


def test_a_damaged_checkpoint_is_evidence_and_not_compared_with(plant):
    run = plant(losses([6.0, 5.0, 4.0]), {50: splats(), 80: splats(), 100: splats()})
    (run.checkpoint_path(80) / "splats.h5").unlink()
    (run.checkpoints / "best.json").write_text("nonsense")
    _, damaged, last = gather(run.path).checkpoints
    assert "splats.h5 cannot be read" in damaged.damage
    assert last.changed is None
    assert gather(run.path).latest is not None


def test_what_is_no_run_is_an_error(tmp_path, plant):
    with pytest.raises(CheckpointError, match="is no run folder"):
        gather(tmp_path)
    run = plant(losses([6.0, 5.0]))
    (run.path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        gather(run.path)
