"""What the declarations and proofs of attention and its backwards share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._attention import (
    COLUMN_TILES,
    MAX_HEAD_DIM,
    PARAMS,
    SIDE,
    STREAM_ATTENTION,
    Options,
    attention_params,
    exact_kept,
    exact_lse,
    exact_scores,
    exact_shares,
    taking_options,
)
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels.spec import (
    Arrays,
    Binding,
    Case,
    Dims,
    Gradient,
    Kernel,
    Scalar,
    Tolerance,
    Work,
)

WG = (SIDE // 4) ** 2
_OF_QUERIES = ("G", "T", "D")
_OF_KEYS = ("KV", "S", "D")


def of_queries(name: str, access: Literal["in", "out"] = "in") -> Binding:
    """An array of the queries' shape."""
    return Binding(name, "f32", _OF_QUERIES, access, half=True)


def of_keys(name: str, access: Literal["in", "out"] = "in") -> Binding:
    """An array of the keys' shape."""
    return Binding(name, "f32", _OF_KEYS, access, half=True)


def of_rows(name: str, access: Literal["in", "out"] = "in") -> Binding:
    """A number for each query."""
    return Binding(name, "f32", ("G", "T"), access)


@dataclass(frozen=True)
class Setting:
    """One row of the case tables of all three kernels."""

    name: str
    dims: Dims
    params: Options
    size: float = 1.0

    def inputs(self, rng: np.random.Generator, dims: Dims) -> Arrays:
        """Queries of deviation `size`, keys and values of 1, a mask that hides a third.

        With several masks the last one hides all keys from its queries.
        """
        mask = normal(rng, dims["M"], dims["MT"], dims["MS"])
        if self.params["masked"]:
            mask[rng.random(mask.shape) < 0.3] = -np.inf
            if len(mask) > 1:
                mask[-1] = -np.inf
        return {
            "q": normal(rng, dims["G"], dims["T"], dims["D"], scale=self.size),
            "k": normal(rng, dims["KV"], dims["S"], dims["D"]),
            "v": normal(rng, dims["KV"], dims["S"], dims["D"]),
            "mask": mask,
        }

    def backward_inputs(self, rng: np.random.Generator, dims: Dims) -> Arrays:
        """Those, what the forward made of them, and the gradient of the output."""
        arrays = self.inputs(rng, dims)
        exact = {name: value.astype(np.float64) for name, value in arrays.items()}
        scores = exact_scores(exact["q"], exact["k"], exact["mask"], self.params)
        lse = exact_lse(scores)
        kept = exact_shares(scores, lse) * exact_kept(scores.shape, self.params)
        values = np.repeat(exact["v"], dims["G"] // dims["KV"], axis=0)
        arrays["lse"] = lse.astype(np.float32)
        arrays["out"] = np.einsum("gts,gsd->gtd", kept, values).astype(np.float32)
        arrays["grad_out"] = normal(rng, dims["G"], dims["T"], dims["D"])
        return arrays

    @property
    def share_error(self) -> float:
        """Relative error of a share: that of the score, and of exp at what still counts."""
        return EPS32 * (4 + 2 * self.size * self.dims["D"] ** 0.5 / 2 + 8 * self.size)

    def tolerance(self, factor: float, what: str) -> Tolerance:
        """For sums of shares times numbers of about `factor` in all."""
        return Tolerance(
            factor * self.share_error,
            8 * EPS32,
            f"{what}; shares good to {self.share_error / EPS32:.0f} eps from products of "
            f"{self.dims['D']} terms",
        )

    def case(
        self,
        inputs: Callable[[np.random.Generator, Dims], Arrays],
        tolerance: Mapping[str, Tolerance],
    ) -> Case:
        """The proof of a kernel at this setting."""
        return Case(self.name, self.dims, inputs, tolerance, self.params)


def _setting(
    name: str,
    heads: tuple[int, int],
    sizes: tuple[int, int, int],
    mask: tuple[int, int, int] = (1, 1, 1),
    size: float = 1.0,
    **options: float,
) -> Setting:
    dims = dict(zip(("G", "KV", "T", "S", "D", "M", "MT", "MS"), heads + sizes + mask, strict=True))
    scale = options.pop("scale", dims["D"] ** -0.5)
    return Setting(name, dims, attention_params(scale, **options), size)  # type: ignore[arg-type]


_SETTINGS = (
    _setting("causal, odd", (3, 3), (37, 37, 24), causal=True),
    _setting("three tiles", (1, 1), (67, 70, 33)),
    _setting("cache, shared keys", (4, 2), (5, 41, 64), causal=True, offset=36),
    _setting("one mask", (2, 2), (33, 35, 8), (1, 33, 35), masked=True),
    _setting(
        "masks of keys, one hides all", (4, 4), (9, 34, 40), (2, 1, 34), masked=True, causal=True
    ),
    _setting("queries before all keys", (2, 1), (40, 7, 16), causal=True, offset=-33),
    _setting("dropout", (3, 3), (34, 34, 12), causal=True, dropout=0.3, seed=2**63 + 5),
    _setting("widest heads", (2, 1), (33, 33, MAX_HEAD_DIM), causal=True),
    _setting("far apart", (1, 1), (20, 33, 64), size=8.0),
    _setting("one of each", (1, 1), (1, 1, 1), scale=0.5),
)


def _check_shapes(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    """Refuses shapes that do not fit together.

    Raises:
        KernelError: heads too wide, or key heads or masks that heads cannot share evenly.
    """
    if dims["D"] > MAX_HEAD_DIM:
        raise KernelError(f"attention: heads of dimension {dims['D']} exceed {MAX_HEAD_DIM}")
    for name, what in (("KV", "key heads"), ("M", "masks")):
        if dims[name] < 1 or dims["G"] % dims[name]:
            raise KernelError(
                f"attention: {dims['G']} heads cannot share {dims[name]} {what} evenly"
            )
    for name, axis in (("MT", "T"), ("MS", "S")):
        if params["masked"] and dims[name] not in (1, dims[axis]):
            raise KernelError(
                f"attention: the mask has {name}={dims[name]}, which must be 1 or {dims[axis]}"
            )
    return {}


def attention_kernel(
    stem: str,
    bindings: tuple[Binding, ...],
    mirror: Callable[..., None],
    reference: Callable[..., Arrays],
    case: Callable[[Setting], Case],
    products: int,
    sums: int,
    walks_queries: bool = False,
    gradient: Gradient | None = None,
) -> Kernel:
    """The record of a kernel that goes through pairs of tiles of queries and keys.

    Args:
        stem: its name.
        bindings: after q, k, v and mask.
        mirror: takes the bindings, and `options`: the parameters by name.
        reference: likewise.
        case: makes a setting a proof.
        products: rows against rows, for a pair of tiles.
        sums: of rows weighted with what those give, for a pair of tiles.
        walks_queries: a workgroup owns a tile of keys and goes through the queries of all heads
            that read it; else it owns a tile of queries and goes through the keys.
        gradient: as in the declaration.
    """
    all_bindings = (
        of_queries("q"),
        of_keys("k"),
        of_keys("v"),
        Binding("mask", "f32", ("M", "MT", "MS")),
        *bindings,
    )
    shapes = [binding.shape for binding in all_bindings]
    query_arrays, key_arrays = shapes.count(_OF_QUERIES), shapes.count(_OF_KEYS)

    def workgroups(dims: Dims, params: Mapping[str, Scalar]) -> int:
        heads, length = ("KV", "S") if walks_queries else ("G", "T")
        return dims[heads] * -(-dims[length] // SIDE)

    def rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
        tile = _tile_rounds(products, sums, dims["D"])
        if walks_queries:
            heads = dims["G"] // dims["KV"]
            walk = _rounds.loop(heads, _rounds.strided(dims["T"], SIDE, tile))
        else:
            walk = _rounds.strided(dims["S"], SIDE, tile)
        return walk + _finish_rounds(dims["D"])

    def work(dims: Dims) -> Work:
        pairs = float(dims["G"] * dims["T"] * dims["S"])
        rows = query_arrays * dims["G"] * dims["T"] + key_arrays * dims["KV"] * dims["S"]
        return Work(2 * (products + sums) * pairs * dims["D"], 4.0 * rows * dims["D"])

    return Kernel(
        stem=stem,
        bindings=all_bindings,
        params=PARAMS,
        constants={
            "WG": WG,
            "SIDE": SIDE,
            "COLUMN_TILES": COLUMN_TILES,
            "STREAM_ATTENTION": STREAM_ATTENTION,
        },
        workgroups=workgroups,
        derive=_check_shapes,
        mirror=taking_options(mirror),
        reference=taking_options(reference),
        rounds=rounds,
        cases=tuple(case(setting) for setting in _SETTINGS),
        gradient=gradient,
        work=work,
        speed_case={"G": 160, "KV": 160, "T": 1024, "S": 1024, "D": 64, "M": 1, "MT": 1, "MS": 1},
    )


def _tile_rounds(products: int, sums: int, depth: int) -> _rounds.Rounds:
    fill = _rounds.strided(SIDE * SIDE // 4, WG)
    product = _rounds.strided(depth, SIDE, fill + _rounds.loop(SIDE))
    weighted = COLUMN_TILES * (fill + _rounds.loop(SIDE))
    return products * product + sums * weighted + _rounds.loop(SIDE // 4) + 4 * _rounds.PHILOX


def _finish_rounds(depth: int) -> _rounds.Rounds:
    """Before and after the loop over tiles."""
    own = 4 * _rounds.strided(depth, SIDE // 4) + 4 * _rounds.loop(4)
    return own + 2 * _rounds.loop(SIDE // 4)
