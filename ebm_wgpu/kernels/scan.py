"""Running sums of rows: out[r, i] = start[r, s] + the entries of row r from s span up to i.

Segment s holds entries s span to (s + 1) span - 1; `start` is the sum of all before it, so that a
long row is shared by many workgroups. Within blocks of 256 entries sums are taken by doubling
(Hillis and Steele 1986).
"""

from __future__ import annotations

from collections.abc import Mapping
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


def _sums(values: Mapping[str, Any], dtype: Any) -> Array:
    x, span = values["x"].astype(dtype), int(values["span"])
    parts = [
        np.cumsum(x[:, s * span : (s + 1) * span], 1) + start[:, None]
        for s, start in enumerate(values["start"].T.astype(dtype))
    ]
    return np.concatenate(parts, 1)


def _case(name: str, kind: Kind, rows: int, count: int, span: int) -> Case:
    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        x = rng.standard_normal((rows, count)) * (1 if kind == "f32" else 100)
        start = rng.standard_normal((rows, dims["S"])) * 9
        return {"x": x.astype(DTYPES[kind]), "start": start.astype(DTYPES[kind])}

    tolerance = Tolerance(
        EPS32 * (8 + 2 * span**0.5),
        2 * EPS32,
        f"sums of at most {span} unit normals, made of ten rounded partial sums of that size",
    )
    dims = {"R": rows, "N": count, "S": -(-count // span)}
    return Case(name, dims, inputs, tolerance if kind == "f32" else EXACT, {"span": span})


def _kernel(suffix: str, kind: Kind) -> Kernel:
    def reference(values: Mapping[str, Any]) -> Arrays:
        return {"out": _sums(values, np.float64 if kind == "f32" else np.int64)}

    def mirror(values: Mapping[str, Any]) -> None:
        values["out"][:] = reference(values)["out"]

    half = kind == "f32"
    also: tuple[Any, ...] = () if half else ("u32",)
    return Kernel(
        stem=f"scan_sum{suffix}",
        source="scan",
        defines={"TYPE": kind},
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
            _case("odd", kind, 5, 601, 601),
            _case("segments", kind, 3, 1300, 512),
            _case("one entry", kind, 4, 1, 1),
        ),
    )


KERNELS = tuple(_kernel("" if n == "float" else "_int", kind) for n, kind in TYPES.items())
