"""out[b] = weight[ids[b]], a row of NaN where ids[b] lies outside 0 .. V - 1."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import normal
from ebm_wgpu.kernels._rows import WG, entries
from ebm_wgpu.kernels.spec import (
    EXACT,
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Gradient,
    Kernel,
    Run,
    Scalar,
    Tolerance,
    Work,
)


@njit(cache=True)
def mirror(weight: Array, ids: Array, out: Array) -> None:
    """Numba mirror."""
    for row in range(ids.shape[0]):
        if 0 <= ids[row] < weight.shape[0]:
            out[row] = weight[ids[row]]
        else:
            out[row] = np.nan


def reference(weight: Array, ids: Array) -> Arrays:
    """Float64 reference."""
    inside = (ids >= 0) & (ids < len(weight))
    return {"out": np.where(inside[:, None], weight[np.where(inside, ids, 0)], np.nan)}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    places = run("token_order", ids=inputs["ids"])
    gradients = run(
        "embedding_backward",
        **places,
        grad_out=cotangents["out"],
        padding_index=-1,
        V=len(inputs["weight"]),
    )
    return {"weight": gradients["grad_weight"]}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    ids = rng.integers(0, dims["V"], dims["B"]).astype(np.int32)
    return {"weight": normal(rng, dims["V"], dims["D"]), "ids": ids}


def _outside(rng: np.random.Generator, dims: Dims) -> Arrays:
    arrays = _inputs(rng, dims)
    arrays["ids"][:4] = [-1, dims["V"], 2**31 - 1, -(2**31)]
    return arrays


KERNEL = Kernel(
    stem="embedding",
    bindings=(
        Binding("weight", "f32", ("V", "D"), half=True),
        Binding("ids", "i32", ("B",)),
        Binding("out", "f32", ("B", "D"), "out", half=True),
    ),
    constants={"WG": WG, "NAN_BITS": 0x7FC00000},
    workgroups=entries("B", "D"),
    mirror=mirror,
    reference=reference,
    cases=(
        Case("odd", {"V": 37, "D": 131, "B": 29}, _inputs, EXACT),
        Case("one token", {"V": 1, "D": 3, "B": 5}, _inputs, EXACT),
        Case("ids outside", {"V": 9, "D": 8, "B": 6}, _outside, EXACT),
    ),
    gradient=Gradient(
        wrt=("weight",),
        vjp=_vjp,
        outputs=("out",),
        tolerance=Tolerance(2e-6, 1e-6, "sums of a few numbers"),
        cases=("odd", "one token"),
    ),
    work=lambda dims: Work(0.0, 8.0 * dims["B"] * dims["D"]),
    speed_case={"V": 50257, "D": 640, "B": 16384},
)
