import pytest
import torch

from ebm_wgpu.config import apply_overrides
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.registry import FAMILIES, build_model
from ebm_wgpu.training.objectives import Objective
from ebm_wgpu.training.precision import autocast

TOKENS = torch.arange(26).view(2, 13) % 20
SMALL = [
    "train.dsm_weight=0", "transformer.dim=16", "transformer.n_layers=1", "transformer.n_heads=2",
    "transformer.max_length=12", "ebt.dim=16", "ebt.n_layers=1", "ebt.n_heads=2",
    "ebt.max_length=12",
]  # fmt: skip


def gradients(config, device, precision):
    torch.manual_seed(0)
    model = build_model(config, 20, device)
    with autocast(precision):
        total, _ = Objective(config.train)(model, TOKENS, seed=1)
    total.backward()
    return total, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_float32_changes_nothing():
    with autocast("float32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if not family.splats])
def test_gradients_in_bfloat16_are_those_in_float32_but_for_rounding(tiny, numba_device, family):
    config = apply_overrides(tiny, [*SMALL, f"model.family={family}"])
    exact_loss, exact = gradients(config, numba_device, "float32")
    loss, rounded = gradients(config, numba_device, "bfloat16")
    assert loss.dtype == torch.float32
    # bfloat16 keeps 8 bits: relative error 2^-9 a product.
    assert loss.item() == pytest.approx(exact_loss.item(), rel=0.01)
    assert loss.item() != exact_loss.item()
    assert rounded.keys() == exact.keys()
    flat = [torch.cat([g.flatten() for g in grads.values()]) for grads in (exact, rounded)]
    assert torch.cosine_similarity(*flat, dim=0).item() > 0.98
    assert all(grad.dtype == torch.float32 for grad in rounded.values())


def test_families_with_kernels_of_their_own_refuse(tiny):
    with pytest.raises(ConfigError, match=r"train\.precision=bfloat16 is for families that torch"):
        apply_overrides(tiny, ["train.precision=bfloat16"])
