"""Gradients of a step: those of the mean loss, and the same bits whether launched anew or again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.torch_device.replay import REPLAY_VARIABLE
from ebm_wgpu.training.gradients import Gradients
from ebm_wgpu.training.placement import resident_device
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.state import TrainingState
from ebm_wgpu.training.stepping import Stepper

SMALL = ("dim=16", "n_layers=1", "n_heads=2", "max_length=12")
STEPS = 16
KINDS: dict[str, list[str]] = {
    "splat": ["model.family=splat", "model.dropout=0.1"],
    "splat in float16": ["model.family=splat", "train.precision=float16"],
    "splat over a transformer": ["model.family=splat", "model.context=transformer"],
    "nano": ["model.family=nano", "nano.noise=0.1", "nano.entropy_weight=0.1"],
    "ebt": ["model.family=ebt", "ebt.langevin_noise=0.1", "ebt.step_jitter=1.5"],
    "transformer": ["model.family=transformer", "train.label_smoothing=0.1"],
    "transformer in float16": ["model.family=transformer", "train.precision=float16"],
}


def start(tiny: Config, device: KernelDevice, *overrides: str) -> TrainingState:
    small = [f"{family}.{part}" for family in ("transformer", "ebt") for part in SMALL]
    options = ["train.dsm_weight=0", "transformer.dropout=0.2", *small, *overrides]
    config = apply_overrides(tiny, options)
    state = TrainingState(config, RunData.load(config), device)
    state.initialize()
    return state


def learn(state: TrainingState) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """What the steps measured, and the weights after them."""
    stepper = Stepper(state.config.train)
    parts = [stepper.step(state, 1.0).parts for _ in range(STEPS)]
    return parts, {name: weight.cpu() for name, weight in state.model.state_dict().items()}


@pytest.mark.usefixtures("no_fallbacks")
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_replayed_steps_learn_the_same_bits(
    tiny: Config,
    wgpu_device: KernelDevice,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    accumulation: int,
) -> None:
    device = resident_device(wgpu_device)
    options = [*KINDS[kind], f"train.accumulation={accumulation}"]
    again = start(tiny, device, *options)
    found, weights = learn(again)
    assert again.gradients.replayed is not None
    assert again.gradients.replayed.replays >= STEPS // 4
    monkeypatch.setenv(REPLAY_VARIABLE, "0")
    anew = start(tiny, device, *options)
    expected, expected_weights = learn(anew)
    assert anew.gradients.replayed is not None
    assert anew.gradients.replayed.replays == 0
    assert found == expected
    for name, weight in expected_weights.items():
        assert torch.equal(weights[name], weight), name


@pytest.mark.parametrize(
    "override",
    [
        "model.family=splat train.dsm_weight=0.1",
        "model.family=splat train.token_latent=exact",
        "model.family=nano nano.infonce_weight=0.1",
        "model.family=nano nano.random_steps=true",
        "model.family=ebt ebt.max_steps=3",
        "model.family=ebt ebt.step_rule=spectral",
        "model.family=ebt ebt.replay_capacity=8",
    ],
)
def test_what_is_drawn_in_main_memory_is_drawn_at_each_step(
    tiny: Config, wgpu_device: KernelDevice, override: str
) -> None:
    state = start(tiny, resident_device(wgpu_device), *override.split())
    Stepper(state.config.train).step(state, 1.0)
    assert state.gradients.replayed is None


@pytest.mark.usefixtures("no_fallbacks")
@pytest.mark.parametrize("family", ["splat", "transformer"])
def test_the_scale_of_the_loss_may_change_from_step_to_step(
    tiny: Config, wgpu_device: KernelDevice, family: str
) -> None:
    state = start(tiny, resident_device(wgpu_device), f"model.family={family}")
    tokens = torch.from_numpy(state.batches.next_batch()).long()
    state.model.eval()
    norms = []
    for scale in (1.0, 1.0, 1.0, 1.0, 2.0, 8.0):
        norms.append(state.gradients([tokens], [0], scale).norm / scale)
        state.optimizers.zero_grad()
    assert state.gradients.replayed is not None
    assert state.gradients.replayed.replays >= 2
    assert norms == pytest.approx([norms[0]] * len(norms), rel=1e-6)


def test_the_gradient_is_that_of_the_mean_over_batches(
    tiny: Config, numba_device: KernelDevice
) -> None:
    state = start(tiny, numba_device, "model.family=transformer")
    model, optimizers = state.model.eval(), state.optimizers
    batches = [torch.from_numpy(state.batches.next_batch()).long() for _ in range(3)]
    measured = Gradients(model, optimizers, state.config.train)(batches, [0, 1, 2])
    found = [p.grad.clone() for p in optimizers.parameters if p.grad is not None]
    optimizers.zero_grad()
    mean = torch.stack([model.losses(tokens)["token"] for tokens in batches]).mean()
    expected = torch.autograd.grad(mean, optimizers.parameters)
    torch.testing.assert_close(found, list(expected), rtol=1e-4, atol=1e-7)
    norm = torch.cat([gradient.flatten() for gradient in expected]).norm()
    assert measured.norm == pytest.approx(norm.item(), rel=1e-5)
    assert measured.parts["loss"] == pytest.approx(mean.item(), rel=1e-6)
