"""Batched products of few rows: strips of columns, a workgroup each that shares the depth.

See `_matmul` for what is computed; `_vec4` kernels need rows of a and b in multiples of four.
"""

from __future__ import annotations

from collections.abc import Mapping

from ebm_wgpu.kernels import _matmul, _rounds
from ebm_wgpu.kernels._matmul_cases import cases
from ebm_wgpu.kernels.spec import Dims, Kernel, Scalar

ROWS = (1, 8)
"""Rows that one pass makes."""
WG = 64
_NARROW, _WIDE = 2, 8


def strip_width(trans_b: bool) -> int:
    """Columns of a strip."""
    return 4 * (_NARROW if trans_b else _WIDE)


def rows_stem(rows: int, lanes: int) -> str:
    """Name of the kernel for that many rows; `lanes` = 4 for the one that reads vec4s."""
    return f"matmul_rows_{rows}{'_vec4' if lanes == 4 else ''}"


def _kernel(rows: int, lanes: int) -> Kernel:
    stem = rows_stem(rows, lanes)

    def workgroups(dims: Dims, params: Mapping[str, Scalar]) -> int:
        strips = -(-dims["N"] // strip_width(params["trans_b"] == 1))
        return dims["L"] * strips * -(-dims["M"] // rows)

    def rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
        groups = _NARROW if params["trans_b"] else _WIDE
        share = -(-_matmul.depth_of(dims, params) // int(params["splits"])) + _matmul.SHARE
        sums = _rounds.strided(rows * groups, WG, _rounds.loop(WG // groups) + _rounds.loop(4))
        return _rounds.strided(share, 4 * WG // groups) + sums

    return Kernel(
        stem=stem,
        source="matmul_rows",
        defines={"BATCHED": "", **({"VECTOR": ""} if lanes == 4 else {})},
        bindings=_matmul.bindings(lanes),
        params=_matmul.PARAMS,
        constants={"WG": WG, "ROWS": rows},
        workgroups=workgroups,
        derive=_matmul.derive(stem, lanes),
        mirror=_matmul.mirror,
        reference=_matmul.reference,
        rounds=rounds,
        cases=cases(rows, 4 * _WIDE, lanes),
        gradient=_matmul.gradient(stem) if lanes == 1 else None,
        work=_matmul.work,
        speed_case={**_matmul.SQUARE, "AR": rows, "M": rows},
    )


KERNELS = tuple(_kernel(rows, lanes) for rows in ROWS for lanes in (1, 4))
