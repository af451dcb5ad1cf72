"""The grid of the pointwise kernels: few dimensions, and the same entries as torch's views."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ebm_wgpu.torch_device  # noqa: F401
from ebm_wgpu.torch_device.grid import collapse


def test_dimensions_that_walk_alike_become_one() -> None:
    assert collapse((2, 3, 4), [(12, 4, 1), (12, 4, 1)]) == [(24, [1, 1])]
    assert collapse((2, 3, 4), [(12, 4, 1), (0, 4, 1)]) == [(2, [12, 0]), (12, [1, 1])]
    assert collapse((2, 1, 4), [(4, 4, 1)]) == [(8, [1])]
    assert collapse((), [()]) == []


def test_the_first_tensor_is_walked_in_the_order_of_its_memory() -> None:
    assert collapse((4, 3), [(1, 4), (3, 1)]) == [(3, [4, 1]), (4, [1, 3])]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=7), st.integers(0, 2**32 - 1))
def test_any_rank_and_broadcast_is_added_as_on_the_processor(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)

    def operand() -> tuple[torch.Tensor, torch.Tensor]:
        axes = rng.permutation(len(sizes)).tolist()
        shape = [size if rng.random() < 0.7 else 1 for size in sizes]
        base = torch.from_numpy(rng.integers(-9, 9, [shape[axis] for axis in axes])).float()
        back = np.argsort(axes).tolist()
        drop = int(rng.integers(0, len(sizes))) if rng.random() < 0.3 else 0
        host, device = base.permute(back), base.to("wgpu").permute(back)
        index = (0,) * drop
        return host[index], device[index]

    (a, on_a), (b, on_b) = operand(), operand()
    result = on_a + on_b
    assert torch.equal(result.cpu(), a + b)
    for size, step, expected in zip(result.shape, result.stride(), (a + b).stride(), strict=True):
        assert size == 1 or step == expected


@pytest.mark.parametrize(
    ("target", "source", "words"),
    [
        ((3,), (4,), r"size of tensor a \(3\).*b \(4\) at non-singleton dimension 0"),
        ((4,), (2,), r"size of tensor a \(4\).*b \(2\)"),
        ((2, 3), (2, 1, 4), r"size of tensor a \(3\).*b \(4\) at non-singleton dimension 2"),
        ((4,), (1, 4), r"output with shape \[4\] doesn't match the broadcast shape \[1, 4\]"),
        ((1,), (4,), r"output with shape \[1\] doesn't match the broadcast shape \[4\]"),
        ((0,), (2,), r"size of tensor a \(0\).*b \(2\)"),
    ],
)
@pytest.mark.parametrize("place", ["cpu", "wgpu"])
def test_what_does_not_broadcast_is_refused_in_the_processors_words(
    target: tuple[int, ...], source: tuple[int, ...], words: str, place: str
) -> None:
    with pytest.raises(RuntimeError, match=words):
        torch.zeros(target).copy_(torch.ones(source))
    there = torch.zeros(target, device="wgpu")
    with pytest.raises(RuntimeError, match=words):
        there.copy_(torch.ones(source, device=place))
    assert not there.any().item()
