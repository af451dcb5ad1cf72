"""Tensors of parts: types, empty parts, triangles, turns."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ebm_wgpu.torch_device  # noqa: F401
from ebm_wgpu.gpu.runtime import GpuRuntime


def test_parts_of_several_types_and_empty_ones() -> None:
    parts = [torch.tensor([1, 2]), torch.tensor([]), torch.tensor([0.5]), torch.tensor([True])]
    found = torch.cat([part.to("wgpu") for part in parts])
    assert found.dtype == torch.float32
    assert found.cpu().tolist() == [1.0, 2.0, 0.5, 1.0]
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        torch.cat([torch.ones(2, 3, device="wgpu"), torch.ones(2, 2, device="wgpu")])


def test_pieces_in_their_order_are_copied_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[Any] = []
    dispatch = GpuRuntime.dispatch

    def counted(runtime: GpuRuntime, *arguments: Any) -> None:
        launches.append(arguments)
        dispatch(runtime, *arguments)

    monkeypatch.setattr(GpuRuntime, "dispatch", counted)
    rows = torch.arange(24.0).view(8, 3)
    there = rows.to("wgpu")
    pieces = {
        "in order": [slice(1, 2), slice(2, 5), slice(5, 5), slice(5, 8)],
        "out of order": [slice(2, 5), slice(1, 2)],
        "with a gap": [slice(0, 2), slice(3, 4)],
        "twice": [slice(0, 2), slice(0, 2)],
    }
    for name, parts in pieces.items():
        launches.clear()
        found = torch.cat([there[part] for part in parts])
        assert (len(launches) == 1) == (name == "in order"), name
        assert torch.equal(found.cpu(), torch.cat([rows[part] for part in parts])), name
    assert torch.equal(torch.cat([there[:2, :2], there[:2, 2:]], 1).cpu(), rows[:2])
    assert torch.equal(torch.stack(list(there[0].unbind())).cpu(), rows[0])


def test_parts_may_be_views_and_gradients_return_to_them() -> None:
    x = torch.arange(12.0).view(3, 4).to("wgpu").requires_grad_()
    y = torch.cat([x.t(), x[:, :3]], 0)
    assert torch.equal(y.cpu(), torch.cat([x.cpu().t(), x.cpu()[:, :3]], 0))
    (y * y).sum().backward()
    assert x.grad is not None
    assert x.grad.cpu().tolist() == [
        [4.0 * v if v % 4 != 3 else 2.0 * v for v in range(4 * r, 4 * r + 4)] for r in range(3)
    ]


@pytest.mark.parametrize("diagonal", [-3, 0, 2])
def test_triangles_of_whole_numbers_truth_values_and_floats(diagonal: int) -> None:
    whole = torch.arange(30).view(2, 3, 5) + 1
    for x in (whole, whole > 9, whole.float()):
        assert torch.equal(x.to("wgpu").tril(diagonal).cpu(), x.tril(diagonal))
        assert torch.equal(x.to("wgpu").triu(diagonal).cpu(), x.triu(diagonal))
    in_place = whole.float().to("wgpu")
    assert torch.equal(in_place.tril_(diagonal).cpu(), whole.float().tril(diagonal))


def test_turns_of_views() -> None:
    x = torch.arange(24).view(2, 3, 4).transpose(0, 2)
    assert torch.equal(x.to("wgpu").flip(0, 2).cpu(), x.flip(0, 2))
    assert torch.equal(x.to("wgpu").roll((1, -2), (0, 1)).cpu(), x.roll((1, -2), (0, 1)))
    assert torch.equal(x.to("wgpu").roll(5).cpu(), x.roll(5))


def test_places_repeated_as_often_as_a_tensor_says() -> None:
    x = torch.arange(5.0)
    repeats = torch.tensor([0, 3, 0, 1, 0])
    found = x.to("wgpu").repeat_interleave(repeats.to("wgpu"))
    assert found.cpu().tolist() == [1.0, 1.0, 1.0, 3.0]


def test_numbers_evenly_spread_end_where_they_should() -> None:
    for steps in (0, 1, 2, 7, 1000):
        found = torch.linspace(-1, 3, steps, device="wgpu").cpu()
        torch.testing.assert_close(found, torch.linspace(-1, 3, steps), rtol=1e-6, atol=2e-7)
        if steps > 1:
            assert found[[0, -1]].tolist() == [-1.0, 3.0]
