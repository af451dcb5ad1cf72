import json
import math

import numpy as np
import pytest

from ebm_wgpu.config import apply_overrides
from ebm_wgpu.training.callbacks import TrainerCallback
from ebm_wgpu.training.monitor import Monitor, unigram_nll
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.run_folder import RunFolder
from ebm_wgpu.training.state import TrainingState
from ebm_wgpu.training.stepping import StepOutcome


class Told(TrainerCallback):
    def __init__(self):
        self.alerts = []

    def on_alert(self, alert):
        self.alerts.append(alert)


@pytest.fixture
def watched(tiny, tmp_path, numba_device):
    run, told, data = RunFolder(tmp_path / "run"), Told(), RunData.load(tiny)
    run.create()
    monitor = Monitor(tiny, run, data, numba_device, told)
    monitor.rewind()
    state = TrainingState(tiny, data, numba_device)
    state.initialize()
    return monitor, run, told, state


VALID = {
    "nll_per_token": 2.0, "token_perplexity": 7.4, "word_perplexity": 9.0, "bits_per_byte": 1.0,
}  # fmt: skip


def test_a_line_holds_means_splats_speed_memory_and_disk(tiny, watched):
    monitor, run, _, state = watched
    for loss, seconds in ((1.0, 0.5), (4.0, 1.5)):
        monitor.add(state.progress, StepOutcome({"loss": loss, "grad_norm": 2.0}, 0.1, seconds))
    checkpoint = run.checkpoints / "00000001"
    checkpoint.mkdir()
    (checkpoint / "weights").write_bytes(b"x" * 1234)
    monitor.on_checkpoint(checkpoint)
    line = monitor.line(state, 0.1)
    assert (line["loss"], line["grad_norm"], line["lr"]) == (2.5, 2.0, 0.1)
    tokens = tiny.train.batch_size * tiny.train.accumulation * tiny.data.block_size
    assert line["tokens_per_second"] == tokens / 1.0
    assert line["memory"]["resident"] > 10**7
    assert "device" not in line["memory"]
    assert line["disk"]["checkpoint"] == 1234
    assert line["disk"]["free"] > 0
    splats = line["splats"]
    assert splats["count"] == tiny.model.n_splats >= splats["active"] > 0
    assert 0 < splats["coverage"] <= 1
    assert (state.progress.logged, state.progress.logged_steps) == ({}, 0)


def test_steps_that_were_left_out_have_no_gradient_norm(watched):
    monitor, _, _, state = watched
    for part in ({"grad_norm": 2.0}, {"skipped": 1.0}, {"grad_norm": 4.0}, {"skipped": 1.0}):
        monitor.add(state.progress, StepOutcome({"loss": 1.0, **part}, 0.1, 0.5))
    line = monitor.line(state, 0.1)
    assert (line["skipped"], line["grad_norm"]) == (0.5, 3.0)
    monitor.add(state.progress, StepOutcome({"loss": 1.0, "skipped": 1.0}, 0.1, 0.5))
    assert "grad_norm" not in monitor.line(state, 0.1)


def test_lines_are_json_with_null_for_what_is_no_number(watched):
    monitor, run, _, _ = watched
    record = {"step": 1, "loss": math.inf, "valid": {**VALID, "nll_per_token": math.nan}}
    monitor.write(record)
    (line,) = run.metrics_path.read_text().splitlines()
    found = json.loads(line)
    assert found["loss"] is None
    assert found["valid"]["nll_per_token"] is None


def test_an_alert_is_in_the_line_the_log_and_the_callback(watched):
    monitor, run, told, _ = watched
    low = {"disk": {"free": 5, "checkpoint": 10}}
    monitor.write({"step": 1, **low})
    monitor.write({"step": 2, **low})
    assert [record.get("alerts") for record in run.read_metrics()] == [["disk-space"], None]
    assert [alert.name for alert in told.alerts] == ["disk-space"]
    assert [alert.name for alert in monitor.active] == ["disk-space"]
    assert "error: disk-space: 0 MB are free" in (run.path / "train.log").read_text()


def test_the_history_follows_evaluations_and_rewinding(watched):
    monitor, run, _, _ = watched

    def steps():
        return [e["step"] for e in json.loads(run.history_path.read_text())["evaluations"]]

    assert steps() == []
    monitor.write({"step": 0, "valid": VALID})
    mark = run.sync_metrics()
    monitor.write({"step": 3, "loss": 1.0})
    monitor.write({"step": 4, "loss": 1.0, "valid": VALID})
    assert steps() == [0, 4]
    run.truncate_metrics(mark)
    monitor.rewind()
    assert steps() == [0]


def test_a_rollback_is_told_once(watched):
    monitor, _, told, state = watched
    state.progress.rollback = {"figure": "loss", "at": 7, "to": 5, "rate_scale": 0.5}
    for step in (6, 9):
        monitor.add(state.progress, StepOutcome({"loss": 1.0}, 0.1, 0.5))
        monitor.write({"step": step, **monitor.line(state, 0.1)})
    assert [alert.name for alert in told.alerts] == ["not-finite"]
    assert state.progress.rollback is None


def test_the_unigram_model_is_scored_exactly(tiny):
    data = RunData.load(apply_overrides(tiny, []))
    tokens = data.valid.tokens[:50]
    counts = np.bincount(data.train.tokens, minlength=data.train.vocab_size)
    total = counts.sum() + data.train.vocab_size
    expected = -np.mean([math.log((counts[token] + 1) / total) for token in tokens])
    assert unigram_nll(data, tokens) == pytest.approx(expected, rel=1e-12)
