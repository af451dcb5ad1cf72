"""Activations in place, where the gradient is taken from the result, and their refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.usefixtures("no_fallbacks")

IN_PLACE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "leaky_relu": lambda x: F.leaky_relu(x, 0.3, inplace=True),
    "elu": lambda x: F.elu(x, 0.7, inplace=True),
    "selu": lambda x: F.selu(x, inplace=True),
    "celu": lambda x: F.celu(x, 1.5, inplace=True),
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.75, inplace=True),
    "relu6": lambda x: F.relu6(x, inplace=True),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_values_and_gradients_are_those_of_float64(name: str) -> None:
    values = torch.linspace(-3, 9, 301)
    found = []
    for device, dtype in (("cpu", torch.float64), ("wgpu", torch.float32)):
        leaf = values.to(device, dtype).requires_grad_()
        result = IN_PLACE[name](leaf * 1)
        (grad,) = torch.autograd.grad((result * result).sum(), leaf)
        found.append([result.detach().cpu().float(), grad.cpu().float()])
    for actual, exact in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(actual, exact, rtol=2e-6, atol=1e-6)


def test_whole_numbers_are_bounded_in_their_own_type() -> None:
    x = torch.tensor([-4, 2, 9], device="wgpu")
    assert F.hardtanh(x, -1, 5).tolist() == [-1, 2, 5]
    with pytest.raises(RuntimeError, match="Bool inputs"):
        F.hardtanh(x > 0)


@pytest.mark.parametrize("function", [F.leaky_relu, F.elu])
def test_a_result_that_does_not_tell_its_side_has_no_gradient(
    function: Callable[..., torch.Tensor],
) -> None:
    leaf = torch.ones(3, device="wgpu", requires_grad=True)
    with pytest.raises(RuntimeError, match=r"(?i)in-?place"):
        function(leaf * 1, -0.5, inplace=True).sum().backward()
