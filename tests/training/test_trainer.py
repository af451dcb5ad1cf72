import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch

from ebm_wgpu.config import apply_overrides
from ebm_wgpu.errors import CheckpointError, ConfigError, DataError, DeviceError, EbmError
from ebm_wgpu.evaluation import evaluate_perplexity
from ebm_wgpu.training.callbacks import CallbackList, TrainerCallback
from ebm_wgpu.training.checkpoints import read_checkpoint
from ebm_wgpu.training.loading import load_run
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.run_folder import RunFolder
from ebm_wgpu.training.schedule import Schedule
from ebm_wgpu.training.trainer import Trainer
from ebm_wgpu.training.verdicts import judge


class Recorder(TrainerCallback):
    def __init__(self):
        self.events, self.losses, self.start, self.result = [], [], None, None

    def on_start(self, event):
        self.events.append(("start", event.step))
        self.start = event

    def on_step(self, event):
        self.events.append(("step", event.step))
        self.losses.append(event.loss)

    def on_eval(self, step, report):
        self.events.append(("eval", step))

    def on_checkpoint(self, step, path, best):
        self.events.append(("best" if best else "checkpoint", step))

    def on_end(self, result):
        self.events.append(("end", result.step))
        self.result = result


class At(TrainerCallback):
    """Does something to the trainer after a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step(self, event):
        if event.step == self.step:
            self.action()


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory, numba_device):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    recorder = Recorder()
    result = Trainer(tiny, folder, numba_device, [recorder]).train()
    return RunFolder(folder), recorder, result


@pytest.fixture
def copied(trained, tmp_path):
    return RunFolder(shutil.copytree(trained[0].path, tmp_path / "run"))


def weights(run, which="last"):
    path = run.checkpoint_path(which)
    return [(path / name).read_bytes() for name in ("splats.h5", "weights.safetensors")]


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


def test_load_run_takes_steps_and_checkpoint_folders(trained, numba_device):
    run, _, _ = trained
    assert load_run(run.path, numba_device, "last").step == 24
    assert load_run(run.path, numba_device, 20).step == 20
    assert load_run(run.checkpoint_path(20), numba_device).step == 20
    with pytest.raises(CheckpointError, match="no checkpoint of step 3"):
        load_run(run.path, numba_device, 3)


def test_a_longer_run_continues_a_shorter_one(tiny, trained, tmp_path, numba_device):
    # All four steps warm up, where the rate does not depend yet on when the run is to end.
    run, _, _ = trained
    short = apply_overrides(tiny, ["train.steps=4"])
    Trainer(short, tmp_path / "run", numba_device).train()
    recorder = Recorder()
    Trainer(tiny, tmp_path / "run", numba_device, [recorder], resume=True).train()
    assert recorder.start.step == 4
    resumed = RunFolder(tmp_path / "run")
    assert resumed.read_config() == tiny
    assert weights(resumed) == weights(run)


def test_a_finished_run_resumes_to_its_end(tiny, copied, numba_device):
    before = weights(copied)
    result = Trainer(tiny, copied.path, numba_device, resume=True).train()
    assert (result.reason, result.step) == ("finished", 24)
    assert weights(copied) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_checkpoint(tiny, trained, tmp_path, numba_device, number):
    run, _, _ = trained
    handler = signal.getsignal(number)
    interrupt = At(7, lambda: os.kill(os.getpid(), number))
    result = Trainer(tiny, tmp_path / "run", numba_device, [interrupt]).train()
    assert (result.reason, result.step) == ("interrupted", 7)
    assert result.checkpoint.name == "00000007"
    assert signal.getsignal(number) is handler
    result = Trainer(tiny, tmp_path / "run", numba_device, resume=True).train()
    assert result.reason == "finished"
    assert weights(RunFolder(tmp_path / "run")) == weights(run)


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


class Breaks(TrainerCallback):
    """Fills a parameter with nan after a step, so many times."""

    def __init__(self, step, times, name="bias"):
        self.step, self.times, self.name = step, times, name
        self.trainer = None
        self.alerts, self.steps = [], []

    def on_step(self, event):
        self.steps.append((event.step, event.lr))
        if event.step == self.step and self.times:
            self.times -= 1
            with torch.no_grad():
                getattr(self.trainer.model, self.name).fill_(float("nan"))

    def on_alert(self, alert):
        self.alerts.append(alert.name)


def broken(tiny, folder, device, step, times, name="bias"):
    breaks = Breaks(step, times, name)
    breaks.trainer = Trainer(tiny, folder, device, [breaks])
    return breaks


@pytest.mark.parametrize("name", ["bias", "kappa_logit"])
def test_a_run_that_diverges_twice_gives_up_and_keeps_the_checkpoint(
    tiny, tmp_path, numba_device, name
):
    breaks = broken(tiny, tmp_path / "run", numba_device, 6, 2, name)
    with pytest.raises(EbmError, match=r"loss is nan at step 7; checkpoint 5 is kept: .*train\.lr"):
        breaks.trainer.train()
    assert load_run(tmp_path / "run", numba_device, "last").step == 5
    run = RunFolder(tmp_path / "run")
    records = run.read_metrics()
    assert records[-1] == {"step": 7, "failed": "loss is nan at step 7"}
    assert judge(records).trend == "diverging"
    log = (run.path / "train.log").read_text()
    assert "loss is nan at step 7: back to step 5 at 0.5 times the learning rates" in log
    assert "start a new run with lower train.lr" in log


def test_a_run_that_diverges_once_goes_back_and_on_at_half_the_rate(
    tiny, trained, tmp_path, numba_device
):
    breaks = broken(tiny, tmp_path / "run", numba_device, 7, 1)
    result = breaks.trainer.train()
    assert (result.reason, result.step) == ("finished", 24)
    assert [step for step, _ in breaks.steps] == [*range(1, 8), *range(6, 25)]
    rates = dict(breaks.steps[7:])
    schedule = Schedule.from_config(tiny.train)
    assert rates == {s: tiny.train.lr * schedule.factor(s - 1) * 0.5 for s in range(6, 25)}
    assert breaks.alerts == ["not-finite"]
    records = RunFolder(tmp_path / "run").read_metrics()
    assert [r["step"] for r in records] == [r["step"] for r in trained[0].read_metrics()]
    (event,) = [record["rollback"] for record in records if "rollback" in record]
    assert event == {"figure": "loss", "at": 8, "to": 5, "rate_scale": 0.5}
    # The same, killed after the rollback: the lowered rate is part of the checkpoint.
    last = read_checkpoint(RunFolder(tmp_path / "run").checkpoint_path("last"))
    assert last.trainer_state()["progress"]["rate_scale"] == 0.5


def test_a_run_that_diverges_before_its_first_checkpoint_starts_over(tiny, tmp_path, numba_device):
    config = apply_overrides(tiny, ["train.steps=4"])
    breaks = broken(config, tmp_path / "run", numba_device, 2, 1)
    assert breaks.trainer.train().reason == "finished"
    assert [step for step, _ in breaks.steps] == [1, 2, 1, 2, 3, 4]
    steps = [record["step"] for record in RunFolder(tmp_path / "run").read_metrics()]
    assert steps == [0, 3, 4]


def test_parameters_that_overflow_after_a_step_are_found_at_the_evaluation(
    tiny, tmp_path, numba_device
):
    config = apply_overrides(tiny, ["train.steps=8", "train.eval_every=100", "train.log_every=100"])
    trainer = Trainer(config, tmp_path / "run", numba_device)
    once = iter([True])

    def overflow(step, *arguments):
        if step == 8 and next(once, False):
            with torch.no_grad():
                trainer.model.log_alpha.fill_(float("nan"))
            raise EbmError("weights are not finite")

    watch = TrainerCallback()
    watch.on_eval = overflow
    trainer._callbacks = CallbackList([watch])
    assert trainer.train().reason == "finished"
    assert "a parameter is nan at step 9: back to step 5" in (
        (tmp_path / "run" / "train.log").read_text()
    )


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


def test_averaged_weights_are_scored_saved_and_resumed(tiny, tmp_path, numba_device):
    config = apply_overrides(tiny, ["train.ema_decay=0.9", "train.steps=12"])
    interrupt = At(7, lambda: os.kill(os.getpid(), signal.SIGINT))
    whole = Trainer(config, tmp_path / "whole", numba_device).train()
    Trainer(config, tmp_path / "run", numba_device, [interrupt]).train()
    Trainer(config, tmp_path / "run", numba_device, resume=True).train()
    assert weights(RunFolder(tmp_path / "run")) == weights(RunFolder(tmp_path / "whole"))
    loaded = load_run(tmp_path / "run", numba_device, "last")
    valid, _ = RunData.load(config, loaded.tokenizer).valid_prefix(config.train.eval_tokens)
    report = evaluate_perplexity(loaded.model, valid, config, start_id=loaded.tokenizer.start_id)
    assert report.nll_per_token == whole.last_valid["nll_per_token"]


def test_a_deleted_checkpoint_is_done_without(tiny, trained, copied, numba_device):
    shutil.rmtree(copied.checkpoint_path("last"))
    recorder = Recorder()
    Trainer(tiny, copied.path, numba_device, [recorder], resume=True).train()
    assert recorder.start.step == 20
    assert weights(copied) == weights(trained[0])


def test_a_configuration_that_was_altered_is_named(tiny, copied, numba_device):
    path = copied.path / "config.json"
    path.write_text(path.read_text().replace('"lr": 0.01', '"lr": 0.03'))
    with pytest.raises(CheckpointError, match=r"config\.json is not what .*: train\.lr was 0\.01"):
        Trainer(copied.read_config(), copied.path, numba_device, resume=True).train()


def test_another_length_is_told(tiny, copied, numba_device):
    longer, recorder = apply_overrides(tiny, ["train.steps=25"]), Recorder()
    Trainer(longer, copied.path, numba_device, [recorder], resume=True).train()
    assert recorder.start.changes == ("train.steps was 24 and is now 25",)


def test_a_lost_gpu_ends_the_run_with_its_checkpoint_kept(tiny, tmp_path, numba_device):
    def lose():
        raise RuntimeError("Validation Error: Parent device is lost")

    with pytest.raises(DeviceError, match=r"the GPU was lost .*checkpoint 5 is kept: go on with"):
        Trainer(tiny, tmp_path / "run", numba_device, [At(6, lose)]).train()
    assert "the GPU was lost" in (tmp_path / "run" / "train.log").read_text()
    assert Trainer(tiny, tmp_path / "run", numba_device, resume=True).train().step == 24


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


@pytest.mark.parametrize(
    "override", ["train.lr=0.5", "model.dim=24", "data.block_size=13", "train.seed=4"]
)
def test_another_configuration_is_refused(tiny, copied, numba_device, override):
    key = override.split("=")[0]
    with pytest.raises(ConfigError, match=f"{key} was .* and is now"):
        Trainer(apply_overrides(tiny, [override]), copied.path, numba_device, resume=True).train()


def test_another_text_is_refused(tiny, copied, tmp_path, corpus, numba_device):
    lines = corpus.read_text().splitlines()
    other = tmp_path / "other.txt"
    other.write_text("\n".join([*lines[1:-20], lines[0], *lines[-20:]]) + "\n")
    content = json.loads((copied.path / "config.json").read_text())
    content["data"]["dataset"] = str(other)
    (copied.path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="is not the text this run was trained on"):
        Trainer(copied.read_config(), copied.path, numba_device, resume=True).train()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("n_splats", 41, r"splats.h5: tensor \S+ is float32 \(40, 16\) and .* \(41, 16\)"),
        ("expert_hidden", 9, r"weights\.safetensors: tensor \S+ is .*8.* and the model's is .*9"),
        ("n_experts", 3, r"weights.safetensors: tensor \S+ is .* and the model's is"),
    ],
)
def test_a_checkpoint_of_another_shape_names_the_tensor(copied, numba_device, key, value, message):
    content = json.loads((copied.path / "config.json").read_text())
    content["model"][key] = value
    (copied.path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        load_run(copied.path, numba_device)
    with pytest.raises(CheckpointError, match=message):
        Trainer(copied.read_config(), copied.path, numba_device, resume=True).train()


def test_a_damaged_checkpoint_is_refused_and_nothing_is_changed(tiny, copied, numba_device):
    path = copied.checkpoint_path("last") / "trainer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    before = copied.metrics_path.read_bytes()
    with pytest.raises(CheckpointError, match=r"trainer.pt differs from its SHA-256"):
        Trainer(tiny, copied.path, numba_device, resume=True).train()
    assert copied.metrics_path.read_bytes() == before


def test_a_text_that_is_too_short_leaves_no_folder(tiny, tmp_path, numba_device):
    short = tmp_path / "short.txt"
    short.write_text("a b c d\n" * 25)
    config = apply_overrides(tiny, [f"data.dataset={short}", "data.block_size=500"])
    with pytest.raises(DataError, match="block_size"):
        Trainer(config, tmp_path / "run", numba_device).train()
    assert not (tmp_path / "run").exists()


def test_both_devices_give_the_same_losses(tiny, tmp_path, numba_device, wgpu_device):
    config = apply_overrides(
        tiny,
        ["train.steps=20", "train.accumulation=1", "train.eval_every=20", "train.eval_tokens=24"],
    )
    losses = []
    for device in (numba_device, wgpu_device):
        recorder = Recorder()
        Trainer(config, tmp_path / device.name, device, [recorder]).train()
        losses.append(recorder.losses)
    # The devices sum in another order, about 10 roundings (eps 6e-8) a loss; each of the 20 steps
    # hands its own on to the parameters of the next, where they add up.
    np.testing.assert_allclose(losses[1], losses[0], rtol=20 * 10 * 6e-8)
