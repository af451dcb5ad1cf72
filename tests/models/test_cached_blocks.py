"""Reading through a cache: the same in pieces as at once; padding and limits."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.cached_blocks import CachedBlocks
from ebm_wgpu.models.transformer_blocks import Block
from ebm_wgpu.models.transformer_config import TransformerConfig

SHAPE = TransformerConfig(dim=8, n_layers=2, n_heads=2, max_length=70, rotary_base=50.0)


class Stack(CachedBlocks):
    """Two blocks and nothing else."""

    section: ClassVar[str] = "stack"

    def __init__(self, places: int = SHAPE.max_length) -> None:
        super().__init__(SHAPE, places)
        self.blocks = nn.ModuleList(Block(SHAPE) for _ in range(SHAPE.n_layers))


def make(places: int = SHAPE.max_length) -> Stack:
    torch.manual_seed(0)
    return Stack(places).double()


def whole(stack: Stack, x: torch.Tensor) -> torch.Tensor:
    for block in stack.blocks:
        x = block(x, stack.cos[: x.shape[1]], stack.sin[: x.shape[1]], False)
    return x


@torch.no_grad()
def test_pieces_give_what_the_whole_gives_beyond_the_first_slots() -> None:
    stack, x = make(), torch.randn(1, 70, 8, dtype=torch.float64)
    cache, found = stack.start_cache(1), []
    assert cache.slots == 64
    for piece in x.split([1, 30, 32, 5, 2], 1):
        found.append(stack.read_cached(piece, cache, torch.tensor([piece.shape[1]])))
    torch.testing.assert_close(torch.cat(found, 1), whole(stack, x), rtol=1e-11, atol=1e-12)


@torch.no_grad()
def test_padding_may_reach_past_the_last_position() -> None:
    stack, x = make(), torch.randn(2, 71, 8, dtype=torch.float64)
    cache = stack.start_cache(2)
    stack.read_cached(x[:, :68], cache, torch.tensor([68, 3]))
    found = stack.read_cached(x[:, 68:], cache, torch.tensor([2, 3]))
    torch.testing.assert_close(found[0, :2], whole(stack, x[:1, :70])[0, 68:])
    second = torch.cat((x[1:, :3], x[1:, 68:]), 1)
    torch.testing.assert_close(found[1], whole(stack, second)[0, 3:])
    assert cache.lengths.tolist() == [70, 6]


def test_what_does_not_fit_is_refused_by_the_name_of_the_section() -> None:
    stack = make(places=90)
    cache = stack.start_cache(1)
    message = r"71 tokens of input exceed stack\.max_length=70: shorten"
    with pytest.raises(ConfigError, match=message):
        stack.read_cached(torch.zeros(1, 71, 8).double(), cache, torch.tensor([71]))
    assert cache.lengths.tolist() == [0]
    stack.check_room(70)
