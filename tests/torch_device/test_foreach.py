"""Norms and factors of many tensors: exact, and in few launches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ebm_wgpu.gpu.runtime import GpuRuntime
from ebm_wgpu.torch_device.foreach import values_of

pytestmark = pytest.mark.usefixtures("no_fallbacks")


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Labels of the kernels that were launched."""
    labels: list[str] = []
    dispatch = GpuRuntime.dispatch

    def counted(self: GpuRuntime, pipeline: Any, *rest: Any) -> None:
        labels.append(pipeline.label)
        dispatch(self, pipeline, *rest)

    monkeypatch.setattr(GpuRuntime, "dispatch", counted)
    yield labels


def drawn(count: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Tensors of several sizes, one of them longer than a part of a sum."""
    generator = torch.Generator().manual_seed(count)
    shapes = [(3, 5 + t) if t % 3 else (t + 1,) for t in range(count)]
    shapes[count // 2] = (9001,)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("count", [1, 16, 37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_norms_are_those_of_float64(count: int, dtype: torch.dtype) -> None:
    tensors = drawn(count, dtype)
    exact = torch.stack([tensor.double().norm() for tensor in tensors])
    found = torch._foreach_norm([tensor.to("wgpu") for tensor in tensors])
    assert {norm.dtype for norm in found} == {dtype}
    rounding = 2.0**-11 if dtype == torch.float16 else 2e-6
    actual = torch.stack([norm.cpu().double() for norm in found])
    torch.testing.assert_close(actual, exact, rtol=rounding, atol=0)


@pytest.mark.parametrize("order", [1, float("inf")])
def test_other_orders_and_mixtures(order: float) -> None:
    tensors = [torch.tensor([3.0, -4.0]), torch.zeros(2, 0), torch.ones(2, 3).half()]
    wide = torch.arange(12.0).view(3, 4).t()
    for given in ([*tensors[::2], wide], [wide[1:, ::2], torch.tensor([-2.0])]):
        for norm_type in (2, order):
            expected = torch._foreach_norm(given, norm_type)
            found = torch._foreach_norm([tensor.to("wgpu") for tensor in given], norm_type)
            for actual, truth in zip(found, expected, strict=True):
                torch.testing.assert_close(actual.cpu(), truth)
    assert torch._foreach_norm([tensors[1].to("wgpu")])[0].item() == 0


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_shows(value: float) -> None:
    tensors = [tensor.to("wgpu") for tensor in drawn(18)]
    tensors[17][1, 2] = value
    norms = torch._foreach_norm(tensors)
    assert [bool(norm.isfinite()) for norm in norms] == [True] * 17 + [False]


@pytest.mark.parametrize("place", [None, "cpu", "wgpu"])
def test_factors_are_applied_to_every_tensor_where_it_stands(place: str | None) -> None:
    factor = 0.3 if place is None else torch.tensor(0.3, device=place)
    host = [*drawn(19), torch.tensor([2.0, 5.0]).half(), torch.zeros(0)]
    base = torch.arange(40.0)
    device_base = base.to("wgpu")
    # One view starts where no array can be bound, and one is not contiguous.
    there = [*(tensor.to("wgpu") for tensor in host), device_base[3:7], device_base[20:30:3]]
    torch._foreach_mul_(there, factor)
    for actual, before in zip(there, host, strict=False):
        torch.testing.assert_close(actual.cpu(), before * 0.3, rtol=1e-6, atol=1e-7)
    expected = base.clone()
    expected[3:7] *= 0.3
    expected[20:30:3] *= 0.3
    torch.testing.assert_close(device_base.cpu(), expected)


def test_whole_numbers_are_multiplied_as_such() -> None:
    numbers = [torch.tensor([2, -3], device="wgpu")]
    torch._foreach_mul_(numbers, 4)
    assert numbers[0].tolist() == [8, -12]


@pytest.mark.parametrize("greatest", [0.5, 1e4])
def test_clipping_is_that_of_torch_in_few_launches(launches: list[str], greatest: float) -> None:
    host = [nn.Parameter(tensor) for tensor in drawn(60)]
    there = [nn.Parameter(tensor.detach().to("wgpu")) for tensor in host]
    for parameter, twin in zip(host, there, strict=True):
        parameter.grad = parameter.detach() / 3
        twin.grad = parameter.grad.to("wgpu")
    launches.clear()
    actual = nn.utils.clip_grad_norm_(there, greatest)
    # Four launches of sixteen tensors for the sums, four for the factor, a dozen for one number.
    assert launches.count("square_sums") == launches.count("many_tensors_scale") == 4
    assert len(launches) <= 20
    exact = [parameter.grad.double() for parameter in host if parameter.grad is not None]
    norm = torch.stack([grad.norm() for grad in exact]).norm()
    assert actual.item() == pytest.approx(norm.item(), rel=1e-6)
    factor = min(1.0, greatest / (norm.item() + 1e-6))
    for twin, truth in zip(there, exact, strict=True):
        assert twin.grad is not None
        torch.testing.assert_close(twin.grad.cpu().double(), truth * factor, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_numbers_are_added_where_the_tensors_stand(dtype: torch.dtype, launches: list[str]) -> None:
    host = drawn(33, dtype)
    there = [tensor.to("wgpu") for tensor in host]
    launches.clear()
    torch._foreach_add_(there, 0.375)
    assert launches.count("many_tensors_shift") == len(launches) - 1 == 3
    number = torch.tensor(0.75, device="wgpu")
    torch._foreach_sub_(there, [number] * 33, alpha=2)
    for actual, before in zip(there, host, strict=True):
        expected = (before.float() + 0.375).to(dtype).sub(0.75, alpha=2)
        torch.testing.assert_close(actual.cpu(), expected, rtol=1e-6, atol=1e-6)
    torch._foreach_sub_(there, [tensor.clone() for tensor in there])
    assert not any(tensor.any().item() for tensor in there)
    whole = [torch.tensor([2, -3], device="wgpu")]
    torch._foreach_add_(whole, 4)
    torch._foreach_sub_(whole, whole)
    assert whole[0].tolist() == [0, 0]


def test_what_autograd_saved_may_not_be_changed_unnoticed() -> None:
    for change in (
        lambda t: torch._foreach_mul_([t], 2.0),
        lambda t: torch._foreach_add_([t], 1),
        lambda t: torch._foreach_sub_([t], [torch.ones((), device="wgpu")]),
    ):
        leaf = torch.ones(3, device="wgpu", requires_grad=True)
        saved = leaf * 1
        result = saved.exp() * saved
        change(saved.detach())
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            result.sum().backward()


def test_values_that_are_known_are_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [torch.full((), float(n), device="wgpu") for n in range(20)]
    reads: list[int] = []
    read = GpuRuntime.read
    monkeypatch.setattr(GpuRuntime, "read", lambda *a, **k: reads.append(1) or read(*a, **k))
    assert values_of(counts) == list(range(20))
    torch._foreach_add_(counts, 1)
    assert values_of(counts) == list(range(1, 21))
    assert len(reads) == 1
    counts[3].fill_(100)
    torch._foreach_mul_(counts[4:5], 2.0)
    assert values_of(counts)[3:6] == [100, 10, 6]
    assert len(reads) == 2
    assert [count.item() for count in counts][3:6] == [100, 10, 6]
    neighbours = list(torch.arange(3.0, device="wgpu").unbind())
    for _ in range(2):
        assert values_of(neighbours) == [0, 1, 2]
