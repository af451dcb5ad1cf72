"""out[...] = f(a[...], b[...], ...) over strided arrays: one WGSL text, one kernel an operator.

A kernel walks a grid of up to four dimensions. Each array is a whole buffer with a first entry
`<name>_at` and a stride `<name>_0` to `<name>_3` for each dimension, 0 where it is broadcast, so
that views and broadcasting need no copies. Entries that the grid does not address stay as they are.
The operators stand in `_pointwise_float` and `_pointwise_int`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._pointwise_float import FLOATING
from ebm_wgpu.kernels._pointwise_int import INTEGER
from ebm_wgpu.kernels._pointwise_operator import Operator, with_scalar
from ebm_wgpu.kernels.spec import (
    DTYPES,
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Kernel,
    Param,
    Scalar,
    Tolerance,
)

RANK = 4
_WG = 256
_PER = 4
GRID = ("count", "rank", "size1", "size2", "size3")


def placement(name: str) -> tuple[str, ...]:
    """Parameters that place an array on the grid: its first entry and its strides."""
    return (f"{name}_at", *(f"{name}_{axis}" for axis in range(RANK)))


def grid_view(array: Array, name: str, params: Mapping[str, Any]) -> Array:
    """The entries of a buffer that the grid addresses, as a (size0, ..., size3) view."""
    inner = [int(params[f"size{axis}"]) for axis in range(1, RANK)]
    if params["rank"] == 0:
        inner = [1] * (RANK - 2) + [int(params["count"])]
    sizes = (int(params["count"]) // max(int(np.prod(inner)), 1), *inner)
    first, *strides = (int(params[p]) for p in placement(name))
    flat = array.reshape(-1)[first:]
    return as_strided(flat, sizes, [stride * flat.itemsize for stride in strides])


class _Face:
    """An implementation that takes by keyword what its signature lists, as kernels want it."""

    def __init__(self, operator: Operator, names: tuple[str, ...], dtype: Any, copy: bool) -> None:
        self._operator = operator
        self._dtype = np.dtype(dtype)
        self._copy = copy
        kind = inspect.Parameter.KEYWORD_ONLY
        self.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])

    def __call__(self, **values: Any) -> Any:
        operator = self._operator
        out = values["out"].copy() if self._copy else values["out"]
        operands = {name: grid_view(values[name], name, values) for name in operator.arrays}
        target = grid_view(out, "out", values)
        scalars = {name: values[name] for name in operator.scalars}
        index = np.arange(target.size).reshape(target.shape)
        with np.errstate(invalid="ignore", over="ignore"):
            target[...] = operator.evaluate({**operands, **scalars, "i": index}, self._dtype)
        return {"out": out}


def _value(rng: np.random.Generator, count: int, name: str, operator: Operator) -> Array:
    return operator.draws[operator.arrays.index(name)](rng, count)


def _contiguous_case(operator: Operator, storage: Mapping[str, str] | None = None) -> Case:
    """1,021 entries in a row, each array with a first entry of its own."""
    count = 1021
    names = ("out", *operator.arrays)
    params: dict[str, Scalar] = dict(zip(GRID, (count, 0, 1, 1, 1), strict=True))
    for index, name in enumerate(names):
        params |= dict(zip(placement(name), (index + 2, 0, 0, 0, 1), strict=True))

    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        arrays = {n: _value(rng, count + 9, n, operator) for n in operator.arrays}
        arrays["out"] = np.full(count + 3, 7, DTYPES[operator.value_type])
        for name, kind in (storage or {}).items():
            values = np.abs(arrays[name]) if kind == "u32" else arrays[name]
            arrays[name] = values.astype(DTYPES[kind])
        return arrays

    label = "contiguous" if storage is None else " ".join(f"{n}:{k}" for n, k in storage.items())
    return Case(label, {}, inputs, _tolerance(operator), {**params, **operator.scalars})


def _strided_case(operator: Operator) -> Case:
    """A 3 x 2 x 5 x 7 grid, transposed, stepped, broadcast and offset differently by each array."""
    sizes = (3, 2, 5, 7)
    layouts = ((1, 3, 6, 31), (70, 35, 7, 1), (0, 7, 0, 1), (1, 3, 0, 6), (14, 0, 42, 2))
    names = ("out", *operator.arrays)
    params: dict[str, Scalar] = dict(zip(GRID, (210, 4, *sizes[1:]), strict=True))
    needed = {}
    for index, (name, strides) in enumerate(zip(names, layouts, strict=False)):
        params |= dict(zip(placement(name), (index, *strides), strict=True))
        needed[name] = index + 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))

    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        arrays = {n: _value(rng, needed[n], n, operator) for n in operator.arrays}
        arrays["out"] = np.full(needed["out"] + 5, 7, DTYPES[operator.value_type])
        return arrays

    return Case("strided", {}, inputs, _tolerance(operator), {**params, **operator.scalars})


def _edge_case(operator: Operator) -> Case:
    """The rows of values that deserve a look of their own."""
    columns = np.array(operator.edges, np.float32).T
    count = len(operator.edges)
    params: dict[str, Scalar] = dict(zip(GRID, (count, 0, 1, 1, 1), strict=True))
    for name in ("out", *operator.arrays):
        params |= dict(zip(placement(name), (0, 0, 0, 0, 1), strict=True))

    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        arrays = dict(zip(operator.arrays, columns.copy(), strict=True))
        arrays["out"] = np.zeros(count, DTYPES[operator.value_type])
        return arrays

    return Case("edges", {}, inputs, _tolerance(operator), {**params, **operator.scalars})


def _tolerance(operator: Operator) -> Tolerance:
    if operator.value_type != "f32":
        return Tolerance(0.0, 0.0, "whole numbers")
    return Tolerance(
        2 * EPS32 * operator.scale,
        EPS32 * operator.ulps,
        f"{operator.ulps:g} units in the last place, and 2 of terms of size {operator.scale:g}",
    )


def _bindings(operator: Operator) -> tuple[Binding, ...]:
    whole: tuple[Literal["f32", "i32", "u32"], ...] = ("i32", "u32")
    operands: list[Binding] = []
    for name in operator.arrays:
        if operator.compute == "f32":
            operands.append(Binding(name, "f32", ("*",), half=True, also=whole))
        else:
            operands.append(Binding(name, "i32", ("*",), also=("u32",)))
    value = operator.value_type
    if value == "u32":
        return (Binding("out", "u32", ("*",), "inout"), *operands)
    other = whole if value == "f32" else ("f32", "u32")
    return (Binding("out", value, ("*",), "inout", half=True, also=other), *operands)


def _defines(operator: Operator) -> dict[str, str]:
    compute = operator.compute
    given = [(name, f"load_{name}({_place(name)})") for name in operator.arrays]
    given += [(name, f"params.{name}") for name in operator.scalars]
    arguments = ", ".join([*(f"{name}: {compute}" for name, _ in given), "i: u32"])
    call = f"evaluate({', '.join([*(value for _, value in given), 'i'])})"
    place = _place("out")
    store = f"out[{place}] = {call};"
    if operator.value_type != "u32":
        store = f"store_out({place}, {call});"
    body = operator.wgsl if "return " in operator.wgsl else f"return {operator.wgsl};"
    return {
        "ARGUMENTS": arguments,
        "RESULT": operator.value_type,
        "BODY": body,
        "STORE": store,
        **dict.fromkeys(operator.needs, ""),
    }


def _place(name: str) -> str:
    terms = " + ".join(f"at{axis} * params.{name}_{axis}" for axis in range(RANK))
    return f"params.{name}_at + {terms}"


def _kernel(operator: Operator) -> Kernel:
    names = ("out", *operator.arrays)
    numbers = (*GRID, *(p for name in names for p in placement(name)))
    cases = [_contiguous_case(operator), _strided_case(operator)]
    if operator.edges:
        cases.append(_edge_case(operator))
    cases += [
        _contiguous_case(operator, storage) for storage in _CONVERSIONS.get(operator.name, ())
    ]
    listed = (*names, *numbers, *operator.scalars)
    exact = np.int64 if operator.compute == "i32" else np.float64
    return Kernel(
        stem=f"pointwise_{operator.name}",
        source="pointwise",
        defines=_defines(operator),
        bindings=_bindings(operator),
        params=(
            *(Param(name, "u32") for name in numbers),
            *(Param(name, operator.compute) for name in operator.scalars),
        ),
        constants={"WG": _WG, "PER": _PER},
        workgroups=lambda dims, params: -(-int(params["count"]) // (_WG * _PER)),
        mirror=_Face(operator, listed, DTYPES[operator.compute], copy=False),
        reference=_Face(operator, listed, exact, copy=True),
        cases=tuple(cases),
    )


_CONVERSIONS: Mapping[str, tuple[Mapping[str, str], ...]] = {
    "copy": ({"out": "i32"}, {"a": "u32"}),
    "copy_int": ({"out": "f32"}, {"a": "u32"}),
    "mul": ({"a": "i32"},),
}


def _operators() -> Iterator[Operator]:
    """The rows and their variants with a number for an operand."""
    for operator in (*FLOATING, *INTEGER):
        yield operator
        if operator.scalar_operand:
            yield with_scalar(operator, "b")
            yield with_scalar(operator, "a")


KERNELS = tuple(_kernel(operator) for operator in _operators())
