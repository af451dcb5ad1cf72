"""Every claimed entry of torch's operator database: samples on the device against the processor.

All samples: pytest -m slow tests/torch_device/test_operator_database.py
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree

import ebm_wgpu.torch_device as torch_device
from ebm_wgpu.errors import DeviceError
from ebm_wgpu.torch_device.tensors import KINDS

FEW = 1
UNDEFINED = {"empty_like", "new_empty", "empty", "empty_strided"}
"""Entries whose values are undefined: only their shapes are compared."""
INEXACT = {"nn.functional.scaled_dot_product_attention"}
"""Entries whose samples float32 itself gets wrong by more than the tolerance: large scores."""
ERRORS = 4.0
"""How many times as far from float64 as the processor's float32 the device may be there."""
UNCLAIMED = {
    **dict.fromkeys(
        ("bernoulli:", "exponential:", "multinomial:", "uniform:"),
        "random numbers, which differ by device: tests/torch_device/test_random.py",
    ),
    **dict.fromkeys(
        ("normal:", "normal:in_place", "normal:number_mean"),
        "random numbers, which differ by device: tests/torch_device/test_random.py",
    ),
    **dict.fromkeys(
        ("round:decimals_0", "round:decimals_3", "round:decimals_neg_3"),
        "rounding to decimals has no kernel",
    ),
    "norm:nuc": "singular values have no kernel",
    "as_strided:partial_views": "looks behind a view, where a copy on the device has nothing",
}
"""Entries of operators that are registered and not claimed, and why."""
ROUNDED_ON_HOST = {"nn.functional.layer_norm", "native_layer_norm"}
"""Entries compared with float64: for rows of one entry, whose gradient is zero, the processor's
float32 leaves the difference of two large terms."""


def _key(op: Any) -> str:
    return f"{op.name}:{op.variant_test_name}"


CLAIMED = {
    _key(op): op
    for op in op_db
    if op.name in torch_device.claims() or _key(op) in torch_device.claims()
}


def _samples(op: Any) -> Iterator[Any]:
    """The samples of an entry, the same each time; of whole numbers where it takes no floats."""
    torch.manual_seed(0)
    if op.supports_dtype(torch.int64, "cpu") and not op.supports_dtype(torch.float32, "cpu"):
        return iter(op.sample_inputs("cpu", torch.int64))
    wants_grad = torch.float32 in op.supported_backward_dtypes("cpu") and op.supports_autograd
    return iter(op.sample_inputs("cpu", torch.float32, requires_grad=wants_grad))


def _to_device(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("wgpu").requires_grad_(value.requires_grad)
    return torch.device("wgpu") if value == "cpu" or value == torch.device("cpu") else value


def _to_double(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().double().requires_grad_(value.requires_grad)
    return value


def _to_single(value: Any) -> Any:
    return pytree.tree_map(
        lambda leaf: leaf.float() if isinstance(leaf, torch.Tensor) else leaf, value
    )


def _differentiable(result: Any) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves(result)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad]


def _gradients(inputs: Any, result: Any) -> list[torch.Tensor | None]:
    outputs = _differentiable(result)
    generator = torch.Generator().manual_seed(0)
    cotangents = [
        torch.randn(out.shape, generator=generator).to(out.dtype).to(out.device) for out in outputs
    ]
    wanted = [leaf for leaf in _differentiable(inputs) if leaf.is_leaf]
    return list(torch.autograd.grad(outputs, wanted, cotangents, allow_unused=True))


def _on_host(value: Any) -> Any:
    return pytree.tree_map(
        lambda leaf: leaf.detach().cpu() if isinstance(leaf, torch.Tensor) else leaf, value
    )


def _tensor_types(value: Any) -> set[torch.dtype]:
    return {leaf.dtype for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)}


def _places(value: Any) -> set[str]:
    found = set()
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            found.add(leaf.device.type)
        elif isinstance(leaf, torch.device):
            found.add(leaf.type)
    return found


def _close(actual: Any, expected: Any, scaled: bool) -> None:
    """Four times torch's own float32 tolerance: kernels add in another order.

    Gradients may be sums that cancel, and are held against the largest entry as well.
    """
    largest = max(
        (
            float(leaf.abs().nan_to_num(0, 0, 0).max())
            for leaf in pytree.tree_leaves(expected)
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.numel()
        ),
        default=0.0,
    )
    atol = max(1e-5, 2e-6 * largest) if scaled else 1e-5
    torch.testing.assert_close(actual, expected, rtol=5e-6, atol=atol, equal_nan=True)


def _check_by_float64(op: Any, host: Any, device: Any) -> None:
    """The device's errors against float64 are at most `ERRORS` times the processor's, and 1e-5."""
    results = []
    for inputs in (pytree.tree_map(_to_double, host), host, device):
        result = op(inputs[0], *inputs[1], **inputs[2])
        results.append([result, *_gradients(inputs, result)])
    if host[2].get("dropout_p"):  # other entries are dropped on each device
        assert [t.shape for t in results[2]] == [t.shape for t in results[1]]
        return
    for exact, single, actual in zip(*results, strict=True):
        own_error = float((single.double() - exact).detach().abs().max())
        torch.testing.assert_close(
            actual.detach().cpu().double(),
            exact.detach(),
            rtol=5e-6,
            atol=1e-5 + ERRORS * own_error,
        )


def _check(op: Any, sample: Any) -> None:
    host = (sample.input, sample.args, sample.kwargs)
    if not _tensor_types(host) <= KINDS.keys():
        with pytest.raises(DeviceError, match="convert first"):
            pytree.tree_map(_to_device, host)
        return
    device = pytree.tree_map(_to_device, host)
    if op.name in INEXACT:
        _check_by_float64(op, host, device)
        return
    double = op.name in ROUNDED_ON_HOST
    if double:
        host = pytree.tree_map(_to_double, host)
    expected = op(host[0], *host[1], **host[2])
    if not double and not _tensor_types(expected) <= KINDS.keys():
        with pytest.raises(DeviceError, match="convert first"):
            op(device[0], *device[1], **device[2])
        return
    actual = op(device[0], *device[1], **device[2])
    if _places(device) & {"wgpu"}:
        assert _places(actual) <= {"wgpu"}
    if op.name in UNDEFINED:
        assert actual.shape == expected.shape
        return
    single = _to_single if double else _on_host
    _close(_on_host(actual), single(_on_host(expected)), scaled=False)
    if _differentiable(expected):
        assert _differentiable(actual)
        _close(
            _on_host(_gradients(device, actual)),
            single(_on_host(_gradients(host, expected))),
            scaled=True,
        )


def test_every_claim_names_an_entry() -> None:
    names = {op.name for op in op_db} | {_key(op) for op in op_db}
    assert torch_device.claims() <= names


def test_every_registered_operator_is_claimed_or_says_why_not() -> None:
    registered = {name.split(".")[0] for name in torch_device.registered()}
    functions = {name.removesuffix("_") for name in registered}
    there = {_key(op) for op in op_db if op.aten_name in registered | functions}
    assert there - CLAIMED.keys() == UNCLAIMED.keys()


@pytest.mark.parametrize("key", sorted(CLAIMED))
def test_first_samples(key: str) -> None:
    op = CLAIMED[key]
    count = 0
    for sample in itertools.islice(_samples(op), FEW):
        _check(op, sample)
        count += 1
    assert count


@pytest.mark.slow
@pytest.mark.parametrize("key", sorted(CLAIMED))
def test_all_samples(key: str) -> None:
    op = CLAIMED[key]
    for sample in _samples(op):
        _check(op, sample)
