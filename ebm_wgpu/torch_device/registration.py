"""How operators get onto the device, and what happens to those that are not there."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ebm_wgpu.errors import DeviceError

FALLBACK_VARIABLE = "EBM_WGPU_FALLBACK"
"""Environment variable: 1 lets operators without a kernel run on the processor."""

_library = torch.library.Library("aten", "IMPL")
_anything = torch.library.Library("_", "IMPL")
_registered: set[str] = set()
_claims: set[str] = set()
_counts: Counter[str] = Counter()
_count_lock = threading.Lock()
_allowed = os.environ.get(FALLBACK_VARIABLE) == "1"


class UnsupportedOperatorError(DeviceError, NotImplementedError):
    """An operator that has no kernel on the device."""


def implements(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function is these aten operators on the device.

    Args:
        *names: overloads, such as "mm", "add.Tensor" or "sum.dim_IntList". Several share a function
            if their arguments agree.

    Raises:
        ValueError: an overload that torch does not have, or that is registered already.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            if not torch._C._dispatch_has_kernel(f"aten::{name}"):
                raise ValueError(f"torch has no operator aten::{name}")
            if name in _registered:
                raise ValueError(f"aten::{name} is registered twice")
            _registered.add(name)
            _library.impl(name, function, "PrivateUse1")
        return function

    return register


def implements_with_gradient(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function is these operators, which autograd sees through.

    For operators that torch would make of others: the function is called before autograd records,
    so that what it calls, such as a `torch.autograd.Function`, brings the gradient.

    Raises:
        ValueError: as `implements`.
    """
    inner = implements(*names)

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            _library.impl(name, function, "AutogradPrivateUse1")
        return inner(function)

    return register


def registered() -> frozenset[str]:
    """Names of all overloads that the device implements itself."""
    return frozenset(_registered)


def claim(*names: str) -> None:
    """Say which entries of torch's operator database (`op_db`) the device passes.

    The tests run each claimed entry's samples, forward and backward, against the processor.

    Args:
        *names: "name" for all variants of an entry, or "name:variant" for one of them.
    """
    _claims.update(names)


def claims() -> frozenset[str]:
    """All that was claimed."""
    return frozenset(_claims)


def fallbacks() -> Counter[str]:
    """How often each operator ran on the processor instead, since the start."""
    with _count_lock:
        return Counter(_counts)


@contextlib.contextmanager
def allow_fallback(allowed: bool = True) -> Iterator[None]:
    """Within the context, operators without a kernel run on the processor and are counted."""
    global _allowed
    before, _allowed = _allowed, allowed
    try:
        yield
    finally:
        _allowed = before


def _unsupported(operator: Any) -> UnsupportedOperatorError:
    return UnsupportedOperatorError(
        f'{operator} has no kernel on torch.device("wgpu"): write one with '
        '@implements("name.overload") in ebm_wgpu/torch_device, or run it on the processor with '
        f"torch_device.allow_fallback() or {FALLBACK_VARIABLE}=1"
    )


def _to_host(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.device.type == "wgpu":
        return value.cpu()
    if isinstance(value, torch.device) and value.type == "wgpu":
        return torch.device("cpu")
    return value


def _fall_back(operator: Any, *args: Any, **kwargs: Any) -> Any:
    if not _allowed:
        raise _unsupported(operator)
    with _count_lock:
        _counts[str(operator)] += 1
    host_args, host_kwargs = pytree.tree_map(_to_host, (args, kwargs))
    result = operator(*host_args, **host_kwargs)
    originals = _written(operator, args, kwargs)
    replaced: dict[int, torch.Tensor] = {}
    for original, host in zip(originals, _written(operator, host_args, host_kwargs), strict=True):
        if original.shape != host.shape:
            original.resize_(host.shape)
        original.copy_(host)
        replaced[id(host)] = original

    def back(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return replaced.get(id(value)) if id(value) in replaced else value.to("wgpu")
        return value

    return pytree.tree_map(back, result)


def _written(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors that the operator writes, by its schema."""
    found: list[torch.Tensor] = []
    for index, argument in enumerate(operator._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[index] if index < len(args) else kwargs.get(argument.name)
        values = value if isinstance(value, (list, tuple)) else [value]
        found += [v for v in values if isinstance(v, torch.Tensor)]
    return found


_anything.fallback(_fall_back, "PrivateUse1")
