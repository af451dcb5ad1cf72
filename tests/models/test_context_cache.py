"""What a cache of splats of the context holds, and what the last position of each text sees."""

from __future__ import annotations

import torch

from ebm_wgpu.models.context_cache import ContextCache
from ebm_wgpu.models.transformer_blocks import KeyValueCache

ROWS, D = 3, 8


def written() -> tuple[ContextCache, torch.Tensor]:
    """Texts of 4, 1 and 3 tokens, read as one padded block, and the keys that were written."""
    slots = torch.zeros(ROWS, 1, 6, 2)
    attention = KeyValueCache(torch.zeros(ROWS, dtype=torch.int64), [slots], [slots.clone()])
    cache = ContextCache(
        attention, torch.zeros(ROWS, 0, D), torch.zeros(ROWS, 0, dtype=torch.int64)
    )
    keys = torch.randn(ROWS, 4, D, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[5, 6, 7, 8], [1, 0, 0, 0], [2, 3, 4, 0]])
    cache.write(torch.arange(4).expand(ROWS, -1), keys, tokens)
    attention.lengths = torch.tensor([4, 1, 3])
    return cache, keys


def test_the_last_position_sees_the_states_before_it() -> None:
    cache, keys = written()
    seen = cache.seen()
    assert seen.sids.tolist() == [[6, 7, 8], [0, 0, 0], [3, 4, 0]]
    assert seen.age.tolist() == [[3, 2, 1], [0, -1, -2], [2, 1, 0]]
    assert torch.equal(seen.keys, keys[:, :3])


def test_new_tokens_take_the_place_of_padding_and_room_grows() -> None:
    cache, keys = written()
    more = torch.randn(ROWS, 2, D)
    places = torch.tensor([[4, 5], [1, 2], [3, 4]])
    cache.attention.reserve(9)
    cache.write(places, more, torch.tensor([[10, 11], [12, 13], [14, 15]]))
    cache.attention.lengths = torch.tensor([6, 3, 5])
    seen = cache.seen()
    assert seen.sids.tolist() == [[6, 7, 8, 10, 11], [12, 13, 0, 0, 0], [3, 4, 14, 15, 0]]
    assert seen.age[:, 0].tolist() == [5, 2, 4]
    assert torch.equal(seen.keys[1, 1:3], more[1])
    assert torch.equal(seen.keys[0, :4], keys[0])
    assert cache.tokens.shape == (ROWS, cache.attention.slots)


def test_a_selection_is_a_copy_that_goes_its_own_way() -> None:
    cache, keys = written()
    two = cache.select(torch.tensor([2, 0]))
    assert two.seen().sids.tolist() == [[3, 4, 0], [6, 7, 8]]
    two.write(torch.tensor([[3], [4]]), torch.ones(2, 1, D), torch.tensor([[9], [9]]))
    assert torch.equal(cache.seen().keys, keys[:, :3])
    assert cache.tokens[2, 3] == 0 and cache.attention.lengths.tolist() == [4, 1, 3]


def test_texts_of_one_token_see_nothing() -> None:
    cache, _ = written()
    seen = cache.select(torch.tensor([1])).seen()
    assert seen.keys.shape == (1, 0, D)
    assert seen.sids.shape == seen.age.shape == (1, 0)
