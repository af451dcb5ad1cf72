"""Indexing beyond the operator database: repeated places, indices that do not exist."""

from __future__ import annotations

import torch

import ebm_wgpu.torch_device  # noqa: F401


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _indices(high: int, *shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def test_repeated_places_are_all_counted_in_the_same_order_every_time() -> None:
    index, values = _indices(7, 20_000), _normal(20_000, 3)
    exact = torch.zeros(7, 3, dtype=torch.float64).index_add(0, index, values.double())
    runs = []
    for _ in range(2):
        target = torch.zeros(7, 3, device="wgpu")
        runs.append(target.index_add_(0, index.to("wgpu"), values.to("wgpu")).cpu())
    torch.testing.assert_close(runs[0], exact.float(), rtol=1e-5, atol=1e-4)
    assert torch.equal(runs[0], runs[1])
    put = torch.zeros(7, 3, device="wgpu")
    put.index_put_((index.to("wgpu"),), values.to("wgpu"), accumulate=True)
    assert torch.equal(put.cpu(), runs[0])


def test_whole_numbers_are_counted_exactly() -> None:
    index = _indices(50, 4000)
    counts = torch.zeros(50, dtype=torch.int64, device="wgpu")
    counts.scatter_add_(0, index.to("wgpu"), torch.ones(4000, dtype=torch.int64, device="wgpu"))
    assert torch.equal(counts.cpu(), index.bincount(minlength=50))


def test_what_does_not_exist_is_nan_and_is_not_written() -> None:
    x = torch.arange(5.0).to("wgpu")
    index = torch.tensor([4, 5, -6, -5]).to("wgpu")
    read = x[index].cpu()
    assert read[[0, 3]].tolist() == [4.0, 0.0]
    assert read[1:3].isnan().all()
    x[index] = -1.0
    assert x.cpu().tolist() == [-1.0, 1.0, 2.0, 3.0, -1.0]


def test_a_tensor_may_be_written_from_itself() -> None:
    x = torch.arange(6.0).to("wgpu")
    x.index_copy_(0, torch.tensor([5, 4, 3]).to("wgpu"), x[:3])
    assert x.cpu().tolist() == [0.0, 1.0, 2.0, 2.0, 1.0, 0.0]
