"""Sums of rows by id, second half: out[id] += the `partial_sums` of all runs of that id.

`partial_sums` are those of `segment_sums`. Ids outside 0 .. V - 1 add nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._keywords import ByKeyword
from ebm_wgpu.kernels._order import TYPES, Kind
from ebm_wgpu.kernels._rows import entries
from ebm_wgpu.kernels._segments import CASES, SPAN, WG, draw, run_sums, tolerance, values
from ebm_wgpu.kernels.spec import Arrays, Binding, Case, Dims, Kernel


def _kernel(name: str, kind: Kind) -> Kernel:
    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        drawn = draw(kind, dims["V"])(rng, dims)
        sums = run_sums(**drawn)
        return {
            "sorted_ids": drawn["sorted_ids"],
            "partial_sums": sums,
            "out": values(rng, kind, dims["V"], dims["D"]),
        }

    def reference(given: Mapping[str, Any]) -> Arrays:
        out, ids = given["out"].copy(), given["sorted_ids"]
        inside = (ids >= 0) & (ids < len(out))
        np.add.at(out, ids[inside], given["partial_sums"][inside])
        return {"out": out}

    def mirror(given: Mapping[str, Any]) -> None:
        given["out"][:] = reference(given)["out"]

    names = ("sorted_ids", "partial_sums", "out")
    return Kernel(
        stem=f"segment_add_{name}",
        source="segment_add",
        defines={"TYPE": kind},
        bindings=(
            Binding("sorted_ids", "i32", ("B",)),
            Binding("partial_sums", kind, ("B", "D")),
            Binding("out", kind, ("V", "D"), "inout"),
        ),
        constants={"WG": WG, "SPAN": SPAN},
        workgroups=entries("B", "D"),
        mirror=ByKeyword(mirror, names),
        reference=ByKeyword(reference, names),
        rounds=lambda dims, params: _rounds.strided(dims["B"], SPAN),
        cases=tuple(
            Case(label, {**dims, "V": count}, inputs, tolerance(kind, dims["B"]))
            for label, count, dims in CASES
        ),
    )


KERNELS = tuple(_kernel(name, kind) for name, kind in TYPES.items())
