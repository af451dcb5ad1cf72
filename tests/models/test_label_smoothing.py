"""Smoothed cross-entropies of every family against torch's own, from all probabilities."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models import splat_lm
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.registry import build_model

V, T = 13, 6
BACKBONE = (
    "transformer.dim=16", "transformer.n_layers=1", "transformer.n_heads=2",
    "transformer.max_length=6",
)  # fmt: skip
FAMILIES = {
    "splat": (
        "model.dim=16", "model.n_splats=20", "model.n_experts=2", "model.n_active=1",
        "model.expert_hidden=8", "model.recent_window=2", "model.decay_window=3",
        "model.attention_window=4", "energy.n_neighbours=8", "sampler.list_size=16",
    ),
    "splats of states": ("model.context=transformer", *BACKBONE),
    "splats of states, classes": (
        "model.context=transformer", *BACKBONE, "transformer.class_bounds=4,9",
    ),
    "transformer": ("model.family=transformer", *BACKBONE),
    "classes": ("model.family=transformer", *BACKBONE, "transformer.class_bounds=4,9"),
    "nano": ("model.family=nano", *BACKBONE, "nano.interaction=8"),
    "system 1": ("model.family=nano", *BACKBONE, "nano.interaction=0", "nano.think_steps=0"),
    "ebt": (
        "model.family=ebt", "ebt.dim=16", "ebt.n_layers=1", "ebt.n_heads=2", "ebt.max_length=6",
        "ebt.initial_noise=0",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made(device: KernelDevice, family: str, smoothing: float) -> LanguageModel:
    """A model that is away from its even start, in evaluation mode."""
    shape = ("data.block_size=6", "data.eval_context=6", "data.eval_stride=3")
    overrides = [*FAMILIES[family], *shape, f"train.label_smoothing={smoothing}"]
    model = build_model(apply_overrides(Config(), overrides), V, device)
    ids = np.arange(200) ** 2 % V
    model.initialize(ids, np.bincount(ids, minlength=V), seed=1)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in (p for name, p in model.named_parameters() if name != "mu"):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def text() -> Tensor:
    """Rows that repeat themselves, so that splats of the context have something to say."""
    return torch.tensor([[1, 5, 1, 5, 7, 1, 5], [12, 3, 3, 0, 12, 3, 4]])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_torch_and_scores_are_not_smoothed(
    numba_device: KernelDevice, family: str
) -> None:
    plain, model = made(numba_device, family, 0.0), made(numba_device, family, 0.3)
    tokens = text()
    every = torch.stack(
        [model.next_token_log_probs(tokens[:, : t + 1]).detach() for t in range(T)], 1
    )
    for scored, smoothing in ((plain, 0.0), (model, 0.3)):
        expected = F.cross_entropy(
            every.flatten(0, 1), tokens[:, 1:].flatten(), label_smoothing=smoothing
        )
        torch.testing.assert_close(
            scored.losses(tokens)["token"].detach(), expected, atol=2e-5, rtol=1e-5
        )
    scores = [m.token_log_probs(tokens[:, :-1], tokens[:, 1:]).detach() for m in (plain, model)]
    assert torch.equal(*scores)


@pytest.mark.parametrize("family", ["splat", "splats of states", "classes"])
def test_gradients_are_slopes_and_chunks_change_nothing(
    numba_device: KernelDevice, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Central differences along a direction over all parameters, and two positions at a time."""
    model, tokens = made(numba_device, family, 0.3), text()
    learning = [p for p in model.parameters() if p.requires_grad]

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model.losses(tokens)["token"].backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in learning]

    whole = gradients()
    monkeypatch.setattr(splat_lm, "_MAX_ENTRIES", 2 * 20)
    if hasattr(model, "config"):
        object.__setattr__(model.config, "max_logits", 2 * V)
    for one, other in zip(gradients(), whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    generator = torch.Generator().manual_seed(3)
    directions = [torch.randn(p.shape, generator=generator) for p in learning]
    length = torch.stack([d.square().sum() for d in directions]).sum().sqrt()
    step, values = 2e-2, []
    with torch.no_grad():
        for sign in (1, -2, 1):
            for parameter, direction in zip(learning, directions, strict=True):
                parameter.add_(direction, alpha=float(sign * step / length))
            values.append(float(model.losses(tokens)["token"]))
    slope = (values[0] - values[1]) / (2 * step)
    gradient = sum(float((g * d).sum()) for g, d in zip(whole, directions, strict=True))
    assert gradient / float(length) == pytest.approx(slope, rel=0.02, abs=2e-4)
    assert abs(slope) > 1e-3


def test_the_auxiliary_cross_entropy_is_smoothed_as_well(numba_device: KernelDevice) -> None:
    model = made(numba_device, "nano", 0.3)
    tokens = text()
    model.think_steps = 0
    first = torch.stack([model.next_token_log_probs(tokens[:, : t + 1]) for t in range(T)], 1)
    expected = F.cross_entropy(first.flatten(0, 1), tokens[:, 1:].flatten(), label_smoothing=0.3)
    torch.testing.assert_close(model.losses(tokens)["auxiliary"], expected, atol=1e-5, rtol=1e-5)


def test_a_share_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"label_smoothing=1\.0 must be < 1"):
        apply_overrides(Config(), ["train.label_smoothing=1"])
