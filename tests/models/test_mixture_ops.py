"""Mixture and token operations against float64, and their independence of how they are divided."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models import mixture_ops
from ebm_wgpu.models.mixture_ops import Splats
from ebm_wgpu.vmf import log_z0, mean_cosine

ROWS, SPLATS, D = 11, 23, 16
RTOL = 1e-4
"""Of the largest entry: shares err by a few eps |h|, |h| up to 24; gradients are differences."""


class _LogZ0(torch.autograd.Function):
    """log Z0 in float64, with its exact derivative."""

    @staticmethod
    def forward(ctx, k: Tensor, d: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.slope = torch.from_numpy(mean_cosine(k.numpy(), d))
        return torch.from_numpy(np.asarray(log_z0(k.numpy(), d)))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return grad * ctx.slope, None


def exact_log_weights(h: Tensor, mu: Tensor, a: Tensor, log_pi: Tensor) -> Tensor:
    square = a**2 + 2 * a * (h @ mu.T) + (h**2).sum(1, keepdim=True)
    return log_pi + _LogZ0.apply(square.sqrt(), D) - _LogZ0.apply(a, D)


def exact_mean(h: Tensor, mu: Tensor, a: Tensor, log_pi: Tensor) -> Tensor:
    """From A(r)/r, with its derivative by autograd through the ratio log Z0_{d+2} - log Z0_d."""
    square = a**2 + 2 * a * (h @ mu.T) + (h**2).sum(1, keepdim=True)
    r = square.sqrt()
    f = torch.exp(_LogZ0.apply(r, D + 2) - _LogZ0.apply(r, D)) / D
    share = torch.softmax(exact_log_weights(h, mu, a, log_pi), 1) * f
    return (share * a) @ mu + share.sum(1, keepdim=True) * h


@pytest.fixture
def mixture() -> list[Tensor]:
    rng = np.random.default_rng(3)
    mu = rng.standard_normal((SPLATS, D))
    mu /= np.linalg.norm(mu, axis=1, keepdims=True)
    h = 6 * rng.standard_normal((ROWS, D))
    a = (D - 1) * rng.uniform(1, 20, SPLATS)
    log_pi = rng.standard_normal(SPLATS)
    return [torch.from_numpy(v.astype(np.float32)) for v in (h, mu, a, log_pi)]


def compare(actual: list[Tensor], expected: list[Tensor]) -> None:
    for value, truth in zip(actual, expected, strict=True):
        scale = float(truth.detach().abs().max())
        torch.testing.assert_close(value.double(), truth, rtol=0, atol=RTOL * scale)


@pytest.mark.parametrize("chunk", [2**22, 3 * SPLATS])
@pytest.mark.parametrize("kept", [2**26, 0])
def test_mixture_readout(
    any_device: KernelDevice,
    mixture: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
    kept: int,
) -> None:
    monkeypatch.setattr(mixture_ops, "CHUNK_ENTRIES", chunk)
    monkeypatch.setattr(mixture_ops, "KEPT_ENTRIES", kept)
    first = torch.arange(ROWS) % 5
    last = first + 1 + torch.arange(ROWS) % 7
    single = [t.clone().requires_grad_() for t in mixture]
    readout = mixture_ops.mixture_readout(any_device, single[0], Splats(*single[1:]), first, last)

    double = [t.double().requires_grad_() for t in mixture]
    log_w = exact_log_weights(*double)
    log_z = torch.logsumexp(log_w, 1)
    column = torch.arange(SPLATS)
    inside = (column >= first[:, None]) & (column < last[:, None])
    log_mass = torch.logsumexp(log_w.masked_fill(~inside, -torch.inf), 1) - log_z
    truth = [log_z, log_mass, exact_mean(*double)]

    rng = torch.Generator().manual_seed(1)
    upstream = [torch.randn(t.shape, generator=rng) for t in truth]
    torch.autograd.backward(list(readout), upstream)
    torch.autograd.backward(truth, [u.double() for u in upstream])
    compare(list(readout), truth)
    compare([t.grad for t in single], [t.grad for t in double])  # type: ignore[misc]


def test_empty_group_has_no_mass_and_no_gradient(
    any_device: KernelDevice, mixture: list[Tensor]
) -> None:
    single = [t.clone().requires_grad_() for t in mixture]
    bounds = torch.full((ROWS,), 4)
    readout = mixture_ops.mixture_readout(
        any_device, single[0], Splats(*single[1:]), bounds, bounds
    )
    assert torch.all(readout.log_mass == -torch.inf)
    torch.logaddexp(readout.log_mass, torch.zeros(ROWS)).sum().backward()
    assert all(torch.equal(t.grad, torch.zeros_like(t)) for t in single)  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk", [2**22, 3 * SPLATS])
def test_mixture_energy(
    any_device: KernelDevice, mixture: list[Tensor], monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(mixture_ops, "CHUNK_ENTRIES", chunk)
    x = torch.nn.functional.normalize(mixture[1][:ROWS] + 0.1 * mixture[0], dim=1)
    inputs = [x, *mixture[1:]]
    single = [t.clone().requires_grad_() for t in inputs]
    double = [t.double().requires_grad_() for t in inputs]
    energy = mixture_ops.mixture_energy(any_device, single[0], Splats(*single[1:]))
    rows, mu, a, log_pi = double
    truth = -torch.logsumexp(log_pi - _LogZ0.apply(a, D) + a * (rows @ mu.T), 1)
    upstream = torch.linspace(-1, 2, ROWS)
    energy.backward(upstream)
    truth.backward(upstream.double())
    compare([energy, *(t.grad for t in single)], [truth, *(t.grad for t in double)])  # type: ignore[list-item]


@pytest.mark.parametrize("chunk", [2**22, 40])
@pytest.mark.parametrize("kept", [2**26, 0])
def test_target_log_softmax(
    any_device: KernelDevice, monkeypatch: pytest.MonkeyPatch, chunk: int, kept: int
) -> None:
    monkeypatch.setattr(mixture_ops, "CHUNK_ENTRIES", chunk)
    monkeypatch.setattr(mixture_ops, "KEPT_ENTRIES", kept)
    rng = torch.Generator().manual_seed(5)
    inputs = [torch.randn(shape, generator=rng) for shape in ((9, 8), (21, 8), (21,))]
    target = torch.arange(9) * 2
    single = [t.clone().requires_grad_() for t in inputs]
    double = [t.double().requires_grad_() for t in inputs]
    log_p = mixture_ops.target_log_softmax(any_device, *single, target)
    logits = double[0] @ double[1].T + double[2]
    truth = torch.log_softmax(logits, 1)[torch.arange(9), target]
    upstream = torch.linspace(-1, 2, 9)
    log_p.backward(upstream)
    truth.backward(upstream.double())
    compare([log_p, *(t.grad for t in single)], [truth, *(t.grad for t in double)])  # type: ignore[list-item]


def test_posterior_of_log_weights(any_device: KernelDevice, mixture: list[Tensor]) -> None:
    single = [t.clone().requires_grad_() for t in mixture]
    double = [t.double().requires_grad_() for t in mixture]
    h, mu, a, log_pi = single
    log_w = mixture_ops.mixture_log_weights(
        any_device, h @ mu.T, Splats(mu, a, log_pi), h.square().sum(1)
    )
    p, log_z = mixture_ops.mixture_posterior(any_device, log_w)
    exact = exact_log_weights(*double)
    truth = [torch.softmax(exact, 1), torch.logsumexp(exact, 1)]
    rng = torch.Generator().manual_seed(2)
    upstream = [torch.randn(t.shape, generator=rng) for t in truth]
    torch.autograd.backward([p, log_z], upstream)
    torch.autograd.backward(truth, [u.double() for u in upstream])
    compare([p, log_z, *(t.grad for t in single)], [*truth, *(t.grad for t in double)])  # type: ignore[list-item]


@pytest.mark.parametrize("d", [8, 64, 640])
def test_log_peak_and_its_slope(d: int) -> None:
    a = torch.tensor([0.0, 1e-3, 1.0, 50.0, 32000.0], requires_grad=True)
    peak = mixture_ops.log_peak(a, d)
    peak.sum().backward()
    exact = a.detach().double().numpy()
    np.testing.assert_allclose(peak.detach(), exact - log_z0(exact, d), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(a.grad, 1 - mean_cosine(exact, d), rtol=1e-6)  # type: ignore[arg-type]
