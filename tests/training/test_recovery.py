import math
import sys
import types

import pytest
import torch
from torch import nn

from ebm_wgpu.config import apply_overrides
from ebm_wgpu.errors import CheckpointError, DeviceError, EbmError
from ebm_wgpu.training.callbacks import CallbackList, TrainerCallback
from ebm_wgpu.training.checkpoints import read_checkpoint
from ebm_wgpu.training.loading import load_run
from ebm_wgpu.training.recovery import (
    DivergedError,
    check_finite,
    device_lost,
    gave_up,
    has_finite_parameters,
    is_device_loss,
)
from ebm_wgpu.training.run_folder import RunFolder
from ebm_wgpu.training.schedule import Schedule
from ebm_wgpu.training.trainer import Trainer
from ebm_wgpu.training.verdicts import judge


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("figure", ["loss", "grad_norm"])
def test_what_is_not_finite_is_named(figure, value):
    with pytest.raises(DivergedError, match=rf"{figure} is {value} at step 7") as caught:
        check_finite({"loss": 1.0, "grad_norm": 1.0, figure: value}, 7)
    assert (caught.value.figure, caught.value.step) == (figure, 7)
    check_finite({"loss": 1.0, "grad_norm": 0.0, "energy": math.nan}, 7)


def test_finite_parameters_are_all_finite():
    model = nn.Linear(2, 2)
    assert has_finite_parameters(model)
    with torch.no_grad():
        model.bias[1] = math.inf
    assert not has_finite_parameters(model)


def test_giving_up_says_what_is_left_and_what_to_do():
    error = DivergedError("loss", math.nan, 7)
    assert str(gave_up(error, 5)).startswith("loss is nan at step 7; checkpoint 5 is kept: start")
    assert "no checkpoint was written yet" in str(gave_up(error, None))


def test_a_lost_device_is_told_from_other_errors(monkeypatch):
    class GPUError(Exception):
        pass

    monkeypatch.setitem(sys.modules, "wgpu", types.SimpleNamespace(GPUError=GPUError))
    for error in (
        DeviceError("the device was lost"),
        RuntimeError("Validation Error\n  Parent device is lost"),
        GPUError("Device lost (reset)"),
        RuntimeError("VK_ERROR_DEVICE_LOST: DeviceLost"),
    ):
        assert is_device_loss(error)
    for error in (
        DeviceError("no adapter was found"),
        RuntimeError("shape mismatch"),
        CheckpointError("device lost.txt cannot be read"),
        GPUError("out of memory"),
    ):
        assert not is_device_loss(error)
    monkeypatch.delitem(sys.modules, "wgpu")
    assert is_device_loss(RuntimeError("Parent device is lost"))


def test_the_error_of_a_lost_device_is_one_line_with_a_remedy():
    message = str(device_lost(RuntimeError("Validation\n  Parent device is lost"), 40))
    assert "\n" not in message
    assert "checkpoint 40 is kept: go on with `ebm train --resume`" in message
    assert "--device numba" in message


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


class LosesTheGpu(TrainerCallback):
    def on_step(self, event):
        if event.step == 6:
            raise RuntimeError("Validation Error: Parent device is lost")


def test_a_lost_gpu_ends_the_run_with_its_checkpoint_kept(tiny, tmp_path, numba_device):
    with pytest.raises(DeviceError, match=r"the GPU was lost .*checkpoint 5 is kept: go on with"):
        Trainer(tiny, tmp_path / "run", numba_device, [LosesTheGpu()]).train()
    assert "the GPU was lost" in (tmp_path / "run" / "train.log").read_text()
    assert Trainer(tiny, tmp_path / "run", numba_device, resume=True).train().step == 24
