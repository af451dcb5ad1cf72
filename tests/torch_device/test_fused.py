"""Fused operators against the processor: values, three gradients, halves, views, memory."""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ebm_wgpu.torch_device as torch_device
from ebm_wgpu.gpu.runtime import GpuRuntime
from ebm_wgpu.models.activations import linear_gelu, swiglu
from ebm_wgpu.models.linear_cross_entropy import linear_cross_entropy
from ebm_wgpu.models.mixture_ops import log_peak
from ebm_wgpu.models.rotary import attention_heads, rotary_table
from ebm_wgpu.vmf import log_z0, mean_cosine

pytestmark = pytest.mark.usefixtures("no_fallbacks")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each kernel was recorded."""
    found: Counter[str] = Counter()
    record = GpuRuntime.dispatch

    def count(self: GpuRuntime, pipeline: Any, *rest: Any) -> None:
        found[pipeline.label] += 1
        record(self, pipeline, *rest)

    monkeypatch.setattr(GpuRuntime, "dispatch", count)
    yield found


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def heads_of(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries, keys and values of three heads of x (B, T, 3 x 3 x 8), each to count otherwise."""
    tables = [table.to(x.device, x.dtype) for table in (cos, sin)]
    query, key, value = attention_heads(x, 3, *tables)
    return torch.cat((query, 2 * key, value.square()), -1)


TABLES = rotary_table(40, 8)
PLACES = torch.tensor([[3, 4, 5, 6, 7], [0, 1, 2, 3, 4]])
CALLS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "heads": (lambda x: heads_of(x, *(table[7:12] for table in TABLES)), (2, 5, 72)),
    "heads of texts": (
        lambda x: heads_of(x, *(table[PLACES][:, None] for table in TABLES)),
        (2, 5, 72),
    ),
    "heads of columns": (
        lambda x: heads_of(x.transpose(1, 2), *(table[:5] for table in TABLES)),
        (2, 72, 5),
    ),
    "swiglu": (swiglu, (2, 3, 14)),
    "swiglu of a part": (lambda x: swiglu(x[:, 1:7]), (3, 8)),
}


@pytest.mark.parametrize("name", CALLS)
def test_values_and_three_gradients(name: str) -> None:
    call, shape = CALLS[name]
    results = []
    for place, dtype in (("cpu", torch.float64), ("wgpu", torch.float32)):
        x = normal(*shape).to(place, dtype).requires_grad_()
        out = call(x)
        pull = torch.linspace(-1, 1, out.numel()).view(out.shape).to(place, dtype).requires_grad_()
        (plain,) = torch.autograd.grad(out, x, pull, retain_graph=True)
        (first,) = torch.autograd.grad(out, x, pull, create_graph=True)
        rest = (first.square() * (1 + x)).sum()
        second = torch.autograd.grad(rest, (x, pull), retain_graph=True)
        again = torch.autograd.grad(rest, (x, pull), create_graph=True)
        third = torch.autograd.grad(again[0].square().sum(), (x, pull), materialize_grads=True)
        found = (out, plain, first, *second, *again, *third)
        results.append([t.detach().cpu().double() for t in found])
    for expected, actual in zip(*results, strict=True):
        scale = 1 + float(expected.abs().max())
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-6 * scale)


@pytest.mark.parametrize("name", CALLS)
def test_halves_are_computed_in_single_precision(name: str) -> None:
    call, shape = CALLS[name]
    x = normal(*shape).half()
    exact, found = x.double().requires_grad_(), x.to("wgpu").requires_grad_()
    expected, actual = call(exact), call(found)
    pull = torch.ones_like(expected)
    (wanted,) = torch.autograd.grad(expected, exact, pull)
    (gradient,) = torch.autograd.grad(actual, found, pull.to("wgpu", torch.float16))
    assert actual.dtype == gradient.dtype == torch.float16
    # One rounding to float16; cos and sin were rounded as well.
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=1e-3, atol=4e-3)
    torch.testing.assert_close(gradient.cpu().double(), wanted, rtol=1e-3, atol=4e-3)


def test_each_is_one_kernel_and_so_is_its_gradient(launched: Counter[str]) -> None:
    x, z = (t.to("wgpu").requires_grad_() for t in (normal(2, 5, 72), normal(3, 8)))
    cos, sin = (table[:5].to("wgpu") for table in TABLES)
    launched.clear()
    outputs = [*attention_heads(x, 3, cos, sin), swiglu(z)]
    assert launched == {"attention_heads": 1, "swiglu": 1}
    pulls = [torch.ones_like(t) for t in outputs]
    launched.clear()
    first = torch.autograd.grad(outputs, [x, z], pulls, create_graph=True)
    assert launched == {"attention_heads_backward": 1, "swiglu_backward": 1}
    launched.clear()
    torch.autograd.grad(first[1], z, pulls[-1].new_ones(z.shape))
    assert launched["swiglu_double_backward"] == 1
    assert sum(launched.values()) <= 2  # ones are written by a kernel


def test_a_linear_layer_applies_gelu_itself_where_no_gradient_is_wanted(
    launched: Counter[str],
) -> None:
    x, weight = normal(2, 6, 12), normal(20, 12)
    expected = F.gelu(F.linear(x.double(), weight.double()), approximate="tanh")
    there = x.to("wgpu"), weight.to("wgpu")
    launched.clear()
    found = linear_gelu(*there)
    assert sum(launched.values()) == 1
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-5, atol=1e-5)
    leaves = [t.requires_grad_() for t in there]
    with torch.no_grad():
        assert torch.equal(linear_gelu(*leaves).cpu(), found.cpu())
    upstream = torch.linspace(-1, 1, expected.numel()).view(expected.shape)
    exact = [t.double().requires_grad_() for t in (x, weight)]
    wanted = torch.autograd.grad(linear_gelu(*exact), exact, upstream.double())
    for one, other in zip(
        torch.autograd.grad(linear_gelu(*leaves), leaves, upstream.to("wgpu")), wanted, strict=True
    ):
        torch.testing.assert_close(one.cpu().double(), other, rtol=1e-5, atol=1e-5)


def test_a_linear_layer_follows_autocast() -> None:
    x, weight = normal(3, 12).to("wgpu"), normal(20, 12).to("wgpu")
    with torch.autocast("wgpu"):
        lower = linear_gelu(x, weight)
    assert lower.dtype == torch.float16
    expected = linear_gelu(x.half().float(), weight.half().float())
    torch.testing.assert_close(lower.float().cpu(), expected.cpu(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("entries", "smoothing", "lower"),
    [(1, 0.0, False), (110, 0.2, False), (10**6, 0.2, False), (110, 0.2, True)],
)
def test_chunked_losses_and_gradients(entries: int, smoothing: float, lower: bool) -> None:
    leaves = [normal(13, 5), normal(11, 5) / 2, normal(11)]
    targets = torch.arange(13) % 11
    exact = [t.double().requires_grad_() for t in leaves]
    loss = F.cross_entropy(F.linear(*exact), targets, label_smoothing=smoothing)
    there = [t.to("wgpu").requires_grad_() for t in leaves]
    with torch.autocast("wgpu", enabled=lower):
        found = linear_cross_entropy(*there, targets.to("wgpu"), entries, smoothing)
    with torch.no_grad(), torch.autocast("wgpu", enabled=lower):
        value = linear_cross_entropy(*there, targets.to("wgpu"), entries, smoothing)
    assert found.dtype == torch.float32
    assert not value.requires_grad
    # Logits of size 3 from operands rounded to 2^-11.
    width = 4e-3 if lower else 2e-6
    assert abs(found.item() - loss.item()) < width
    assert abs(value.item() - loss.item()) < width
    for one, other in zip(
        torch.autograd.grad(3 * found, there), torch.autograd.grad(3 * loss, exact), strict=True
    ):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.cpu().double(), other, rtol=0, atol=3 * width)


@pytest.mark.parametrize("target", [-1, -100, 3])
def test_a_target_outside_the_vocabulary_gives_no_number(target: int) -> None:
    h, weight, bias = (normal(*shape).to("wgpu") for shape in ((2, 4), (3, 4), (3,)))
    targets = torch.tensor([0, target], device="wgpu")
    assert linear_cross_entropy(h, weight, bias, targets, 100).isnan()


def test_a_chunk_of_logits_is_held_once() -> None:
    rows, columns, chunk = 96, 4000, 24
    h, weight = (normal(n, 8).to("wgpu").requires_grad_() for n in (rows, columns))
    bias = torch.zeros(columns, device="wgpu", requires_grad=True)
    targets = torch.arange(rows, device="wgpu")
    gc.collect()
    pool = torch_device.device().runtime.pool
    pool.reset_peak()
    before = pool.live_bytes
    loss = linear_cross_entropy(h, weight, bias, targets, chunk * columns)
    # The chunk, gradients of weight and bias, and what is small.
    assert pool.peak_bytes - before < 1.15 * 4 * columns * (chunk + 8 + 2)
    loss.backward()
    assert weight.grad is not None


@pytest.mark.parametrize("shape", [(), (7,), (3, 5)])
def test_the_log_density_at_the_mode_follows_float64(shape: tuple[int, ...]) -> None:
    a = torch.linspace(0, 300, max(1, math.prod(shape))).reshape(shape)
    there = a.to("wgpu").requires_grad_()
    peak = log_peak(there, 64)
    (slope,) = torch.autograd.grad(peak.sum(), there)
    exact = a.double().numpy()
    np.testing.assert_allclose(peak.detach().cpu(), exact - log_z0(exact, 64), rtol=1e-6)
    np.testing.assert_allclose(slope.cpu(), 1 - mean_cosine(exact, 64), rtol=1e-6)
