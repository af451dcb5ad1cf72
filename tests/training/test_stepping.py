import math

import pytest
import torch

import ebm_wgpu.torch_device as torch_device
from ebm_wgpu.config import apply_overrides
from ebm_wgpu.errors import EbmError
from ebm_wgpu.gpu.runtime import GpuRuntime
from ebm_wgpu.models.registry import FAMILIES
from ebm_wgpu.splats.health import YOUNG
from ebm_wgpu.training.recovery import DivergedError
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.state import TrainingState
from ebm_wgpu.training.stepping import USAGE_EVERY, Stepper

SMALL = ("dim=16", "n_layers=1", "n_heads=2", "max_length=12")


@pytest.fixture
def state(tiny, numba_device):
    state = TrainingState(tiny, RunData.load(tiny), numba_device)
    state.initialize()
    return state


def test_a_step_counts_moves_and_measures(tiny, state):
    before = state.model.bias.detach().clone()
    outcome = Stepper(tiny.train).step(state, 0.5)
    assert state.progress.step == 1
    assert outcome.lr == tiny.train.lr * 0.5
    assert {"loss", "token", "latent", "grad_norm"} <= set(outcome.parts)
    assert outcome.seconds > 0
    assert not torch.equal(state.model.bias, before)
    # The largest move of Adam's first step is its rate.
    assert (state.model.bias - before).abs().max().item() <= outcome.lr * 1.001


def test_parts_are_means_over_the_batches_of_a_step(tiny, state, numba_device):
    config = apply_overrides(tiny, ["train.accumulation=1", "train.lr=1e-30", "train.lr_splats=0"])
    alone = TrainingState(config, RunData.load(config), numba_device)
    alone.initialize()
    single = [Stepper(config.train).step(alone, 1.0).parts for _ in range(2)]
    both = Stepper(tiny.train).step(state, 1.0).parts
    # Latents and the noise of score matching have seeds of their own in each batch of a step.
    for name in ("token", "latent", "balance", "gate"):
        assert both[name] == pytest.approx((single[0][name] + single[1][name]) / 2, rel=1e-5)


@pytest.mark.usefixtures("no_fallbacks")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_waits_for_its_device_as_little_as_it_can(tiny, wgpu_device, monkeypatch, family):
    small = [f"{part}.{key}" for part in ("transformer", "ebt") for key in SMALL]
    config = apply_overrides(
        tiny, [f"model.family={family}", "train.dsm_weight=0", "train.accumulation=1", *small]
    )
    state = TrainingState(config, RunData.load(config), torch_device.device())
    state.initialize()
    stepper = Stepper(config.train)
    # The first step reads how many steps the optimiser has taken as well.
    stepper.step(state, 1.0)
    runtime, waits = torch_device.device().runtime, []
    read, before = GpuRuntime.read, runtime.dispatches

    def counted(self, *arguments, **options):
        waits.append(runtime.dispatches - before)
        return read(self, *arguments, **options)

    monkeypatch.setattr(GpuRuntime, "read", counted)
    stepper.step(state, 1.0)
    (only,) = waits
    assert only > 1


def test_a_lowered_rate_lowers_every_step(tiny, state):
    state.progress.rate_scale = 0.25
    before = state.model.bias.detach().clone()
    outcome = Stepper(tiny.train).step(state, 0.5)
    assert outcome.lr == tiny.train.lr * 0.125
    assert (state.model.bias - before).abs().max().item() <= outcome.lr * 1.001


def test_weights_of_old_unused_splats_decay_now_and_then(tiny, numba_device):
    config = apply_overrides(tiny, ["train.splat_decay=0.01", "train.lr_splats=0"])
    state = TrainingState(config, RunData.load(config), numba_device)
    state.initialize()
    alpha = state.model.log_alpha.detach().clone()
    state.model.age += YOUNG
    state.model.frequency[:] = 1 / len(alpha)
    state.model.frequency[3] = 0
    with torch.no_grad():
        # Out of reach of any context, so that it stays unused.
        state.model.log_alpha[3] -= 50
        alpha[3] -= 50
    for step in range(1, 2 * USAGE_EVERY + 1):
        Stepper(config.train).step(state, 1.0)
        lost = (alpha - state.model.log_alpha.detach()).tolist()
        assert lost[3] == pytest.approx(0.01 * USAGE_EVERY * (step // USAGE_EVERY), abs=1e-5)
        assert not any(lost[:3] + lost[4:])


def test_usage_is_recorded_now_and_then(tiny, state):
    stepper = Stepper(tiny.train)
    ages = []
    for _ in range(USAGE_EVERY + 1):
        stepper.step(state, 1.0)
        ages.append(int(state.model.age[0]))
    assert ages == [0] * (USAGE_EVERY - 1) + [USAGE_EVERY] * 2


@pytest.mark.parametrize("name", ["bias", "kappa_logit"])
def test_what_is_not_finite_stops_before_the_weights_move(tiny, state, name):
    with torch.no_grad():
        getattr(state.model, name).fill_(math.nan)
    mu = state.model.mu.detach().clone()
    with pytest.raises(DivergedError, match="loss is nan at step 1"):
        Stepper(tiny.train).step(state, 1.0)
    assert torch.equal(state.model.mu, mu)
    assert state.progress.step == 0


def test_other_errors_of_a_model_pass_through(tiny, state, monkeypatch):
    def refuse(*arguments, **options):
        raise EbmError("no such device")

    monkeypatch.setattr(state.model, "prepared_losses", refuse)
    with pytest.raises(EbmError, match="no such device") as caught:
        Stepper(tiny.train).step(state, 1.0)
    assert not isinstance(caught.value, DivergedError)
