"""The start of a sort: keys that rise as the entries of x do (or fall), and places in the row.

Rows are filled up to P entries, a power of two, with ones that come last. NaN is above all numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import _order
from ebm_wgpu.kernels._keywords import ByKeyword
from ebm_wgpu.kernels._rows import WG, entries
from ebm_wgpu.kernels.spec import DTYPES, EXACT, Arrays, Binding, Case, Kernel, Param, Scalar


def _fits(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    if dims["P"] < dims["N"] or dims["P"] & (dims["P"] - 1):
        raise KernelError(f"sort_keys: P={dims['P']} must be a power of two, N={dims['N']} or more")
    return {}


def _kernel(name: str, kind: _order.Kind) -> Kernel:
    def reference(values: Mapping[str, Any]) -> Arrays:
        x, width = values["x"].astype(DTYPES[kind]), values["P"]
        keys = np.full((len(x), width), 0xFFFFFFFF, np.uint32)
        found = _order.keys(x)
        keys[:, : x.shape[1]] = ~found if values["descending"] else found
        order = np.broadcast_to(np.arange(width, dtype=np.int32), keys.shape)
        return {"keys": keys.view(np.int32), "order": order}

    def mirror(values: Mapping[str, Any]) -> None:
        for output, result in reference(values).items():
            values[output][:] = result

    cases = tuple(
        Case(label, {"R": r, "N": n, "P": p}, _order.rows(kind), EXACT, {"descending": falls})
        for label, r, n, p, falls in (
            ("rising", 5, 67, 128, 0),
            ("falling", 3, 300, 512, 1),
            ("one entry", 2, 1, 1, 1),
        )
    )
    return Kernel(
        stem=f"sort_keys_{name}",
        source="sort_keys",
        defines={"KEY": f"rising_{name}"},
        bindings=(
            Binding("x", kind, ("R", "N")),
            Binding("keys", "i32", ("R", "P"), "out"),
            Binding("order", "i32", ("R", "P"), "out"),
        ),
        params=(Param("descending", "u32"),),
        constants={"WG": WG},
        workgroups=entries("R", "P"),
        mirror=ByKeyword(mirror, ("x", "P", "descending", "keys", "order")),
        reference=ByKeyword(reference, ("x", "P", "descending")),
        derive=_fits,
        cases=cases,
    )


KERNELS = tuple(_kernel(name, kind) for name, kind in _order.TYPES.items())
