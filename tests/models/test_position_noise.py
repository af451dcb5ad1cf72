"""Noise of a position does not depend on how the text is cut."""

from __future__ import annotations

import torch
from scipy import stats

from ebm_wgpu.models.position_noise import position_noise


def test_cutting_changes_nothing() -> None:
    whole = position_noise((7, 1), range(10), 2, 5)
    parts = [position_noise((7, 1), range(a, b), 2, 5) for a, b in ((0, 3), (3, 4), (4, 10))]
    assert torch.equal(whole, torch.cat(parts, 1))


def test_keys_and_positions_are_streams_of_their_own() -> None:
    draws = [
        position_noise(key, [position], 1, 64).flatten()
        for key in ((0, 0), (0, 1), (1, 0), (2**62, 0))
        for position in (0, 1)
    ]
    correlation = torch.corrcoef(torch.stack(draws)).fill_diagonal_(0)
    assert float(correlation.abs().max()) < 0.5


def test_it_is_normal() -> None:
    sample = position_noise((3,), range(40), 10, 50).flatten().numpy()
    assert stats.kstest(sample, "norm").pvalue > 0.01
