"""Reductions of strided arrays: one WGSL text, one kernel an operator.

out[part, k] combines part `part` of the entries x[k, r], r < length. k walks up to three
dimensions (the last two of sizes k1, k2) and r likewise (r1, r2), each with strides of its own, so
that any dimensions of a view can be reduced without a copy. The parts have `span` entries; a second
launch combines them where one row is too long for a workgroup, always in the same order. How many
invocations (`lanes`, a power of two) share a result, and how they lie, is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._keywords import ByKeyword
from ebm_wgpu.kernels.spec import (
    DTYPES,
    EXACT,
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

RANK = 3
WG = 256
COUNTS = ("count", "length", "parts", "span", "lanes", "across")
SIZES = ("k1", "k2", "r1", "r2")
PLACES = ("x_at", "x_k0", "x_k1", "x_k2", "x_r0", "x_r1", "x_r2")
_FINITE = "3.4028234663852886e38"
_LEAST, _MOST = -(2**31), 2**31 - 1
Kind = Literal["f32", "i32", "u32"]


@dataclass(frozen=True)
class Reduction:
    """One operator.

    Attributes:
        name: the kernel is called reduce_<name>.
        kind: type of the entries and of the result.
        identity: what nothing reduces to.
        combine: of a and b.
        numpy: the combination of an array's last axis.
        entry: what is combined, of the entry x, of `centre` and of `power`.
        numpy_entry: the same of arrays.
        scaled: the result is multiplied by the parameter `scale`.
        power: there is a parameter `power`.
        centre: there is an array `centre`, a number for each result.
    """

    name: str
    kind: Kind
    identity: str
    combine: str
    numpy: Callable[[Array], Array]
    entry: str = "x"
    numpy_entry: Callable[..., Array] = lambda x: x
    scaled: bool = False
    power: bool = False
    centre: bool = False

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the float parameters."""
        return ("scale",) * self.scaled + ("power",) * self.power


def _greatest(x: Array) -> Array:
    return np.max(x, -1, initial=-np.inf)


def _least(x: Array) -> Array:
    return np.min(x, -1, initial=np.inf)


def _sum(name: str, entry: str, numpy_entry: Callable[..., Array], **more: Any) -> Reduction:
    return Reduction(
        name, "f32", "0", "a + b", lambda x: x.sum(-1), entry, numpy_entry, scaled=True, **more
    )


REDUCTIONS = (
    _sum("sum", "x", lambda x: x),
    _sum("abs", "abs(x)", np.abs),
    _sum("square", "x * x", np.square),
    _sum("nonzero", "select(1.0, 0.0, x == 0.0)", lambda x: x != 0),
    _sum(
        "power",
        "select(pow(abs(x), params.power), x, is_nan(x))",
        lambda x, power: np.abs(x) ** power,
        power=True,
    ),
    _sum(
        "deviation",
        "(x - centre) * (x - centre)",
        lambda x, centre: (x - centre) ** 2,
        centre=True,
    ),
    Reduction("prod", "f32", "1", "a * b", lambda x: x.prod(-1)),
    Reduction("max", "f32", f"-{_FINITE}", "max_or_nan(a, b)", _greatest),
    Reduction("min", "f32", _FINITE, "min_or_nan(a, b)", _least),
    Reduction("sum_int", "i32", "0", "a + b", lambda x: x.sum(-1)),
    Reduction("prod_int", "i32", "1", "a * b", lambda x: x.prod(-1)),
    Reduction("max_int", "i32", f"i32({_LEAST + 1}) - 1", "max(a, b)", lambda x: x.max(-1)),
    Reduction("min_int", "i32", str(_MOST), "min(a, b)", lambda x: x.min(-1)),
)


def _entries(values: Mapping[str, Any]) -> Array:
    """The entries x[k, r] as an array (count, length)."""
    count, length = int(values["count"]), int(values["length"])
    k1, k2, r1, r2 = (int(values[name]) for name in SIZES)
    sizes = (count // (k1 * k2), k1, k2, length // (r1 * r2), r1, r2)
    flat = values["x"].reshape(-1)[int(values["x_at"]) :]
    strides = [int(values[name]) * flat.itemsize for name in PLACES[1:]]
    return as_strided(flat, sizes, strides).reshape(count, length)


def _reduce(reduction: Reduction, values: Mapping[str, Any]) -> Array:
    x = _entries(values)
    extra = {"power": values["power"]} if reduction.power else {}
    if reduction.centre:
        extra["centre"] = values["centre"][:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        terms = reduction.numpy_entry(x, **extra)
        spans = range(0, int(values["parts"]) * int(values["span"]), int(values["span"]))
        rows = [reduction.numpy(terms[:, s : s + int(values["span"])]) for s in spans]
        result = np.stack(rows)
        return result * values["scale"] if reduction.scaled else result


def _case(
    reduction: Reduction,
    name: str,
    params: dict[str, Scalar],
    needed: int,
    edges: bool = False,
) -> Case:
    length = int(params["length"])

    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        if reduction.kind == "f32":
            x = rng.uniform(0.5, 1.5, needed) * rng.choice([-1, 1], needed)
            x[rng.random(needed) < 0.1] = 0 if "prod" not in reduction.name else 1
            if edges:
                x[: 3 * length : length] = [np.nan, np.inf, -np.inf]
        else:
            x = rng.integers(-5, 6, needed)
            if "prod" in reduction.name:
                x = np.where(rng.random(needed) < 0.03, 3, np.where(x < 0, -1, 1))
        arrays = {"x": x.astype(DTYPES[reduction.kind])}
        if reduction.centre:
            arrays["centre"] = rng.standard_normal(int(params["count"])).astype(np.float32)
        return arrays

    scalars = {"scale": 0.5, "power": 1.5}
    params |= {name: scalars[name] for name in reduction.scalars}
    dims = {"P": int(params["parts"]), "C": int(params["count"])}
    return Case(name, dims, inputs, _tolerance(reduction, int(params["span"])), params)


def _tolerance(reduction: Reduction, span: int) -> Tolerance:
    if reduction.kind != "f32" or reduction.name in ("max", "min"):
        return EXACT
    if reduction.name == "prod":
        return Tolerance(0.0, EPS32 * span, f"a product of {span} numbers, each step rounded")
    size = {"deviation": 16.0, "power": 4.0, "square": 2.25}.get(reduction.name, 1.5)
    return Tolerance(
        EPS32 * size * span**0.5,
        8 * EPS32,
        f"float32 sum of {span} terms up to {size:g}; pow is exp of a rounded logarithm",
    )


def _cases(reduction: Reduction) -> tuple[Case, ...]:
    rows: dict[str, Scalar] = dict(zip(COUNTS, (5, 301, 1, 301, 64, 0), strict=True))
    rows |= dict(zip(SIZES, (1, 5, 1, 301), strict=True))
    rows |= dict(zip(PLACES, (0, 0, 0, 301, 0, 0, 1), strict=True))
    # Interleaved dimensions, one of them broadcast, in four parts of eight.
    strided: dict[str, Scalar] = dict(zip(COUNTS, (24, 30, 4, 8, 8, 1), strict=True))
    strided |= dict(zip(SIZES, (2, 4, 3, 2), strict=True))
    strided |= dict(zip(PLACES, (3, 40, 0, 1, 4, 120, 20), strict=True))
    columns: dict[str, Scalar] = dict(zip(COUNTS, (70, 33, 1, 33, 4, 1), strict=True))
    columns |= dict(zip(SIZES, (1, 70, 1, 33), strict=True))
    columns |= dict(zip(PLACES, (0, 0, 0, 1, 0, 0, 70), strict=True))
    cases = [
        _case(reduction, "rows", rows, 1505),
        _case(reduction, "strided, in parts", strided, 480),
        _case(reduction, "columns", columns, 2310),
    ]
    if reduction.kind == "f32":
        cases.append(_case(reduction, "not finite", dict(rows), 1505, edges=True))
    return tuple(cases)


def _kernel(reduction: Reduction) -> Kernel:
    numbers = (*COUNTS, *SIZES, *PLACES)
    names = ("x", "out", *("centre",) * reduction.centre, *numbers, *reduction.scalars)
    kind = reduction.kind
    half = kind == "f32"
    also: tuple[Kind, ...] = ("i32", "u32") if half else ("u32",)
    centre = (Binding("centre", "f32", ("C",)),) if reduction.centre else ()

    def mirror(values: Mapping[str, Any]) -> None:
        values["out"][...] = _reduce(reduction, values)

    def reference(values: Mapping[str, Any]) -> Arrays:
        return {"out": _reduce(reduction, values)}

    flags = {"CENTRE": ""} if reduction.centre else {}
    if "_nan" in reduction.combine + reduction.entry:
        flags["FLOATS"] = ""
    return Kernel(
        stem=f"reduce_{reduction.name}",
        source="reduce",
        defines={
            "TYPE": kind,
            "IDENTITY": reduction.identity,
            "COMBINE": reduction.combine,
            "MAP": reduction.entry,
            "FINISH": "total * params.scale" if reduction.scaled else "total",
            **flags,
        },
        bindings=(
            Binding("x", kind, ("*",), half=half, also=also),
            *centre,
            Binding("out", kind, ("P", "C"), "out", half=half, also=also),
        ),
        params=(
            *(Param(name, "u32") for name in numbers),
            *(Param(name, "f32") for name in reduction.scalars),
        ),
        constants={"WG": WG},
        workgroups=lambda dims, params: (
            -(-int(params["count"]) * int(params["parts"]) // (WG // int(params["lanes"])))
        ),
        mirror=ByKeyword(mirror, names),
        reference=ByKeyword(reference, names),
        rounds=lambda dims, params: (
            _rounds.strided(int(params["span"]), int(params["lanes"])) + _rounds.reduction(WG)
        ),
        cases=_cases(reduction),
    )


KERNELS = tuple(_kernel(reduction) for reduction in REDUCTIONS)
