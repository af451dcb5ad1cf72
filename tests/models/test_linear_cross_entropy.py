"""The chunked cross-entropy against torch's own, in values, gradients and memory bound."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ebm_wgpu.models.linear_cross_entropy import linear_cross_entropy, map_chunks


def inputs(rows: int, columns: int, dim: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(rows * columns)
    shapes = ((rows, dim), (columns, dim), (columns,))
    h, weight, bias = (
        torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes
    )
    return h, weight, bias, torch.randint(columns, (rows,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("max_entries", [1, 11, 33, 10**6])
def test_values_and_gradients_are_torchs(max_entries: int, smoothing: float) -> None:
    h, weight, bias, targets = inputs(13, 11, 5)
    loss = linear_cross_entropy(h, weight, bias, targets, max_entries, label_smoothing=smoothing)
    logits = F.linear(h, weight, bias)
    expected = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-13)
    for found, wanted in zip(
        torch.autograd.grad(3 * loss, (h, weight, bias)),
        torch.autograd.grad(3 * expected, (h, weight, bias)),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


def test_without_gradients_the_smoothed_value_is_the_same() -> None:
    h, weight, bias, targets = inputs(13, 11, 5)
    with torch.no_grad():
        loss = linear_cross_entropy(h, weight, bias, targets, 33, label_smoothing=0.2)
        expected = F.cross_entropy(F.linear(h, weight, bias), targets, label_smoothing=0.2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-13)


def test_gradcheck() -> None:
    h, weight, bias, targets = inputs(5, 4, 3)
    assert torch.autograd.gradcheck(
        lambda *given: linear_cross_entropy(*given, targets, 8), (h, weight, bias)
    )


def test_without_gradients_none_are_computed() -> None:
    h, weight, bias, targets = inputs(5, 4, 3)
    with torch.no_grad():
        assert not linear_cross_entropy(h, weight, bias, targets, 8).requires_grad


def test_autocast_keeps_the_softmax_wide() -> None:
    h, weight, bias, targets = (
        x.detach().float() if x.is_floating_point() else x for x in inputs(64, 50, 8)
    )
    h.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(h, weight, bias, targets, 640)
    exact = F.cross_entropy(F.linear(h, weight, bias), targets)
    assert loss.dtype == torch.float32
    # bfloat16 rounds h and W to 2^-9; logits here have size 3.
    assert loss.item() == pytest.approx(exact.item(), abs=0.02)
    loss.backward()
    assert h.grad is not None
    assert h.grad.dtype == torch.float32


def test_mapping_in_chunks_changes_neither_values_nor_gradients() -> None:
    x = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    sizes = []

    def function(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(len(rows))
        return rows.sin().sum(1), rows.square()

    found, expected = (map_chunks(function, 4, bound, x) for bound in (12, 1000))
    assert sizes == [3, 3, 3, 9]
    for part, whole in zip(found, expected, strict=True):
        torch.testing.assert_close(part, whole, rtol=0, atol=0)
    grads = [torch.autograd.grad(sum(p.sum() for p in parts), x) for parts in (found, expected)]
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)
