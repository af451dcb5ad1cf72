import json
import os
import signal
import time

import numpy as np
import pytest

from ebm_wgpu.config import apply_overrides
from ebm_wgpu.errors import CheckpointError, DataError
from ebm_wgpu.evaluation.perplexity import evaluate_perplexity
from ebm_wgpu.training.callbacks import TrainerCallback
from ebm_wgpu.training.loading import load_run
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.run_folder import RunFolder
from ebm_wgpu.training.trainer import Trainer


class At(TrainerCallback):
    """Does something to the trainer after a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step(self, event):
        if event.step == self.step:
            self.action()


def test_a_run_learns_and_tells_all_about_it(tiny, trained):
    _, recorder, result = trained
    assert (result.reason, result.step) == ("finished", 24)
    assert recorder.result == result
    assert result.last_valid["nll_per_token"] < result.first_valid["nll_per_token"]
    assert recorder.losses[-1] < recorder.losses[0]
    of = {kind: [s for k, s in recorder.events if k == kind] for kind, _ in recorder.events}
    assert of["start"] == [0] and of["end"] == [24]
    assert of["step"] == list(range(1, 25))
    assert of["eval"] == [0, 8, 16, 24]
    assert sorted(of["best"] + of["checkpoint"]) == sorted({5, 10, 15, 20, 24, *of["best"]})
    assert recorder.events[-2][1] == 24
    assert recorder.start.train_tokens > recorder.start.valid_tokens == tiny.train.eval_tokens
    assert recorder.start.parameters > 0


def test_metrics_have_one_line_a_logged_step(trained):
    run, recorder, _ = trained
    records = run.read_metrics()
    assert [r["step"] for r in records] == [0, 3, 6, 8, 9, 12, 15, 16, 18, 21, 24]
    assert [r["step"] for r in records if "valid" in r] == [0, 8, 16, 24]
    # A line holds the means since the line before.
    assert records[1]["loss"] == pytest.approx(np.mean(recorder.losses[:3]), rel=1e-12)
    assert records[3]["loss"] == pytest.approx(np.mean(recorder.losses[6:8]), rel=1e-12)
    for record in records[1:]:
        assert {"loss", "token", "latent", "balance", "score_matching", "lr", "grad_norm"} <= set(
            record
        )
        assert {"tokens_per_second", "elapsed", "splats"} <= set(record)
        assert record["splats"]["kappa_min"] <= record["splats"]["kappa_max"]
    levels = records[0]["valid"]["score_matching"]
    assert [level["kappa"] for level in levels] == [1.0, 5.0, 20.0]
    assert records[0]["valid"]["word_perplexity"] > records[0]["valid"]["token_perplexity"]


def test_best_is_the_checkpoint_with_the_lowest_loss(tiny, trained, numba_device):
    run, _, result = trained
    evaluated = {
        r["step"]: r["valid"]["nll_per_token"]
        for r in run.read_metrics()
        if r["step"] and "valid" in r
    }
    best = min(evaluated, key=evaluated.get)
    assert (run.pointer("best"), run.pointer("last")) == (best, 24)
    assert result.best_step == best
    assert run.steps() == sorted({best, 20, 24})
    loaded = load_run(run.path, numba_device)
    assert (loaded.step, loaded.config) == (best, tiny)
    valid, _ = RunData.load(tiny, loaded.tokenizer).valid_prefix(tiny.train.eval_tokens)
    start_id = loaded.tokenizer.start_id
    report = evaluate_perplexity(loaded.model, valid, tiny, start_id=start_id)
    assert report.nll_per_token == evaluated[best]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_checkpoint(
    tiny, trained, tmp_path, numba_device, number, model_files
):
    run, _, _ = trained
    handler = signal.getsignal(number)
    interrupt = At(7, lambda: os.kill(os.getpid(), number))
    result = Trainer(tiny, tmp_path / "run", numba_device, [interrupt]).train()
    assert (result.reason, result.step) == ("interrupted", 7)
    assert result.checkpoint.name == "00000007"
    assert signal.getsignal(number) is handler
    result = Trainer(tiny, tmp_path / "run", numba_device, resume=True).train()
    assert result.reason == "finished"
    assert model_files(RunFolder(tmp_path / "run")) == model_files(run)


def test_a_second_signal_is_not_held_back(tiny, tmp_path, numba_device):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Trainer(tiny, tmp_path / "run", numba_device, [At(2, twice)]).train()


def test_a_time_limit_ends_the_run(tiny, tmp_path, numba_device):
    config = apply_overrides(tiny, ["train.steps=1000000", "train.max_minutes=0.0001"])
    result = Trainer(config, tmp_path / "run", numba_device).train()
    assert result.reason == "time limit"
    assert result.checkpoint.is_dir()
    again = Trainer(config, tmp_path / "run", numba_device, resume=True).train()
    assert (again.reason, again.step) == ("time limit", result.step)
    steps = [record["step"] for record in RunFolder(tmp_path / "run").read_metrics()]
    assert steps == sorted(set(steps))


def test_patience_ends_a_run_that_no_longer_improves(tiny, tmp_path, numba_device):
    config = apply_overrides(
        tiny, ["train.lr=1e-9", "train.lr_splats=0", "train.eval_every=2", "train.patience=2"]
    )
    worse = At(3, lambda: trainer.model.bias.data.mul_(-1))
    trainer = Trainer(config, tmp_path / "run", numba_device, [worse])
    result = trainer.train()
    assert (result.reason, result.step, result.best_step) == ("early stop", 6, 2)
    assert result.checkpoint.name == "00000006"
    again = Trainer(config, tmp_path / "run", numba_device, resume=True).train()
    assert (again.reason, again.step) == ("early stop", 6)
    more = apply_overrides(config, ["train.patience=4"])
    result = Trainer(more, tmp_path / "run", numba_device, resume=True).train()
    assert (result.reason, result.step) == ("early stop", 10)


def test_the_best_checkpoints_are_kept(tiny, tmp_path, numba_device):
    config = apply_overrides(
        tiny,
        [
            "train.steps=12", "train.eval_every=2", "train.checkpoint_every=100",
            "train.keep_last=1", "train.keep_best=3", "train.eval_tokens=60",
        ],
    )  # fmt: skip
    Trainer(config, tmp_path / "run", numba_device).train()
    run = RunFolder(tmp_path / "run")
    scores = {
        r["step"]: r["valid"]["nll_per_token"] for r in run.read_metrics() if r["step"] % 2 == 0
    }
    del scores[0]
    best = sorted(scores, key=lambda step: (scores[step], step))[:3]
    assert run.steps() == sorted({*best, 12})
    assert run.pointer("best") == best[0]
    history = json.loads(run.history_path.read_text())["evaluations"]
    assert [entry["step"] for entry in history] == [0, *scores]
    assert [entry["valid_loss"] for entry in history[1:]] == list(scores.values())


def test_averaged_weights_are_scored_saved_and_resumed(tiny, tmp_path, numba_device, model_files):
    config = apply_overrides(tiny, ["train.ema_decay=0.9", "train.steps=12"])
    interrupt = At(7, lambda: os.kill(os.getpid(), signal.SIGINT))
    whole = Trainer(config, tmp_path / "whole", numba_device).train()
    Trainer(config, tmp_path / "run", numba_device, [interrupt]).train()
    Trainer(config, tmp_path / "run", numba_device, resume=True).train()
    assert model_files(RunFolder(tmp_path / "run")) == model_files(RunFolder(tmp_path / "whole"))
    loaded = load_run(tmp_path / "run", numba_device, "last")
    valid, _ = RunData.load(config, loaded.tokenizer).valid_prefix(config.train.eval_tokens)
    report = evaluate_perplexity(loaded.model, valid, config, start_id=loaded.tokenizer.start_id)
    assert report.nll_per_token == whole.last_valid["nll_per_token"]


def test_a_clock_that_jumps_changes_nothing(tiny, tmp_path, numba_device, monkeypatch):
    config = apply_overrides(tiny, ["train.steps=4", "train.max_minutes=60"])
    jumps = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr(time, "time", lambda: float(next(jumps)))
    result = Trainer(config, tmp_path / "run", numba_device).train()
    assert (result.reason, result.step) == ("finished", 4)
    assert 0 < result.elapsed < 60


def test_starting_over_a_run_and_resuming_nothing_are_refused(tiny, copied, tmp_path, numba_device):
    with pytest.raises(CheckpointError, match="holds a run already"):
        Trainer(tiny, copied.path, numba_device).train()
    with pytest.raises(CheckpointError, match="holds no run to resume"):
        Trainer(tiny, tmp_path / "absent", numba_device, resume=True).train()
    assert not (tmp_path / "absent").exists()


def test_two_trainers_in_one_folder_are_refused(tiny, copied, numba_device):
    with copied.lock(), pytest.raises(CheckpointError, match="in use by another process"):
        Trainer(tiny, copied.path, numba_device, resume=True).train()


def test_a_text_that_is_too_short_leaves_no_folder(tiny, tmp_path, numba_device):
    short = tmp_path / "short.txt"
    short.write_text("a b c d\n" * 25)
    config = apply_overrides(tiny, [f"data.dataset={short}", "data.block_size=500"])
    with pytest.raises(DataError, match="block_size"):
        Trainer(config, tmp_path / "run", numba_device).train()
    assert not (tmp_path / "run").exists()


def test_both_devices_give_the_same_losses(tiny, tmp_path, numba_device, wgpu_device, recorder):
    config = apply_overrides(
        tiny,
        ["train.steps=20", "train.accumulation=1", "train.eval_every=20", "train.eval_tokens=24"],
    )
    for device in (numba_device, wgpu_device):
        Trainer(config, tmp_path / device.name, device, [recorder]).train()
    # The devices sum in another order, about 10 roundings (eps 6e-8) a loss; each of the 20 steps
    # hands its own on to the parameters of the next, where they add up.
    first, second = recorder.losses[:20], recorder.losses[20:]
    np.testing.assert_allclose(second, first, rtol=20 * 10 * 6e-8)
