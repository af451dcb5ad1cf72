import gc
import math

import pytest
import torch

import ebm_wgpu.torch_device as torch_device
from ebm_wgpu.config import apply_overrides
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.registry import FAMILIES, build_model
from ebm_wgpu.training.checkpoints import read_checkpoint, write_checkpoint
from ebm_wgpu.training.objectives import Objective
from ebm_wgpu.training.placement import torch_device_of
from ebm_wgpu.training.precision import FIRST_SCALE, GROWTH_STEPS, LossScale, autocast
from ebm_wgpu.training.recovery import DivergedError
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.state import TrainingState
from ebm_wgpu.training.stepping import Stepper

TOKENS = torch.arange(26).view(2, 13) % 20
SMALL = [
    "train.dsm_weight=0", "transformer.dim=16", "transformer.n_layers=1", "transformer.n_heads=2",
    "transformer.max_length=12", "ebt.dim=16", "ebt.n_layers=1", "ebt.n_heads=2",
    "ebt.max_length=12",
]  # fmt: skip
WRITTEN_IN_TORCH = [name for name, family in FAMILIES.items() if not family.splats]


@pytest.fixture(scope="module")
def gpu(wgpu_device):
    return torch_device.device()


def of_family(tiny, family, *overrides):
    return apply_overrides(tiny, [*SMALL, f"model.family={family}", *overrides])


def gradients(model, config, precision, scale=1.0):
    model.zero_grad(set_to_none=True)
    tokens = TOKENS.to(next(model.parameters()).device)
    with autocast(precision, model):
        total, _ = Objective(config.train)(model, tokens, seed=1)
    (scale * total).backward()
    return total.cpu(), {
        n: p.grad.cpu() / scale for n, p in model.named_parameters() if p.grad is not None
    }


def flat(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients.values()]).double()


@pytest.mark.parametrize("family", WRITTEN_IN_TORCH)
def test_gradients_in_bfloat16_are_those_in_float32_but_for_rounding(tiny, numba_device, family):
    config = of_family(tiny, family)
    torch.manual_seed(0)
    model = build_model(config, 20, numba_device)
    exact_loss, exact = gradients(model, config, "float32")
    loss, rounded = gradients(model, config, "bfloat16")
    assert loss.dtype == torch.float32
    # bfloat16 keeps 8 bits: relative error 2^-9 a product.
    assert loss.item() == pytest.approx(exact_loss.item(), rel=0.01)
    assert loss.item() != exact_loss.item()
    assert rounded.keys() == exact.keys()
    assert torch.cosine_similarity(flat(exact), flat(rounded), dim=0).item() > 0.98
    assert all(gradient.dtype == torch.float32 for gradient in rounded.values())


SLOW = ("nano", "ebt")


@pytest.mark.usefixtures("no_fallbacks")
@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in FAMILIES],
)
def test_gradients_in_float16_are_those_in_float32_but_for_rounding(tiny, gpu, family):
    """All families with `pytest -m "slow or not slow" tests/training/test_precision.py`."""
    config = of_family(tiny, family, "train.precision=float16")
    torch.manual_seed(0)
    model = build_model(config, 20, gpu).to(torch_device_of(gpu))
    exact_loss, exact = gradients(model, config, "float32")
    loss, rounded = gradients(model, config, "float16", FIRST_SCALE)
    # float16 keeps 11 bits: relative error 2^-12 a product, a sixteenth of bfloat16's.
    assert loss.item() == pytest.approx(exact_loss.item(), rel=1e-3)
    assert loss.item() != exact_loss.item()
    assert rounded.keys() == exact.keys()
    assert torch.cosine_similarity(flat(exact), flat(rounded), dim=0).item() > 0.9995
    assert flat(rounded).norm().item() == pytest.approx(flat(exact).norm().item(), rel=0.01)
    assert all(gradient.dtype == torch.float32 for gradient in rounded.values())


def test_families_with_kernels_of_their_own_refuse_bfloat16(tiny):
    with pytest.raises(ConfigError, match=r"train\.precision=bfloat16 is for families that torch"):
        apply_overrides(tiny, ["train.precision=bfloat16"])


def test_the_scale_falls_at_once_and_grows_slowly():
    scale = LossScale()
    assert [scale.skips(math.inf), scale.skips(math.nan)] == [True, True]
    assert scale == LossScale(FIRST_SCALE / 4)
    assert not any(scale.skips(1.0) for _ in range(GROWTH_STEPS - 1))
    assert scale == LossScale(FIRST_SCALE / 4, GROWTH_STEPS - 1)
    assert not scale.skips(1.0)
    assert scale == LossScale(FIRST_SCALE / 2)


def test_at_a_scale_of_one_what_is_not_finite_is_no_matter_of_scale():
    scale = LossScale(2.0, 5)
    assert scale.skips(math.inf)
    assert not scale.skips(math.inf)
    assert scale == LossScale(1.0)


@pytest.fixture
def start(tiny, gpu):
    """Makes the state of a run, on the device, after the first values."""
    overrides = ["train.accumulation=1", "train.ema_decay=0.5", "train.steps=50"]

    def make(family, precision):
        config = of_family(tiny, family, f"train.precision={precision}", *overrides)
        state = TrainingState(config, RunData.load(config), gpu)
        state.initialize()
        return state, Stepper(config.train)

    return make


def values(model):
    return {name: p.detach().cpu() for name, p in model.named_parameters()}


def test_a_step_whose_scaled_gradient_overflows_is_left_out(start):
    state, stepper = start("transformer", "float16")
    state.progress.loss_scale = LossScale(2.0**60)
    before = values(state.model)
    outcome = stepper.step(state, 1.0)
    assert outcome.parts["skipped"] == 1
    assert "grad_norm" not in outcome.parts
    assert outcome.parts["loss_scale"] == 2.0**60
    assert state.progress.loss_scale == LossScale(2.0**59)
    assert state.progress.step == 1
    assert state.average.updates == 0
    for name, weight in values(state.model).items():
        assert torch.equal(weight, before[name]), name
        assert state.model.get_parameter(name).grad is None
    state.progress.loss_scale = LossScale(2.0**8)
    outcome = stepper.step(state, 1.0)
    assert "skipped" not in outcome.parts
    assert 0 < outcome.parts["grad_norm"] < math.inf
    assert not torch.equal(values(state.model)["bias"], before["bias"])


def test_gradients_that_no_scale_makes_finite_are_an_error(start, monkeypatch):
    state, stepper = start("transformer", "float16")
    state.progress.loss_scale = LossScale(1.0)
    monkeypatch.setattr(state.optimizers, "gradient_norm", lambda: torch.tensor(math.inf))
    with pytest.raises(DivergedError, match="grad_norm is inf at step 1"):
        stepper.step(state, 1.0)


def test_a_run_in_float16_that_was_resumed_goes_on_to_the_bit(start, tmp_path):
    state, stepper = start("transformer", "float16")
    state.progress.loss_scale = LossScale(2.0**60, 7)
    for factor in (2.0**60, FIRST_SCALE):
        state.progress.loss_scale.factor = factor
        stepper.step(state, 1.0)
    path = write_checkpoint(tmp_path, 2, *state.capture())
    again, _ = start("transformer", "float16")
    again.restore(read_checkpoint(path))
    assert again.progress.loss_scale == state.progress.loss_scale == LossScale(FIRST_SCALE, 1)
    for _ in range(2):
        assert stepper.step(state, 0.5).parts == stepper.step(again, 0.5).parts
    resumed = values(again.model)
    for name, weight in values(state.model).items():
        assert torch.equal(weight, resumed[name]), name


@pytest.mark.slow
@pytest.mark.usefixtures("no_fallbacks")
@pytest.mark.parametrize("family", ["splat", "transformer"])
def test_fifty_steps_in_float16_stay_near_those_in_float32(start, family):
    """Run with `pytest -m slow tests/training/test_precision.py`."""
    losses = []
    for precision in ("float32", "float16"):
        state, stepper = start(family, precision)
        losses.append([stepper.step(state, 1.0).parts["loss"] for _ in range(50)])
        assert state.progress.loss_scale.factor in (FIRST_SCALE, FIRST_SCALE / 2)
    apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
    # Logits below 8 in magnitude are rounded to 2^-9 at worst, and steps along rounded gradients
    # add up; the losses fall a hundred times as far.
    assert 0 < apart < 0.02
    assert losses[1][-1] < losses[1][0] - 0.5


def test_float16_keeps_less_for_the_backward_pass(tiny, gpu):
    shape = ["transformer.dim=32", "transformer.max_length=64", "data.block_size=64"]
    config = of_family(tiny, "transformer", "data.eval_context=64", *shape)
    model = build_model(config, 20, gpu).to(torch_device_of(gpu))
    tokens = (torch.arange(8 * 65).view(8, 65) % 20).to(torch_device_of(gpu))
    pool, kept = gpu.runtime.pool, []
    for precision in ("float32", "float16"):
        gc.collect()
        before = pool.live_bytes
        with autocast(precision, model):
            total, _ = Objective(config.train)(model, tokens, seed=1)
        kept.append(pool.live_bytes - before)
        del total
    assert kept[1] < 0.75 * kept[0]
