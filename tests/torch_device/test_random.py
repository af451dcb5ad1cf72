"""Random numbers: streams that repeat, the right distributions, dropout with its gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from torch.utils.checkpoint import checkpoint

import ebm_wgpu.torch_device as torch_device
from ebm_wgpu.errors import DeviceError
from ebm_wgpu.kernels import _philox
from ebm_wgpu.kernels._attention import STREAM_ATTENTION
from ebm_wgpu.kernels._philox import normal_reference, philox_reference
from ebm_wgpu.kernels.dropout import STREAM_DROPOUT
from ebm_wgpu.torch_device.random import _STREAM

COUNT = 20_000


def _empty(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="wgpu")


def test_a_seed_gives_a_stream_that_philox_gives_too() -> None:
    torch.manual_seed(11)
    first, second = torch.randn(5, 7, device="wgpu"), torch.randn(5, 7, device="wgpu")
    torch.manual_seed(11)
    assert torch.equal(torch.randn(5, 7, device="wgpu").cpu(), first.cpu())
    assert not torch.equal(second.cpu(), first.cpu())
    exact = torch.from_numpy(normal_reference([0], 35, 1, _STREAM, 11)).float().view(5, 7)
    torch.testing.assert_close(first.cpu(), exact, rtol=1e-5, atol=1e-6)


def test_distributions() -> None:
    torch.manual_seed(0)
    drawn = {
        "uniform": (_empty(COUNT).uniform_(-2, 3), stats.uniform(-2, 5)),
        "normal": (_empty(COUNT).normal_(1, 2), stats.norm(1, 2)),
        "exponential": (_empty(COUNT).exponential_(0.5), stats.expon(scale=2)),
    }
    for name, (numbers, distribution) in drawn.items():
        assert stats.kstest(numbers.cpu().numpy(), distribution.cdf).pvalue > 1e-3, name
    ones = _empty(COUNT).bernoulli_(0.3).sum().item()
    assert stats.binomtest(int(ones), COUNT, 0.3).pvalue > 1e-3
    whole = torch.randint(-3, 7, (COUNT,), device="wgpu").cpu()
    assert stats.chisquare((whole + 3).bincount(minlength=10).numpy()).pvalue > 1e-3
    large = torch.randint(0, 2**31 - 1, (COUNT,), device="wgpu").cpu().double() / (2**31 - 1)
    assert stats.kstest(large.numpy(), "uniform").pvalue > 1e-3
    assert torch.equal(torch.randperm(3000, device="wgpu").cpu().sort().values, torch.arange(3000))


def test_whole_numbers_of_a_wide_range_are_even() -> None:
    torch.manual_seed(0)
    high = 12_582_912  # 3 * 2^22: draws of 2^24 words would be twice as likely in the lowest third
    thirds = (torch.randint(0, high, (COUNT,), device="wgpu").cpu() // 2**22).bincount(minlength=3)
    assert stats.chisquare(thirds.numpy()).pvalue > 1e-3
    lowest = torch.randint(0, high, (COUNT,), device="wgpu").cpu() % 3
    assert stats.chisquare(lowest.bincount(minlength=3).numpy()).pvalue > 1e-3


def test_whole_numbers_are_words_of_philox_times_the_range() -> None:
    torch.manual_seed(5)
    found = torch.randint(-7, 12_582_905, (9,), device="wgpu").tolist()
    words = philox_reference(torch.arange(5).numpy(), 1, 0, _STREAM, 5).astype(object)
    long = [int(word[n]) << 32 | int(word[n + 1]) for word in words for n in (0, 2)]
    assert found == [(word * 12_582_912 >> 64) - 7 for word in long[:9]]
    whole = torch.empty(2000, dtype=torch.int64, device="wgpu").random_(-(2**31), 2**31).cpu()
    assert stats.kstest(whole.double() / 2**31, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    with pytest.raises(DeviceError, match="does not fit"):
        torch.randint(0, 2**33, (3,), device="wgpu")


def test_no_other_numbers_share_the_stream() -> None:
    samplers = {value for name, value in vars(_philox).items() if name.startswith("STREAM_")}
    assert _STREAM not in samplers | {STREAM_DROPOUT, STREAM_ATTENTION}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0, -1.0], "element < 0"),
        ([1.0, float("nan")], "`nan`"),
        ([1.0, float("inf")], "`inf`"),
        ([[1.0, 0.0], [0.0, 0.0]], "sum of probabilities <= 0"),
        ([[[1.0]]], "1 or 2 dim"),
    ],
)
@pytest.mark.parametrize("replacement", [False, True])
def test_weights_that_cannot_be_drawn_from_are_refused(
    weights: Any, words: str, replacement: bool
) -> None:
    with pytest.raises(RuntimeError, match=words):
        torch.tensor(weights, device="wgpu").multinomial(1, replacement)


def test_weights_are_drawn_in_proportion() -> None:
    torch.manual_seed(0)
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0, 6.0])
    expected = weights[[1, 2, 4]].numpy() * COUNT / 10
    many = weights.to("wgpu").multinomial(COUNT, True).cpu().bincount(minlength=5)
    each = weights.to("wgpu").expand(COUNT, 5).multinomial(1).view(-1).cpu().bincount(minlength=5)
    for counts in (many, each):
        assert counts[[0, 3]].tolist() == [0, 0]
        assert stats.chisquare(counts[[1, 2, 4]].numpy(), expected).pvalue > 1e-3
    pairs = weights.to("wgpu").expand(200, 5).multinomial(3).cpu().sort(1).values
    assert torch.equal(pairs, torch.tensor([1, 2, 4]).expand(200, 3))
    with pytest.raises(RuntimeError, match="without replacement"):
        weights.to("wgpu").multinomial(6)


def test_dropout_keeps_the_mean_and_its_gradient_the_mask() -> None:
    torch.manual_seed(0)
    x = torch.ones(COUNT, device="wgpu", requires_grad=True)
    y = torch.nn.functional.dropout(x, 0.25)
    assert x.grad is None
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad.cpu(), y.detach().cpu())
    kept = int(y.detach().ne(0).sum().item())
    assert stats.binomtest(kept, COUNT, 0.75).pvalue > 1e-3
    assert y.max().item() == pytest.approx(4 / 3, rel=1e-6)
    assert torch.equal(torch.nn.functional.dropout(x, 0.25, training=False).cpu(), x.detach().cpu())


def test_dropout_is_one_kernel_and_can_be_differentiated_twice() -> None:
    x = torch.linspace(-1, 1, 1000).to("wgpu").requires_grad_()
    runtime = torch_device.device().runtime
    before = runtime.dispatches
    y = torch.nn.functional.dropout(x, 0.25)
    assert runtime.dispatches == before + 1
    pull = torch.ones_like(y)
    before = runtime.dispatches
    torch.autograd.grad(y, x, pull, retain_graph=True)
    assert runtime.dispatches == before + 1
    (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    scale = (y / x).detach().cpu()
    expected = 6 * scale**3 * x.detach().cpu()
    torch.testing.assert_close(second.cpu(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_dropout_of_no_probability_is_refused(p: float) -> None:
    with pytest.raises(RuntimeError, match="has to be between 0 and 1"):
        torch.dropout(torch.ones(3, device="wgpu"), p, True)


def test_all_may_be_dropped_or_none() -> None:
    x = torch.linspace(1, 2, 9).half().to("wgpu")
    assert torch.dropout(x, 1.0, True).abs().sum().item() == 0
    assert torch.equal(torch.dropout(x, 0.0, True).cpu(), x.cpu())
    assert torch.dropout(x, 0.5, True).dtype == torch.float16


def test_checkpointed_layers_drop_the_same_entries_again() -> None:
    def layer(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(x.exp(), 0.5) * x

    x = torch.linspace(0, 1, 500).to("wgpu").requires_grad_()
    torch.manual_seed(3)
    (plain,) = torch.autograd.grad(layer(x).sum(), x)
    torch.manual_seed(3)
    kept = checkpoint(layer, x, use_reentrant=False)
    (again,) = torch.autograd.grad(kept.sum(), x)
    assert torch.equal(plain.cpu(), again.cpu())
