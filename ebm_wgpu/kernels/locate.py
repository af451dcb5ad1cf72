"""values[r], indices[r] = the greatest (least) entry of row r and the first place it stands at.

NaN beats all numbers, in both directions. `lanes` invocations, a power of two, share a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ebm_wgpu.kernels import _order, _rounds
from ebm_wgpu.kernels._keywords import ByKeyword
from ebm_wgpu.kernels.spec import EXACT, Arrays, Binding, Case, Kernel, Param

WG = 256


def _kernel(best: str, suffix: str, kind: _order.Kind) -> Kernel:
    search = np.argmax if best == "max" else np.argmin

    def reference(values: Mapping[str, Any]) -> Arrays:
        indices = search(values["x"], 1)
        found = np.take_along_axis(values["x"], indices[:, None], 1)[:, 0]
        return {"values": found, "indices": indices}

    def mirror(values: Mapping[str, Any]) -> None:
        for name, result in reference(values).items():
            values[name][:] = result

    direction = "rising" if best == "max" else "falling"
    cases = tuple(
        Case(name, {"R": rows, "N": count}, _order.rows(kind), EXACT, {"lanes": lanes})
        for name, rows, count, lanes in (
            ("odd", 5, 601, 256),
            ("one entry", 3, 1, 1),
            ("short rows", 75, 7, 8),
        )
    )
    return Kernel(
        stem=f"locate_{best}{suffix}",
        source="locate",
        defines={"KEY": f"{direction}_{'float' if kind == 'f32' else 'int'}"},
        bindings=(
            Binding("x", kind, ("R", "N")),
            Binding("values", kind, ("R",), "out"),
            Binding("indices", "i32", ("R",), "out"),
        ),
        params=(Param("lanes", "u32"),),
        constants={"WG": WG},
        workgroups=lambda dims, params: -(-dims["R"] // (WG // int(params["lanes"]))),
        mirror=ByKeyword(mirror, ("x", "values", "indices")),
        reference=ByKeyword(reference, ("x",)),
        rounds=lambda dims, params: (
            _rounds.strided(dims["N"], int(params["lanes"])) + _rounds.reduction(WG)
        ),
        cases=cases,
    )


KERNELS = tuple(
    _kernel(best, "" if name == "float" else "_int", kind)
    for best in ("max", "min")
    for name, kind in _order.TYPES.items()
)
