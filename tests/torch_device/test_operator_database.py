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


def _check(op: Any, sample: Any) -> None:
    host = (sample.input, sample.args, sample.kwargs)
    if not _tensor_types(host) <= KINDS.keys():
        with pytest.raises(DeviceError, match="convert first"):
            pytree.tree_map(_to_device, host)
        return
    device = pytree.tree_map(_to_device, host)
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
