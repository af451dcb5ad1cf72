"""How often the loops of one invocation go round, for the field `rounds` of a kernel.

Mesa llvmpipe ends every loop of an invocation, without a word, once all of them together have gone
round LLVMPIPE_ROUNDS times (lp_exec_endloop in Mesa's lp_bld_ir_common.c). The round in which the
test of a loop fails counts too, and passes, masked, once through every loop inside. Bounds hold for
the narrowest subgroups llvmpipe makes, of four invocations. *Measured* on Mesa 22.3: expert_ffn
goes wrong within 0.2 % above its bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ebm_wgpu.kernels.spec import Dims, Scalar

LLVMPIPE_ROUNDS = 65_535
_NARROWEST = 4
_EXPANSION_DIMENSION = 64


class Rounds(int):
    """Rounds of a piece of a program, and `loops`, the number of loops written in it.

    Pieces that follow each other are added, copies of one are multiplied.
    """

    loops: int

    def __new__(cls, rounds: int, loops: int) -> Rounds:
        result = super().__new__(cls, rounds)
        result.loops = loops
        return result

    def __add__(self, other: int) -> Rounds:
        return Rounds(int(self) + int(other), self.loops + getattr(other, "loops", 0))

    __radd__ = __add__

    def __mul__(self, copies: int) -> Rounds:
        return Rounds(int(self) * copies, self.loops * copies)

    __rmul__ = __mul__


NONE = Rounds(0, 0)


def loop(count: int, inner: Rounds = NONE) -> Rounds:
    """Rounds of a loop of `count` rounds around the loops of `inner`."""
    return Rounds(count * (1 + int(inner)) + 1 + inner.loops, 1 + inner.loops)


PHILOX = loop(10)
"""Rounds of one call of lib/philox."""


def strided(size: int, stride: int, inner: Rounds = NONE) -> Rounds:
    """Rounds of a loop in which `stride` invocations or tiles share `size` entries."""
    return loop(-(-size // stride), inner)


def reduction(workgroup: int) -> Rounds:
    """Rounds of one call of lib/reduce."""
    return loop(workgroup // _NARROWEST)


def recurrence(dimension: Scalar) -> Rounds:
    """Rounds of the loop that lib/vmf and lib/mixture take from dimension 64 to 67 downwards."""
    return strided(max(_EXPANSION_DIMENSION + 4 - int(dimension), 0), 2)


def quads(dimension: int, workgroup: int, inner: Rounds = NONE) -> Rounds:
    """Rounds of a pass over the coordinates of a row by quads."""
    return strided(-(-dimension // 4), workgroup, inner + loop(4))


def drifts(dimension: int, workgroup: int) -> Rounds:
    """Rounds of drift_thermalise_drift of lib/baoab."""
    return (
        6 * quads(dimension, workgroup)
        + quads(dimension, workgroup, PHILOX)
        + 4 * reduction(workgroup)
    )


def tiles(depth: int, constants: Mapping[str, int]) -> Rounds:
    """Rounds of a sum over `depth` by tiles of lib/tile."""
    deep, workgroup = constants["TILE_K"], constants["WG"]
    fill = strided(deep * constants["TILE_A"], workgroup) + strided(
        deep * constants["TILE_B"], workgroup
    )
    return strided(depth, deep, fill + loop(deep))


def stream(count: int, dimension: int, workgroup: int, terms: Rounds = NONE) -> Rounds:
    """Rounds of lib/splat_stream over `count` splats, with `terms` rounds for the terms of each."""
    coordinates = strided(dimension, workgroup)
    dots = loop(8, strided(dimension, 8)) + loop(8) + terms
    sums = strided(dimension, workgroup, loop(workgroup))
    block = dots + reduction(workgroup) + sums
    return coordinates + strided(count, workgroup, block) + 2 * reduction(workgroup)


def splat_energy(count: int, dimension: int, workgroup: int) -> Rounds:
    """Rounds of lib/splat_energy over `count` splats."""
    finish = 2 * strided(dimension, workgroup) + 2 * reduction(workgroup)
    return stream(count, dimension, workgroup) + finish


def rows_and_columns(dims: Dims, inner: Rounds) -> Rounds:
    """Rounds of a backward kernel that sums rows of N and columns of B, `inner` for an entry.

    A workgroup does one or the other; masked, it goes through the loops of the other as well.
    """
    row = strided(dims["N"], 256, inner) + reduction(256)
    return row + strided(dims["B"], 8, inner) + loop(8)


def topk_flush(streams: int, k: int) -> Rounds:
    """Rounds of topk_flush of lib/topk: ranks of the old and of the new entry in each stream."""
    return loop(streams, 2 * (loop(k.bit_length()) + loop(128)))


def topk_offers(count: int, streams: int, k: int, inner: Rounds = NONE) -> Rounds:
    """Rounds of offering `count` entries to lib/topk, of the last flush, and of `inner` a block."""
    flush = topk_flush(streams, k)
    offer = 2 * (2 * loop(streams)) + flush + loop(2) + loop(streams)
    return loop(streams) + strided(count, 128, inner + offer) + flush


def row_passes(
    dimension: str, passes: int, reductions: int, workgroup: int = 64
) -> Callable[[Dims, Mapping[str, Scalar]], int]:
    """`rounds` of a kernel that goes over its row several times, a workgroup a row.

    Args:
        dimension: name of the row's length.
        passes: how often the row is gone over.
        reductions: calls of lib/reduce.
        workgroup: invocations in a workgroup.
    """

    def rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
        return passes * strided(dims[dimension], workgroup) + reductions * reduction(workgroup)

    return rounds
