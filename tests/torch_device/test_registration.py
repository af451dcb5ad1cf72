"""Operators without a kernel: an error that says what to do, or a counted run on the processor."""

import pytest
import torch

import ebm_wgpu.torch_device as torch_device
from ebm_wgpu.torch_device import UnsupportedOperatorError
from ebm_wgpu.torch_device.registration import implements

UNSUPPORTED = torch.special.bessel_j0


def test_the_error_names_operator_and_remedy() -> None:
    x = torch.ones(3, device="wgpu")
    with pytest.raises(UnsupportedOperatorError, match=r"special_bessel_j0.*@implements") as raised:
        UNSUPPORTED(x)
    assert isinstance(raised.value, NotImplementedError)
    assert "\n" not in str(raised.value)


def test_fallbacks_are_counted_by_name() -> None:
    x = torch.linspace(0, 3, 5)
    before = torch_device.fallbacks()
    with torch_device.allow_fallback():
        result = UNSUPPORTED(x.to("wgpu"))
        out = torch.empty(5, device="wgpu")
        torch.special.bessel_j1(x.to("wgpu"), out=out)
    assert result.device.type == "wgpu"
    assert torch.equal(result.cpu(), UNSUPPORTED(x))
    assert torch.equal(out.cpu(), torch.special.bessel_j1(x))
    assert sum((torch_device.fallbacks() - before).values()) == 2
    with pytest.raises(UnsupportedOperatorError):
        UNSUPPORTED(x.to("wgpu"))


@pytest.mark.parametrize(
    ("name", "words"), [("no_such_operator", "has no operator"), ("as_strided", "twice")]
)
def test_wrong_registrations_are_errors(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        implements(name)(lambda: None)
