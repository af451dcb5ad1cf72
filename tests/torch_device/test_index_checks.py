"""Indices and values that do not fit are refused as on the processor, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import ebm_wgpu.torch_device  # noqa: F401

Refused = Callable[[torch.Tensor, str], torch.Tensor]


def _zeros(device: str, *shape: int, kind: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.zeros(shape, dtype=kind, device=device)


def _values(device: str, *shape: int) -> torch.Tensor:
    return torch.ones(shape, device=device)


REFUSED: dict[str, Refused] = {
    "gather rows": lambda x, d: x.gather(1, _zeros(d, 5, 3)),
    "gather dimensions": lambda x, d: x.gather(1, _zeros(d, 2)),
    "scatter rows": lambda x, d: x.scatter_(1, _zeros(d, 5, 3), 1.0),
    "scatter dimensions": lambda x, d: x.scatter_(1, _zeros(d, 2), 1.0),
    "scatter values": lambda x, d: x.scatter_(1, _zeros(d, 2, 3), _values(d, 1, 3)),
    "scatter value dimensions": lambda x, d: x.scatter_(1, _zeros(d, 2, 3), _values(d, 3)),
    "scatter type": lambda x, d: x.scatter_(1, _zeros(d, 2, 3), _zeros(d, 2, 3)),
    "scatter_add rows": lambda x, d: x.scatter_add_(0, _zeros(d, 2, 4), _values(d, 2, 4)),
    "scatter_add values": lambda x, d: x.scatter_add_(1, _zeros(d, 2, 3), _values(d, 2, 2)),
    "index_copy index": lambda x, d: x.index_copy_(0, _zeros(d, 2, 1), _values(d, 2, 3)),
    "index_copy count": lambda x, d: x.index_copy_(0, _zeros(d, 2), _values(d, 3, 3)),
    "index_copy slices": lambda x, d: x.index_copy_(0, _zeros(d, 2), _values(d, 2, 1)),
    "index_copy dimensions": lambda x, d: x.index_copy_(0, _zeros(d, 2), _values(d, 2)),
    "index_copy type": lambda x, d: x.index_copy_(0, _zeros(d, 2), _zeros(d, 2, 3)),
    "index_add slices": lambda x, d: x.index_add_(0, _zeros(d, 2), _values(d, 2, 1)),
    "index_add type": lambda x, d: x.index_add_(0, _zeros(d, 2), _zeros(d, 2, 3)),
    "index_fill index": lambda x, d: x.index_fill_(0, _zeros(d, 2, 1), 1.0),
    "put count": lambda x, d: x.put_(_zeros(d, 2), _values(d, 3)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_processor_refuses_is_refused_and_nothing_is_written(name: str) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        REFUSED[name](torch.zeros(8, 3)[:2], "cpu")
    base = torch.zeros(8, 3, device="wgpu")
    with pytest.raises((RuntimeError, IndexError), match=r"(?i)index|expected|put|source"):
        REFUSED[name](base[:2], "wgpu")
    assert not base.any().item()


def test_a_count_of_indices_is_that_of_the_slices() -> None:
    with pytest.raises(IndexError, match=r"Number of indices \(2\).*\(3\)"):
        torch.zeros(4, 3, device="wgpu").index_add_(0, _zeros("wgpu", 2), _values("wgpu", 3, 3))


@pytest.mark.parametrize("device", ["cpu", "wgpu"])
def test_smaller_indices_and_scalars_are_allowed(device: str) -> None:
    x = torch.arange(6.0, device=device).view(2, 3)
    assert x.gather(1, _zeros(device, 1, 5)).tolist() == [[0.0] * 5]
    x.scatter_(1, _zeros(device, 1, 1) + 2, torch.full((4, 4), 9.0, device=device))
    x.scatter_(0, _zeros(device, 0, 7), _values(device, 1))
    assert x.tolist() == [[0.0, 1.0, 9.0], [3.0, 4.0, 5.0]]
    point = torch.zeros((), device=device)
    point.index_copy_(0, _zeros(device, 1), torch.tensor(4.0, device=device))
    point.index_add_(0, _zeros(device), torch.tensor(2.0, device=device))
    assert point.item() == 6.0
