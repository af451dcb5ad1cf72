"""Cross-entropy in one kernel: options, gradients of gradients, targets that do not exist."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

import ebm_wgpu.torch_device  # noqa: F401


def _logits(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3


def _both(shape: tuple[int, ...], target: torch.Tensor, **options: Any) -> list[list[torch.Tensor]]:
    """Loss, gradient and gradient of the gradient's square, exact and on the device."""
    found = []
    for device, dtype in (("cpu", torch.float64), ("wgpu", torch.float32)):
        z = _logits(*shape).to(device, dtype).requires_grad_()
        loss = cross_entropy(z, target.to(device), **options)
        (first,) = torch.autograd.grad(loss.sum(), z, retain_graph=True)
        (graph,) = torch.autograd.grad(loss.sum(), z, create_graph=True)
        (second,) = torch.autograd.grad(graph.square().sum(), z)
        found.append([t.detach().cpu().float() for t in (loss, first, graph, second)])
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": "sum", "label_smoothing": 0.1},
        {"reduction": "none", "ignore_index": 3},
        {"ignore_index": 3, "label_smoothing": 0.2},
    ],
)
def test_losses_and_two_gradients_are_exact(options: dict[str, Any]) -> None:
    target = torch.randint(0, 11, (9, 5), generator=torch.Generator().manual_seed(1))
    exact, found = _both((9, 11, 5), target, **options)
    for value, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(value, expected, rtol=2e-5, atol=2e-6)


def test_a_target_outside_is_nan_and_shapes_are_checked() -> None:
    z = _logits(4, 6).to("wgpu")
    losses = cross_entropy(z, torch.tensor([0, 6, -1, 5]).to("wgpu"), reduction="none").cpu()
    assert losses.isnan().tolist() == [False, True, True, False]
    with pytest.raises(ValueError, match="target size"):
        cross_entropy(z, torch.zeros(5, dtype=torch.int64, device="wgpu"))


def test_a_large_vocabulary_keeps_no_probabilities() -> None:
    z = _logits(64, 5000).to("wgpu").requires_grad_()
    target = torch.zeros(64, dtype=torch.int64, device="wgpu")
    before = torch.wgpu.memory_allocated()
    loss = cross_entropy(z, target)
    assert torch.wgpu.memory_allocated() - before < 64 * 5000
    loss.backward()
    del loss
    assert torch.wgpu.memory_allocated() - before < 64 * 5000 * 4 * 1.1


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"weight": torch.ones(8)}])
def test_half_losses_of_many_targets_stay_in_range(options: dict[str, Any]) -> None:
    count = 2000  # losses of 42, whose sum exceeds 65,504
    z = torch.tensor([-40.0, *[0.0] * 7]).half().repeat(count, 1)
    target = torch.zeros(count, dtype=torch.int64)
    exact = cross_entropy(z[:8].double(), target[:8], **_typed(options, torch.float64)).item()
    there = z.to("wgpu").requires_grad_()
    loss = cross_entropy(there, target.to("wgpu"), **_typed(options, torch.float16, "wgpu"))
    assert loss.dtype == torch.float16
    assert loss.item() == pytest.approx(exact, rel=2**-10)
    (loss * 2**12).backward()
    assert there.grad is not None
    assert there.grad.isfinite().all().item()
    plain = torch.nn.functional.nll_loss(there.detach().log_softmax(1), target.to("wgpu"))
    assert plain.item() == pytest.approx(cross_entropy(z[:8].double(), target[:8]).item(), rel=2e-3)


def _typed(options: dict[str, Any], dtype: torch.dtype, device: str = "cpu") -> dict[str, Any]:
    return {
        name: value.to(device, dtype) if isinstance(value, torch.Tensor) else value
        for name, value in options.items()
    }
