"""Dropout against its definition: what is dropped, how often, and what becomes of the rest."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from ebm_wgpu.models.dropout import dropout

N = 200_000


@pytest.mark.parametrize("share", [0.1, 0.35, 0.5])
def test_kept_elements_are_scaled_and_the_others_are_zero(share: float) -> None:
    x = torch.rand(N) + 1
    found = dropout(x, share)
    kept = found != 0
    level = round(share * 2**16) / 2**16
    torch.testing.assert_close(found[kept], x[kept] / (1 - level))
    dropped = int((~kept).sum())
    assert stats.binomtest(dropped, N, level).pvalue > 1e-4


def test_elements_that_share_a_word_are_independent() -> None:
    kept = (dropout(torch.ones(N), 0.5) != 0).view(-1, 4).long()
    patterns = torch.bincount(kept @ torch.tensor([8, 4, 2, 1]), minlength=16)
    assert stats.chisquare(patterns.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_any_number_of_elements_and_a_share_of_zero(n: int) -> None:
    x = torch.rand(n)
    assert torch.equal(dropout(x, 0.0), x)


def test_the_gradient_is_the_mask() -> None:
    x = torch.rand(7, 11, requires_grad=True)
    found = dropout(x, 0.25)
    found.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x.detach(), found.detach())


def test_it_follows_the_random_state_of_torch() -> None:
    x = torch.ones(4096)
    torch.manual_seed(5)
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    torch.manual_seed(5)
    assert torch.equal(dropout(x, 0.5), first)
    assert not torch.equal(first, second)
