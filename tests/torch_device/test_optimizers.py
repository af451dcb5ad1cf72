"""Optimisers on the device take the steps they take on the processor, and read nothing back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.gpu.runtime import GpuRuntime

pytestmark = pytest.mark.usefixtures("no_fallbacks")

SHAPES = ((3, 4), (5,), (2, 2), (1,), (7, 3), (300, 40))


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def give_gradients(pairs: list[tuple[nn.Parameter, nn.Parameter]], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for index, (host, there) in enumerate(pairs):
        if index == 1 and step == 0:
            continue  # counts of steps then differ between tensors
        host.grad = torch.randn(host.shape, generator=generator)
        there.grad = host.grad.to("wgpu")


def compare(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], steps: int = 5) -> None:
    host = parameters()
    there = [nn.Parameter(p.detach().to("wgpu")) for p in host]
    pairs = list(zip(host, there, strict=True))
    optimizers = [make(host), make(there)]
    for step in range(steps):
        give_gradients(pairs, step)
        for optimizer in optimizers:
            optimizer.step()
    for expected, actual in pairs:
        torch.testing.assert_close(actual.detach().cpu(), expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.AdamW, {"fused": True, "maximize": True, "weight_decay": 0.1}),
        (torch.optim.AdamW, {"fused": True, "lr": torch.tensor(1e-2)}),
        (torch.optim.Adam, {"fused": True, "weight_decay": 0.1}),
        (torch.optim.AdamW, {}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.RMSprop, {}),
    ],
)
def test_steps_are_those_of_the_processor(kind: Any, options: dict[str, Any]) -> None:
    compare(lambda tensors: kind(tensors, **{"lr": 1e-2, **options}))


def test_state_goes_through_the_processor(tmp_path: Any) -> None:
    there = [nn.Parameter(p.detach().to("wgpu")) for p in parameters()]
    host = [nn.Parameter(p.detach().cpu()) for p in there]
    pairs = list(zip(host, there, strict=True))
    reference = torch.optim.AdamW(host, lr=1e-2, fused=True)
    optimizer = torch.optim.AdamW(there, lr=1e-2, fused=True)
    for step in range(6):
        if step == 3:
            torch.save(optimizer.state_dict(), tmp_path / "state.pt")
            loaded = torch.load(tmp_path / "state.pt", map_location="cpu", weights_only=True)
            optimizer = torch.optim.AdamW(there, lr=1e-2, fused=True)
            optimizer.load_state_dict(loaded)
        give_gradients(pairs, step)
        reference.step()
        optimizer.step()
    for expected, actual in pairs:
        torch.testing.assert_close(actual.detach().cpu(), expected.detach(), rtol=1e-5, atol=1e-6)


def test_a_step_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [nn.Parameter(p.detach().to("wgpu")) for p in parameters()]
    optimizer = torch.optim.AdamW(there, lr=1e-2, fused=True)
    for parameter in there:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    reads = []
    read = GpuRuntime.read
    monkeypatch.setattr(GpuRuntime, "read", lambda *a, **k: reads.append(a) or read(*a, **k))
    for _ in range(3):
        optimizer.step()
    assert not reads
    optimizer.state[there[0]]["step"].fill_(100)
    optimizer.step()
    assert len(reads) == 1


def test_clipping_by_the_norm_of_all() -> None:
    host = parameters()
    there = [nn.Parameter(p.detach().to("wgpu")) for p in host]
    give_gradients(list(zip(host, there, strict=True)), 1)
    expected = nn.utils.clip_grad_norm_(host, 0.5)
    actual = nn.utils.clip_grad_norm_(there, 0.5)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)
    for a, b in zip(there, host, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad.cpu(), b.grad, rtol=1e-5, atol=1e-7)


def test_half_parameters_are_stepped_in_float32() -> None:
    weight = nn.Parameter(torch.full((300,), 1.0).half().to("wgpu"))
    weight.grad = torch.full((300,), 1e-3).half().to("wgpu")
    torch.optim.AdamW([weight], lr=0.125, weight_decay=0.0, fused=True).step()
    assert weight.tolist() == pytest.approx([0.875] * 300, abs=1e-3)


def test_amsgrad_is_refused() -> None:
    weight = nn.Parameter(torch.ones(3, device="wgpu"))
    weight.grad = torch.ones(3, device="wgpu")
    with pytest.raises(DeviceError, match="use fused=False"):
        torch.optim.AdamW([weight], amsgrad=True, fused=True).step()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_scaled_steps_are_those_without_a_scale_and_wait_for_one_number(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = parameters()
    there = [nn.Parameter(p.detach().to("wgpu")) for p in host]
    pairs = list(zip(host, there, strict=True))
    reference, optimizer = (kind(p, lr=1e-2, weight_decay=0.1, fused=True) for p in (host, there))
    scaler = torch.amp.GradScaler("wgpu", init_scale=2.0**10)
    scaler.scale(torch.ones((), device="wgpu"))
    reads: list[int] = []
    read = GpuRuntime.read
    monkeypatch.setattr(GpuRuntime, "read", lambda *a, **k: reads.append(1) or read(*a, **k))
    for step in range(1, 6):
        give_gradients(pairs, step)
        torch._foreach_mul_([p.grad for p in there if p.grad is not None], scaler.get_scale())
        if step == 3:
            assert there[2].grad is not None
            there[2].grad[0, 0] = float("inf")
        else:
            reference.step()
        reads.clear()
        scaler.step(optimizer)
        # Once by the scaler and once by the optimiser; the first time all counts together, too.
        assert len(reads) == (3 if step == 1 else 2)
        scaler.update()
    assert scaler.get_scale() == 2.0**9
    for expected, actual in pairs:
        torch.testing.assert_close(actual.detach().cpu(), expected.detach(), rtol=1e-5, atol=1e-6)
        assert optimizer.state[actual]["step"].item() == 4
