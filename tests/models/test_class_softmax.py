"""The softmax by classes against its definition, and against one softmax over all."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.class_softmax import ClassSoftmax

V, D = 37, 8


def make(bounds: tuple[int, ...], seed: int = 0) -> tuple[ClassSoftmax, torch.Tensor, torch.Tensor]:
    """A softmax of random weights in float64, with the matrix and the bias it is tied to."""
    generator = torch.Generator().manual_seed(seed)
    softmax = ClassSoftmax(V, D, bounds).double()
    with torch.no_grad():
        softmax.class_weight.normal_(generator=generator)
        softmax.class_bias.normal_(generator=generator)
    weight = torch.randn(V, D, generator=generator, dtype=torch.float64)
    return softmax, weight, torch.randn(V, generator=generator, dtype=torch.float64)


@given(
    bounds=st.lists(st.integers(1, V - 1), max_size=4, unique=True).map(sorted).map(tuple),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_probabilities_of_all_tokens_sum_to_one(bounds: tuple[int, ...], seed: int) -> None:
    softmax, weight, bias = make(bounds, seed)
    h = torch.randn(5, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    log_p = softmax.log_probs(h, weight, bias)
    assert log_p.shape == (5, V)
    torch.testing.assert_close(log_p.logsumexp(1), torch.zeros(5, dtype=torch.float64))
    targets = torch.arange(V)
    chosen = softmax.target_log_probs(h[:1].expand(V, -1), weight, bias, targets)
    torch.testing.assert_close(chosen, log_p[0])


def test_definition_with_two_classes() -> None:
    softmax, weight, bias = make((5, 20))
    h = torch.randn(D, dtype=torch.float64)
    logits = (weight @ h + bias).tolist()
    classes = (softmax.class_weight @ h + softmax.class_bias).tolist()
    head = sum(map(math.exp, logits[:5])) + sum(map(math.exp, classes))
    inner = sum(map(math.exp, logits[20:]))
    expected = math.exp(classes[1]) / head * math.exp(logits[30]) / inner
    found = softmax.target_log_probs(h[None], weight, bias, torch.tensor([30]))
    assert found.exp().item() == pytest.approx(expected, rel=1e-12)


def test_without_bounds_it_is_one_softmax() -> None:
    softmax, weight, bias = make(())
    h, targets = torch.randn(6, D, dtype=torch.float64), torch.tensor([0, 5, 36, 7, 7, 1])
    log_p = F.log_softmax(h @ weight.T + bias, 1)
    torch.testing.assert_close(softmax.log_probs(h, weight, bias), log_p)
    chosen = softmax.target_log_probs(h, weight, bias, targets)
    torch.testing.assert_close(chosen, log_p.gather(1, targets[:, None])[:, 0])


def test_starts_from_the_frequencies() -> None:
    softmax = ClassSoftmax(V, D, (4, 9))
    frequency = torch.rand(V, dtype=torch.float64) + 0.1
    log_frequency = (frequency / frequency.sum()).log()
    softmax.reset(log_frequency)
    bias = log_frequency.float()
    log_p = softmax.log_probs(torch.zeros(1, D), torch.randn(V, D), bias)[0]
    torch.testing.assert_close(log_p, bias)


def test_gradients() -> None:
    softmax, weight, bias = make((5, 20))
    h = torch.randn(7, D, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 4, 5, 19, 20, 36, 5])
    inputs = (h, weight.requires_grad_(), bias.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda *values: softmax.target_log_probs(*values, targets), inputs
    )


def test_a_class_without_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="class_bounds=5,37 must lie below the 37 token ids"):
        ClassSoftmax(V, D, (5, 37))
