"""Laws of the ring: what is kept, what is drawn, what a checkpoint brings back."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ebm_wgpu.models.replay_buffer import ReplayBuffer


def window(number: int, count: int, length: int, width: int = 3) -> tuple[Tensor, Tensor]:
    """`count` windows of `length` positions that carry the numbers number, number + 1, ..."""
    numbers = torch.arange(number, number + count)
    tokens = numbers[:, None].expand(count, length + 1)
    return tokens, numbers[:, None, None].expand(count, length, width).float()


def kept(buffer: ReplayBuffer, length: int) -> list[int]:
    drawn = buffer.draw(buffer.capacity, length, torch.Generator().manual_seed(0))
    return [] if drawn is None else sorted(drawn.tokens[:, 0].tolist())


@given(st.integers(1, 7), st.lists(st.integers(1, 9), max_size=6))
def test_it_keeps_the_newest(capacity: int, counts: list[int]) -> None:
    buffer, number = ReplayBuffer(capacity, 4, 3), 0
    for count in counts:
        buffer.push(*window(number, count, 4))
        number += count
    assert len(buffer) == min(number, capacity)
    assert kept(buffer, 4) == list(range(max(0, number - capacity), number))


@given(st.integers(1, 8), st.integers(0, 2**40))
def test_draws_are_different_windows_with_their_states(count: int, seed: int) -> None:
    buffer = ReplayBuffer(6, 4, 3)
    buffer.push(*window(10, 6, 4))
    draws = [buffer.draw(count, 4, torch.Generator().manual_seed(seed)) for _ in range(2)]
    for drawn in draws:
        assert drawn is not None
        numbers = drawn.tokens[:, 0]
        assert len(set(numbers.tolist())) == len(numbers) == min(count, 6)
        assert drawn.states.shape == (len(numbers), 4, 3)
        torch.testing.assert_close(drawn.states[:, 0, 0], numbers.float())
    assert draws[0] is not None and draws[1] is not None
    assert torch.equal(draws[0].slots, draws[1].slots)


def test_only_windows_of_the_same_length_are_drawn() -> None:
    buffer = ReplayBuffer(6, 4, 3)
    buffer.push(*window(0, 2, 4))
    buffer.push(*window(2, 3, 2))
    assert kept(buffer, 4) == [0, 1]
    assert kept(buffer, 2) == [2, 3, 4]
    assert buffer.draw(3, 3, torch.Generator()) is None


def test_update_replaces_states_where_they_were_drawn() -> None:
    buffer = ReplayBuffer(4, 2, 3)
    buffer.push(*window(0, 4, 2))
    drawn = buffer.draw(2, 2, torch.Generator().manual_seed(5))
    assert drawn is not None
    buffer.update(drawn, drawn.states + 100)
    everything = buffer.draw(4, 2, torch.Generator())
    assert everything is not None
    chosen = set(drawn.tokens[:, 0].tolist())
    for tokens, states in zip(everything.tokens, everything.states, strict=True):
        number = int(tokens[0])
        assert states[0, 0].item() == number + 100 * (number in chosen)


def test_states_beyond_half_precision_are_bounded() -> None:
    buffer = ReplayBuffer(1, 1, 2)
    buffer.push(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[[1e9, -1e9]]]))
    drawn = buffer.draw(1, 1, torch.Generator())
    assert drawn is not None
    assert drawn.states.tolist() == [[[65504.0, -65504.0]]]


def test_it_comes_back_from_its_state() -> None:
    before, after = ReplayBuffer(5, 3, 3), ReplayBuffer(5, 3, 3)
    before.push(*window(0, 7, 3))
    after.load_state_dict(before.state_dict())
    for buffer in (before, after):
        buffer.push(*window(7, 1, 3))
    assert kept(after, 3) == kept(before, 3) == [3, 4, 5, 6, 7]
    after.clear()
    assert len(after) == 0
    assert kept(after, 3) == []
