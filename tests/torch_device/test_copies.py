"""Copies across devices, types and layouts keep every value, or say why they cannot."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ebm_wgpu.torch_device  # noqa: F401
from ebm_wgpu.errors import DeviceError

VALUES = {
    torch.float32: torch.tensor([0.0, -0.0, 1.5, -2.75, 3e38, float("inf"), float("-inf")]),
    torch.float16: torch.tensor([0.0, 1.5, -2.75, 65504.0, 6e-8]).half(),
    torch.int64: torch.tensor([0, -1, 2**31 - 1, -(2**31)]),
    torch.int32: torch.tensor([0, -1, 2**31 - 1, -(2**31)], dtype=torch.int32),
    torch.bool: torch.tensor([True, False, True]),
}


@pytest.mark.parametrize("dtype", VALUES)
def test_round_trip_is_exact(dtype: torch.dtype) -> None:
    values = VALUES[dtype]
    there = values.to("wgpu", non_blocking=True)
    for back in (there.cpu(), there.to("cpu", non_blocking=True)):
        assert back.dtype == dtype
        assert torch.equal(back, values)


@pytest.mark.parametrize("source", VALUES)
@pytest.mark.parametrize("target", VALUES)
def test_conversion_on_the_device_is_that_of_the_processor(
    source: torch.dtype, target: torch.dtype
) -> None:
    values = torch.tensor([0.0, 1.0, -2.5, 7.25, 100.0]).to(source)
    torch.testing.assert_close(values.to("wgpu").to(target).cpu(), values.to(target))


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**60])
def test_whole_numbers_beyond_32_bits_are_refused(value: int) -> None:
    with pytest.raises(DeviceError, match=f"{value} does not fit"):
        torch.tensor([1, value]).to("wgpu")
    with pytest.raises(DeviceError, match=f"{value} does not fit"):
        torch.full((2,), value, device="wgpu")


def test_what_cannot_be_written_in_words_leaves_its_neighbours_alone() -> None:
    base = torch.arange(9.0).half()
    on_device = base.to("wgpu")
    for start, stop in ((1, 4), (3, 6), (6, 9), (0, 1)):
        fresh = torch.full((stop - start,), -1.0 * stop).half()
        base[start:stop] = fresh
        on_device[start:stop] = fresh
        assert torch.equal(on_device.cpu(), base)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_any_permuted_view_is_copied_as_on_the_processor(sizes: list[int], random: object) -> None:
    axes = list(range(len(sizes)))
    random.shuffle(axes)  # type: ignore[attr-defined]
    x = torch.arange(float(torch.tensor(sizes).prod())).view(sizes)
    y = x.to("wgpu")
    assert torch.equal(y.permute(axes).contiguous().cpu(), x.permute(axes))
    target = torch.zeros(sizes, device="wgpu").permute(axes)
    target.copy_(x.permute(axes))
    assert torch.equal(target.cpu(), x.permute(axes))


def test_overlapping_copies_act_as_if_the_source_were_copied_first() -> None:
    x = torch.arange(100.0, device="wgpu")
    x[1:].copy_(x[:-1])
    assert torch.equal(x.cpu(), torch.arange(100.0).sub(1).clamp(min=0))


def test_growing_keeps_the_contents() -> None:
    x = torch.arange(10.0).to("wgpu")
    x.resize_(3000)
    assert torch.equal(x[:10].cpu(), torch.arange(10.0))
    assert x.shape == (3000,)


def test_growing_twice_keeps_what_was_written_between() -> None:
    x = torch.arange(10.0).to("wgpu")
    x.resize_(60)
    x.copy_(torch.arange(60.0))
    x.resize_(100)
    assert torch.equal(x[:60].cpu(), torch.arange(60.0))


def test_only_single_values_fill() -> None:
    x = torch.zeros(3, device="wgpu")
    for place in ("cpu", "wgpu"):
        with pytest.raises(RuntimeError, match="0-dimension value tensor"):
            x.fill_(torch.ones(2, device=place))
    assert x.fill_(torch.tensor(2.0, device="wgpu")).tolist() == [2.0, 2.0, 2.0]


def test_printing_shows_values_and_device() -> None:
    text = repr(torch.arange(3.0, device="wgpu"))
    assert "[0., 1., 2.]" in text
    assert "wgpu:0" in text
