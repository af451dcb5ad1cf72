"""Gradients of expert_ffn that are sums over rows: of the matrices and biases of the experts.

Over all choices (b, a) with index[b, a] = e: grad_w1_e = sum x_b grad_pre^T,
grad_b1_e = sum grad_pre, grad_w2_e = sum weight gelu(pre) grad_out_b^T,
grad_b2_e = sum weight grad_out_b. An expert nobody chose gets zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._experts import CASE_DIMS, UNITS, by_expert, exact_gelu, gelu_rows
from ebm_wgpu.kernels.expert_ffn_backward import backward_inputs
from ebm_wgpu.kernels.expert_ffn_backward import reference as row_reference
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Scalar, Tolerance


def mirror(
    x: Array,
    index: Array,
    weight: Array,
    pre: Array,
    grad_pre: Array,
    grad_out: Array,
    grad_w1: Array,
    grad_b1: Array,
    grad_w2: Array,
    grad_b2: Array,
) -> None:
    """Matrix products over the rows of each expert; GELU in Numba."""
    for out in (grad_w1, grad_b1, grad_w2, grad_b2):
        out[...] = 0
    for expert, rows, slots in by_expert(index, len(grad_w1)):
        slope = grad_pre[rows, slots]
        hidden = pre[rows, slots]
        gelu_rows(hidden, hidden)
        g = grad_out[rows] * weight[rows, slots, None]
        np.matmul(x[rows].T, slope, out=grad_w1[expert])
        np.matmul(hidden.T, g, out=grad_w2[expert])
        np.sum(slope, 0, out=grad_b1[expert])
        np.sum(g, 0, out=grad_b2[expert])


def reference(
    x: Array, index: Array, weight: Array, pre: Array, grad_pre: Array, grad_out: Array, E: int
) -> Arrays:
    """Float64 reference."""
    chose = (index[:, :, None] == np.arange(E)).astype(np.float64)
    weighted = chose * weight[..., None]
    return {
        "grad_w1": np.einsum("bae,bi,bah->eih", chose, x, grad_pre),
        "grad_b1": np.einsum("bae,bah->eh", chose, grad_pre),
        "grad_w2": np.einsum("bae,bah,bo->eho", weighted, exact_gelu(pre)[0], grad_out),
        "grad_b2": np.einsum("bae,bo->eo", weighted, grad_out),
    }


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    arrays = backward_inputs(rng, dims)
    taken = {n: v for n, v in arrays.items() if n not in ("x", "b1")}
    grad_pre = row_reference(**taken)["grad_pre"].astype(np.float32)
    kept = ("x", "index", "weight", "pre", "grad_out")
    return {name: arrays[name] for name in kept} | {"grad_pre": grad_pre}


def _case(name: str, dims: Dims) -> Case:
    size = max(1.0, np.sqrt(dims["O"] / dims["H"]))
    return Case(
        name,
        dims,
        _inputs,
        Tolerance(
            4 * EPS32 * size * np.sqrt(dims["B"]),
            8 * EPS32,
            "sums over at most B rows of products of order 1 or sqrt(O/H), each rounded",
        ),
    )


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    choices = dims["B"] * dims["A"]
    loop, strided = _rounds.loop, _rounds.strided
    column = loop(choices, loop(UNITS)) + loop(UNITS)
    matrices = strided(dims["I"], 64, column) + strided(dims["O"], 64, column)
    return matrices + strided(UNITS, 64, loop(choices))


KERNEL = Kernel(
    stem="expert_ffn_weight_backward",
    bindings=(
        Binding("x", "f32", ("B", "I")),
        Binding("index", "i32", ("B", "A")),
        Binding("weight", "f32", ("B", "A")),
        Binding("pre", "f32", ("B", "A", "H")),
        Binding("grad_pre", "f32", ("B", "A", "H")),
        Binding("grad_out", "f32", ("B", "O")),
        Binding("grad_w1", "f32", ("E", "I", "H"), "out"),
        Binding("grad_b1", "f32", ("E", "H"), "out"),
        Binding("grad_w2", "f32", ("E", "H", "O"), "out"),
        Binding("grad_b2", "f32", ("E", "O"), "out"),
    ),
    constants={"WG": 64, "UNITS": UNITS},
    workgroups=lambda dims, params: dims["E"] * ((dims["H"] + UNITS - 1) // UNITS),
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    cases=tuple(_case(name, dims) for name, dims in CASE_DIMS.items()),
)
