"""Operations against pure torch in float64 (values and gradients), on both devices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models import ops

RTOL = 2e-5
"""Of the largest entry: float32 sums of up to a hundred products of order one err by 1e-5."""


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def check(
    operation: Callable[..., Tensor], exact: Callable[..., Tensor], inputs: list[Tensor]
) -> None:
    """Value and gradients of `operation` in float32 against `exact` in float64."""
    single = [t.clone().requires_grad_() for t in inputs]
    double = [t.double().requires_grad_() for t in inputs]
    value, truth = operation(*single), exact(*double)
    assert value.dtype == torch.float32
    upstream = tensors(tuple(truth.shape), seed=99)[0]
    value.backward(upstream)
    truth.backward(upstream.double())
    pairs = [(value, truth), *((a.grad, b.grad) for a, b in zip(single, double, strict=True))]
    for actual, expected in pairs:
        assert actual is not None
        assert expected is not None
        scale = float(expected.detach().abs().max())
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=RTOL * scale)


def test_matmul_with_views_and_without(any_device: KernelDevice) -> None:
    a, b = tensors((13, 7), (7, 19))
    check(lambda x, y: ops.matmul(any_device, x, y), torch.matmul, [a, b])
    check(lambda x, y: ops.matmul(any_device, x, y.T), lambda x, y: x @ y.T, [a, b.T.contiguous()])
    check(lambda x, y: ops.matmul(any_device, x.T, y), lambda x, y: x.T @ y, [a.T.contiguous(), b])
    wide = tensors((7, 38))[0][:, ::2]
    torch.testing.assert_close(ops.matmul(any_device, a, wide), a @ wide)


def test_shapes_that_do_not_fit_are_refused(numba_device: KernelDevice) -> None:
    with pytest.raises(KernelError, match="must agree"):
        ops.matmul(numba_device, *tensors((3, 4), (5, 6)))


def test_linear(any_device: KernelDevice) -> None:
    check(
        lambda x, w, b: ops.linear(any_device, x, w, b),
        F.linear,
        tensors((3, 5, 8), (6, 8), (6,)),
    )


def test_normalize(any_device: KernelDevice) -> None:
    check(
        lambda x: ops.normalize(any_device, x), lambda x: F.normalize(x, dim=-1), tensors((4, 3, 9))
    )


def exact_context(x: Tensor, q: Tensor, k: Tensor, windows: ops.Windows, scale: float) -> Tensor:
    age = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
    inside = [(age >= 0) & (age < window) for window in windows]
    recent = inside[0].double()
    decay = inside[1] * torch.exp(-4.0 * age / windows.decay)
    scores = (scale * q @ k.transpose(1, 2)).masked_fill(~inside[2], -torch.inf)
    parts = [
        (recent / recent.sum(1, keepdim=True)) @ x,
        (decay / decay.sum(1, keepdim=True)).double() @ x,
        torch.softmax(scores, 2) @ x,
    ]
    return torch.stack(parts, 2)


@pytest.mark.parametrize("windows", [ops.Windows(12, 64, 512), ops.Windows(2, 5, 4)])
def test_hierarchical_context(any_device: KernelDevice, windows: ops.Windows) -> None:
    check(
        lambda x, q, k: ops.hierarchical_context(any_device, x, q, k, windows, 0.3),
        lambda x, q, k: exact_context(x, q, k, windows, 0.3),
        tensors((2, 21, 8), (2, 21, 8), (2, 21, 8)),
    )


def test_windows_out_of_range_are_refused(numba_device: KernelDevice) -> None:
    x, q, k = tensors((1, 4, 8), (1, 4, 8), (1, 4, 8))
    with pytest.raises(KernelError, match="decay_window=0"):
        ops.hierarchical_context(numba_device, x, q, k, ops.Windows(1, 0, 1))


def test_expert_gate(any_device: KernelDevice) -> None:
    (logits,) = tensors((23, 5))

    def weights(z: Tensor) -> Tensor:
        gate = ops.expert_gate(any_device, z, 2)
        return torch.cat([gate.weight.flatten(), 23 * gate.importance])

    def exact(z: Tensor) -> Tensor:
        best = z.topk(2, 1).values
        importance = torch.softmax(z, 1).mean(0)
        return torch.cat([torch.softmax(best, 1).flatten(), 23 * importance])

    check(weights, exact, [logits])
    gate = ops.expert_gate(any_device, logits, 2)
    expected = logits.topk(2, 1).indices
    assert torch.equal(gate.choice.long(), expected)
    torch.testing.assert_close(gate.load, torch.bincount(expected.flatten(), minlength=5) / 46)


def test_expert_ffn(any_device: KernelDevice) -> None:
    index = torch.tensor([[0, 2], [1, 0], [2, 1], [2, 0], [0, 1]], dtype=torch.int32)

    def operation(
        x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, weight: Tensor
    ) -> Tensor:
        return ops.expert_ffn(any_device, x, ops.Experts(w1, b1, w2, b2), index, weight)

    def exact(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, weight: Tensor) -> Tensor:
        chosen = index.long()
        z = torch.einsum("bi,baih->bah", x, w1[chosen]) + b1[chosen]
        y = torch.einsum("bah,baho->bao", F.gelu(z, approximate="tanh"), w2[chosen]) + b2[chosen]
        return torch.einsum("ba,bao->bo", weight, y)

    shapes = ((5, 9), (3, 9, 11), (3, 11), (3, 11, 4), (3, 4), (5, 2))
    check(operation, exact, tensors(*shapes))


def test_feed_forward(any_device: KernelDevice) -> None:
    check(
        lambda x, w1, b1, w2, b2: ops.feed_forward(any_device, x, ops.Experts(w1, b1, w2, b2)),
        lambda x, w1, b1, w2, b2: F.gelu(x @ w1[0] + b1[0], approximate="tanh") @ w2[0] + b2[0],
        tensors((2, 3, 6), (1, 6, 10), (1, 10), (1, 10, 5), (1, 5)),
    )


@pytest.mark.parametrize(("rows", "columns", "bound"), [(10, 7, 21), (10, 3, 7), (4, 2, 8)])
def test_chunks_cover_all_rows_in_order_within_the_bound(
    rows: int, columns: int, bound: int
) -> None:
    parts = ops.chunks(rows, columns, bound)
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
    assert all((part.stop - part.start) * columns <= bound for part in parts)


def test_chunks_have_a_row_each() -> None:
    assert ops.chunks(3, 100, 1) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert ops.chunks(0, 5, 10) == []
