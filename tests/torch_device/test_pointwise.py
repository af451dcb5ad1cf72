"""Pointwise operators beyond the operator database: types, whole numbers, exact divisions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.torch_device import UnsupportedOperatorError
from ebm_wgpu.torch_device.elementwise import promoted

KINDS = (torch.float32, torch.float16, torch.int64, torch.int32, torch.bool)
BOUNDS = ((0.0, 1.0), (0, 5), (0, 5.0), (None, 2), (None, 2.0), (False, True))


@pytest.mark.parametrize("dtype", KINDS[:4])
def test_bounds_do_not_promote_each_other(dtype: torch.dtype) -> None:
    x = torch.tensor([-3, 0, 4]).to(dtype)
    for low, high in BOUNDS:
        expected = x.clamp(low, high)
        actual = x.to("wgpu").clamp(low, high)
        assert actual.dtype == expected.dtype, (low, high)
        assert torch.equal(actual.cpu(), expected)


def test_three_operands_are_promoted_as_on_the_processor() -> None:
    tensors = [torch.ones(shape).to(dtype) for dtype in KINDS[:4] for shape in ((2,), ())]
    for operands in itertools.product(tensors, repeat=3):
        assert promoted(*operands) == torch.addcmul(*operands).dtype
    on_device = [tensor.to("wgpu") for tensor in (tensors[3], tensors[6], tensors[5])]
    assert torch.addcmul(*on_device).dtype == torch.float16


WHOLE: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "square": lambda x, y: x.square(),
    "cube": lambda x, y: x**3,
    "power": lambda x, y: x**y,
    "power of a number": lambda x, y: 3**y,
    "fmod": lambda x, y: x.fmod(y + 7),
    "fmod by a number": lambda x, y: x.fmod(-3),
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=3),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_whole_numbers_are_those_of_the_processor(name: str, dtype: torch.dtype) -> None:
    x = torch.arange(-6, 7, dtype=dtype).repeat_interleave(9)
    y = torch.arange(-4, 5, dtype=dtype).repeat(13)
    expected = WHOLE[name](x, y)
    actual = WHOLE[name](x.to("wgpu"), y.to("wgpu"))
    assert actual.dtype == expected.dtype
    assert torch.equal(actual.cpu(), expected)


REFUSED: dict[str, Callable[[torch.Tensor], Any]] = {
    "Integers to negative integer powers": lambda x: x**-2,
    r"convert with .float\(\)": lambda x: torch.addcdiv(x, x, x),
    "\"silu\" is not implemented for 'Long'.*float": torch.nn.functional.silu,
    "\"lerp_scalar\" is not implemented for 'Long'": lambda x: torch.lerp(x, x, 0.5),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_whole_numbers_cannot_do_is_named_with_its_remedy(words: str) -> None:
    x = torch.arange(3, device="wgpu")
    with pytest.raises((RuntimeError, UnsupportedOperatorError), match=words) as raised:
        REFUSED[words](x)
    assert "\n" not in str(raised.value)


ODD = (1.0, -1.0, 0.1, -0.1, 5.0, -5.0, 7.5, 2.5, 1e7, 3.0, 1e30, 0.0, math.inf, -math.inf)


@pytest.mark.parametrize("name", ["floor_divide", "remainder", "fmod"])
def test_divisions_of_odd_numbers_are_those_of_the_processor(name: str) -> None:
    a, b = torch.tensor(list(itertools.product(ODD, ODD))).unbind(1)
    expected = getattr(torch, name)(a, b)
    actual = getattr(torch, name)(a.to("wgpu"), b.to("wgpu"))
    # Quotients are rounded as devices divide; the rest is exact, but for one sum of `remainder`.
    rtol = {"floor_divide": 5e-7, "remainder": 1.2e-7, "fmod": 0.0}[name]
    torch.testing.assert_close(actual.cpu(), expected, rtol=rtol, atol=0, equal_nan=True)


_NUMBERS = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)


@given(st.lists(st.tuples(_NUMBERS, _NUMBERS), min_size=1, max_size=60))
def test_the_rest_of_a_division_is_exact(pairs: list[tuple[float, float]]) -> None:
    kept = [pair for pair in pairs if pair[1] != 0]
    rests = [math.fmod(*pair) for pair in kept]
    normal = [abs(rest) > 2.0**-126 or rest == 0 for rest in rests]
    a, b = torch.tensor([*kept, (7.0, 2.0)], device="wgpu").unbind(1)
    found = torch.fmod(a, b).tolist()
    for rest, value, counted in zip([*rests, 1.0], found, [*normal, True], strict=True):
        assert not counted or value == rest


def test_floats_beyond_32_bits_become_the_nearest_limit() -> None:
    found = torch.tensor([3e9, -3e9, 2.5, -2.5], device="wgpu").long().tolist()
    assert found == [2147483520, -(2**31), 2, -2]


@pytest.mark.parametrize(
    ("mask", "value", "words"),
    [
        (torch.ones(2, dtype=torch.bool), 1.0, r"size of tensor a \(4\).*b \(2\)"),
        (torch.ones(2, 4, dtype=torch.bool), 1.0, r"output with shape \[4\]"),
        (torch.ones(4), 1.0, "only supports boolean masks"),
        (torch.ones(4, dtype=torch.bool), torch.ones(4), "0-dimensional value"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: torch.Tensor, value: Any, words: str) -> None:
    x = torch.zeros(4, device="wgpu")
    with pytest.raises(RuntimeError, match=words):
        x.masked_fill_(mask.to("wgpu"), value)
    assert not x.any().item()
