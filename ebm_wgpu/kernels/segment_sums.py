"""Sums of rows by id, first half: runs of equal ids within blocks of 64 sorted places.

partial_sums[i] = sum of x[order[j]] over the run of equal ids that begins at place i, up to the end
of i's block; places where no run begins are left as they are. `order` and `sorted_ids` are a stable
sort of the ids. No float atomics: each sum has one owner and a fixed order. Blocks bound the work
of an invocation where one id is frequent. `segment_add` is the second half.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from ebm_wgpu.kernels._keywords import ByKeyword
from ebm_wgpu.kernels._order import TYPES, Kind
from ebm_wgpu.kernels._rows import entries
from ebm_wgpu.kernels._segments import CASES, SPAN, WG, draw, run_sums, tolerance
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Kernel, Scalar

_NAMES = ("order", "sorted_ids", "x")


def _first_places(outputs: Arrays, inputs: Arrays, params: Mapping[str, Scalar]) -> Arrays:
    """Only where a run begins is anything written."""
    ids = inputs["sorted_ids"]
    first: Array = (np.arange(len(ids)) % SPAN == 0) | (np.roll(ids, 1) != ids)
    return {"partial_sums": np.where(first[:, None], outputs["partial_sums"], 0)}


def _kernel(name: str, kind: Kind) -> Kernel:
    def reference(values: Mapping[str, Any]) -> Arrays:
        return {"partial_sums": run_sums(**{n: values[n] for n in _NAMES})}

    def mirror(values: Mapping[str, Any]) -> None:
        values["partial_sums"][:] = reference(values)["partial_sums"]

    whole: tuple[Literal["u32"], ...] = ("u32",) if kind == "i32" else ()
    return Kernel(
        stem=f"segment_sums_{name}",
        source="segment_sums",
        defines={"TYPE": kind},
        bindings=(
            Binding("order", "i32", ("B",)),
            Binding("sorted_ids", "i32", ("B",)),
            Binding("x", kind, ("B", "D"), half=kind == "f32", also=whole),
            Binding("partial_sums", kind, ("B", "D"), "out"),
        ),
        constants={"WG": WG, "SPAN": SPAN},
        workgroups=entries("B", "D"),
        mirror=ByKeyword(mirror, (*_NAMES, "partial_sums")),
        reference=ByKeyword(reference, _NAMES),
        comparable=_first_places,
        cases=tuple(
            Case(label, dims, draw(kind, count), tolerance(kind, SPAN))
            for label, count, dims in CASES
        ),
    )


KERNELS = tuple(_kernel(name, kind) for name, kind in TYPES.items())
