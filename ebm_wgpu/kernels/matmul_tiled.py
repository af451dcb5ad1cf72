"""Batched products by tiles held in registers, one kernel for each tile and way to read operands.

See `_matmul` for what is computed; `_vec4` kernels need rows of a and b in multiples of four.
"""

from __future__ import annotations

from collections.abc import Mapping

from ebm_wgpu.kernels import _matmul, _rounds
from ebm_wgpu.kernels._matmul_cases import cases
from ebm_wgpu.kernels.spec import Dims, Kernel, Scalar

TILE_K = 16
_TEAM_M, _TEAM_N = 16, 32
_BLOCKS: Mapping[tuple[int, int], tuple[int, int]] = {
    (32, 32): (1, 1),
    (64, 64): (2, 2),
    (128, 64): (2, 2),
    (128, 128): (2, 2),
}
TILES: Mapping[int, tuple[tuple[int, int], ...]] = {
    1: ((64, 64), (128, 128)),
    4: tuple(_BLOCKS),
}
"""Rows and columns of the tiles there are for each number of lanes, the smallest first."""


def tile_constants(tile_m: int, tile_n: int) -> dict[str, int]:
    """WGSL constants of lib/matmul_tile for tiles of `TILES`."""
    down, across = _BLOCKS[tile_m, tile_n]
    workgroup = 32 * (tile_m // (_TEAM_M * down)) * (tile_n // (_TEAM_N * across))
    blocks = TILE_K // 4 * (tile_m + tile_n) // 4
    return {
        "WG": workgroup,
        "TILE_M": tile_m,
        "TILE_N": tile_n,
        "TILE_K": TILE_K,
        "BLOCKS_M": down,
        "BLOCKS_N": across,
        "FETCHES": -(-blocks // workgroup),
        "UNROLL": 8 if tile_m * tile_n > 64 * 128 else 4,
    }


def tile_rounds(depth: int, constants: Mapping[str, int]) -> int:
    """Rounds of lib/matmul_tile over `depth`."""
    lines = 4 * constants["BLOCKS_M"] * constants["BLOCKS_N"]
    inner = _rounds.loop(TILE_K // constants["UNROLL"])
    return _rounds.loop(-(-depth // TILE_K) + 1, inner) + _rounds.loop(lines, _rounds.loop(4))


def tiled_stem(tile_m: int, tile_n: int, lanes: int) -> str:
    """Name of the kernel with that tile; `lanes` = 4 for the one that reads vec4s."""
    return f"matmul_tiled_{tile_m}x{tile_n}{'_vec4' if lanes == 4 else ''}"


def _kernel(tile_m: int, tile_n: int, lanes: int) -> Kernel:
    stem, constants = tiled_stem(tile_m, tile_n, lanes), tile_constants(tile_m, tile_n)

    def workgroups(dims: Dims, params: Mapping[str, Scalar]) -> int:
        return dims["L"] * -(-dims["M"] // tile_m) * -(-dims["N"] // tile_n)

    def rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
        share = -(-_matmul.depth_of(dims, params) // int(params["splits"]))
        return tile_rounds(share + _matmul.SHARE, constants)

    return Kernel(
        stem=stem,
        source="matmul_tiled",
        defines={"BATCHED": "", **({"VECTOR": ""} if lanes == 4 else {})},
        bindings=_matmul.bindings(lanes),
        params=_matmul.PARAMS,
        constants=constants,
        stays_inside=True,
        workgroups=workgroups,
        derive=_matmul.derive(stem, lanes),
        mirror=_matmul.mirror,
        reference=_matmul.reference,
        rounds=rounds,
        cases=cases(tile_m, tile_n, lanes),
        gradient=_matmul.gradient(stem) if lanes == 1 else None,
        work=_matmul.work,
        speed_case=_matmul.SQUARE,
    )


KERNELS = tuple(_kernel(m, n, lanes) for lanes, tiles in TILES.items() for m, n in tiles)
