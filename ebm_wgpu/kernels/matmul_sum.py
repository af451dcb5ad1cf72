"""out = act(alpha sum_s partial_s + bias + out): a product whose depth was split, put together.

Layer l of `out` gets layers l s to l s + s - 1 of `partial`; otherwise as in `_matmul`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._activation import ACTIVATIONS
from ebm_wgpu.kernels._cases import dot_tolerance, normal
from ebm_wgpu.kernels._matmul import check_epilogue, finish, finish_reference
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Kernel,
    Param,
    Scalar,
    Work,
)

WG = 64


def mirror(
    partial: Array, bias: Array, out: Array, alpha: float, activation: int, accumulate: int
) -> None:
    """Sums in NumPy, the rest in one compiled pass."""
    sums = partial.reshape(len(out), -1, *out.shape[1:]).sum(axis=1)
    finish(sums, bias, out, alpha, activation, accumulate)


def reference(
    partial: Array, bias: Array, out: Array, alpha: float, activation: int, accumulate: int
) -> Arrays:
    """Float64 reference."""
    sums = partial.reshape(len(out), -1, *out.shape[1:]).sum(axis=1)
    return {"out": finish_reference(sums, bias, out, alpha, activation, accumulate)}


def _derive(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    if dims["P"] % max(dims["L"], 1) or dims["P"] < dims["L"]:
        raise KernelError(
            f"kernel matmul_sum: {dims['P']} layers of 'partial' cannot be shared by the "
            f"{dims['L']} of 'out'"
        )
    check_epilogue("matmul_sum", dims, params)
    return {}


def _draw(rng: np.random.Generator, dims: Dims) -> Arrays:
    return {
        "partial": normal(rng, dims["P"], dims["M"], dims["N"]),
        "bias": normal(rng, dims["BN"]),
        "out": normal(rng, dims["L"], dims["M"], dims["N"]),
    }


def _case(
    name: str,
    dims: tuple[int, int, int, int],
    bias: bool = False,
    activation: str = "none",
    alpha: float = 1.0,
    accumulate: int = 0,
) -> Case:
    layers, splits, m, n = dims
    sizes = {"P": layers * splits, "M": m, "N": n, "BN": n if bias else 0, "L": layers}
    params = {
        "alpha": alpha,
        "activation": ACTIVATIONS.index(activation),
        "accumulate": accumulate,
    }
    return Case(name, sizes, _draw, dot_tolerance(splits + 2, 2.0), params)


KERNEL = Kernel(
    stem="matmul_sum",
    defines={"BATCHED": ""},
    bindings=(
        Binding("partial", "f32", ("P", "M", "N")),
        Binding("bias", "f32", ("BN",), half=True),
        Binding("out", "f32", ("L", "M", "N"), "inout", half=True),
    ),
    params=(Param("alpha", "f32"), Param("activation", "u32"), Param("accumulate", "u32")),
    constants={"WG": WG},
    workgroups=lambda dims, params: -(-dims["L"] * dims["M"] * -(-dims["N"] // 4) // WG),
    derive=_derive,
    mirror=mirror,
    reference=reference,
    rounds=lambda dims, params: _rounds.loop(-(-dims["P"] // max(dims["L"], 1))) + _rounds.loop(4),
    cases=(
        _case("odd, bias", (2, 3, 5, 7), bias=True, alpha=0.5),
        _case("one split, onto out", (3, 1, 4, 33), accumulate=1),
        _case("many splits, gelu", (1, 16, 9, 65), bias=True, activation="gelu"),
        _case("one number, silu", (1, 2, 1, 1), activation="silu"),
        _case("several workgroups, relu", (1, 2, 67, 130), activation="relu"),
        _case("tanh form of gelu, all at once", (2, 5, 3, 12), True, "gelu_tanh", -1.5, 1),
    ),
    work=lambda dims: Work(
        1.0 * dims["P"] * dims["M"] * dims["N"],
        4.0 * (dims["P"] + dims["L"]) * dims["M"] * dims["N"],
    ),
    speed_case={"P": 8, "M": 640, "N": 2048, "BN": 0, "L": 1},
)
