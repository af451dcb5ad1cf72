"""Distinct tokens lead back to the tokens, with room for more too."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.models.distinct import Distinct, room_for


@given(
    ids=st.lists(st.integers(0, 20), min_size=1, max_size=50),
    more=st.integers(min_value=0, max_value=9),
)
def test_distinct_tokens_lead_back_to_the_tokens(ids: list[int], more: int) -> None:
    distinct = Distinct.of(torch.tensor(ids))
    assert distinct.tokens.tolist() == sorted(set(ids))
    padded = distinct.padded(len(distinct.tokens) + more)
    assert padded.tokens.tolist() == sorted(set(ids)) + [0] * more
    for each in (distinct, padded):
        assert each.tokens[each.which].tolist() == ids


@given(count=st.integers(1, 10**6))
def test_room_is_one_of_few_numbers_and_near(count: int) -> None:
    room = room_for(count)
    assert count <= room < max(1.5 * count, 2)
    assert room_for(room) == room
    assert room.bit_count() <= 2
