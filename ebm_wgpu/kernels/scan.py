"""Running sums and products of rows.

out[r, i] is start[r, s] and the entries of row r from s span up to i, added or multiplied. Segment
s holds entries s span to (s + 1) span - 1; `start` is the result of all before it, so that a long
row is shared by many workgroups. Within blocks of 256 entries results are taken by doubling (Hillis
and Steele 1986). Whole numbers wrap at 32 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._keywords import ByKeyword
from ebm_wgpu.kernels._order import TYPES, Kind
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
    Tolerance,
)

WG = 256
_NAMES = ("x", "start", "span", "out")
_ODD = (-5, -3, -1, 1, 3, 5)
"""Factors whose products wrap at 32 bits and never become zero."""


@dataclass(frozen=True)
class _Operator:
    """How entries are combined: in WGSL, of a and b, in NumPy, and what changes nothing."""

    combine: str
    identity: str
    numpy: np.ufunc

    def drawn(self, rng: np.random.Generator, shape: tuple[int, ...], kind: Kind) -> Array:
        """Entries whose combinations stay in range."""
        normal = rng.standard_normal(shape)
        if self.numpy is np.add:
            return (normal * (1 if kind == "f32" else 100)).astype(DTYPES[kind])
        if kind == "i32":
            return rng.choice(np.array(_ODD, np.int32), shape)
        return (np.exp(normal / 20) * np.sign(normal)).astype(np.float32)

    def tolerance(self, span: int) -> Tolerance:
        """For `drawn` float32 entries."""
        if self.numpy is np.add:
            return Tolerance(
                EPS32 * (8 + 2 * span**0.5),
                2 * EPS32,
                f"sums of at most {span} unit normals, made of ten rounded partial sums each",
            )
        return Tolerance(0.0, EPS32 * (4 + 2 * span**0.5), f"at most {span} products, each rounded")


_OPERATORS = {
    "sum": _Operator("a + b", "0", np.add),
    "prod": _Operator("a * b", "1", np.multiply),
}


def _results(values: Mapping[str, Any], operator: _Operator, dtype: Any) -> Array:
    x, span, function = values["x"].astype(dtype), int(values["span"]), operator.numpy
    parts = [
        function(function.accumulate(x[:, s * span : (s + 1) * span], 1), start[:, None])
        for s, start in enumerate(values["start"].T.astype(dtype))
    ]
    return np.concatenate(parts, 1)


def _case(name: str, operator: _Operator, kind: Kind, rows: int, count: int, span: int) -> Case:
    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        return {
            "x": operator.drawn(rng, (rows, count), kind),
            "start": operator.drawn(rng, (rows, dims["S"]), kind) * DTYPES[kind].type(9),
        }

    tolerance = operator.tolerance(span) if kind == "f32" else EXACT
    dims = {"R": rows, "N": count, "S": -(-count // span)}
    return Case(name, dims, inputs, tolerance, {"span": span})


def _kernel(name: str, suffix: str, kind: Kind) -> Kernel:
    operator = _OPERATORS[name]

    def reference(values: Mapping[str, Any]) -> Arrays:
        if kind == "f32":
            return {"out": _results(values, operator, np.float64)}
        return {"out": _results(values, operator, np.int64).astype(np.int32)}

    def mirror(values: Mapping[str, Any]) -> None:
        values["out"][:] = reference(values)["out"]

    half = kind == "f32"
    also: tuple[Any, ...] = () if half else ("u32",)
    return Kernel(
        stem=f"scan_{name}{suffix}",
        source="scan",
        defines={"TYPE": kind, "COMBINE": operator.combine, "IDENTITY": operator.identity},
        bindings=(
            Binding("x", kind, ("R", "N"), half=half, also=also),
            Binding("start", kind, ("R", "S")),
            Binding("out", kind, ("R", "N"), "out", half=half, also=also),
        ),
        params=(Param("span", "u32"),),
        constants={"WG": WG},
        workgroups=lambda dims, params: dims["R"] * dims["S"],
        mirror=ByKeyword(mirror, _NAMES),
        reference=ByKeyword(reference, _NAMES[:3]),
        rounds=lambda dims, params: _rounds.strided(int(params["span"]), WG, _rounds.loop(8)),
        cases=(
            _case("odd", operator, kind, 5, 601, 601),
            _case("segments", operator, kind, 3, 1300, 512),
            _case("one entry", operator, kind, 4, 1, 1),
        ),
    )


KERNELS = tuple(
    _kernel(name, "" if n == "float" else "_int", kind)
    for name in _OPERATORS
    for n, kind in TYPES.items()
)
