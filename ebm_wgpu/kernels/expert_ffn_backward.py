"""Gradients of expert_ffn that belong to a row: of x, of the weights, of the hidden units.

With g = grad_out[b], e = index[b, a], z = pre[b, a] and back = W2_e g:
grad_weight[b, a] = back.gelu(z) + b2_e.g, grad_pre[b, a] = weight[b, a] back gelu'(z),
grad_x[b] = sum_a W1_e grad_pre[b, a].
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._experts import (
    CASE_DIMS,
    CHUNK,
    ROWS,
    by_expert,
    exact_gelu,
    expert_inputs,
    gelu_slope_rows,
    unit_error,
)
from ebm_wgpu.kernels.expert_ffn import reference as forward_reference
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Scalar, Tolerance


def mirror(
    w1: Array,
    w2: Array,
    b2: Array,
    index: Array,
    weight: Array,
    pre: Array,
    grad_out: Array,
    grad_x: Array,
    grad_weight: Array,
    grad_pre: Array,
) -> None:
    """Matrix products over the rows of each expert; GELU and its slope in Numba."""
    grad_x[...] = 0
    for expert, rows, slots in by_expert(index, len(w1)):
        g = grad_out[rows]
        z = pre[rows, slots]
        back = g @ w2[expert].T
        hidden, slope = np.empty_like(z), np.empty_like(z)
        gelu_slope_rows(z, back, hidden, slope)
        grad_weight[rows, slots] = np.einsum("nh,nh->n", back, hidden) + g @ b2[expert]
        slope *= weight[rows, slots, None]
        grad_pre[rows, slots] = slope
        grad_x[rows] += slope @ w1[expert].T


def reference(
    w1: Array, w2: Array, b2: Array, index: Array, weight: Array, pre: Array, grad_out: Array
) -> Arrays:
    """Float64 reference."""
    hidden, slope = exact_gelu(pre)
    back = np.einsum("bo,baho->bah", grad_out, w2[index])
    grad_pre = weight[..., None] * back * slope
    return {
        "grad_x": np.einsum("bah,baih->bi", grad_pre, w1[index]),
        "grad_weight": np.sum(back * hidden, 2) + np.einsum("bo,bao->ba", grad_out, b2[index]),
        "grad_pre": grad_pre,
    }


def backward_inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Inputs and results of the forward kernel, and a gradient of its output of order one."""
    arrays = expert_inputs(rng, dims)
    pre = forward_reference(**arrays)["pre"].astype(np.float32)
    return arrays | {"pre": pre, "grad_out": normal(rng, dims["B"], dims["O"])}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    arrays = backward_inputs(rng, dims)
    return {name: value for name, value in arrays.items() if name not in ("x", "b1")}


def _case(name: str, dims: Dims) -> Case:
    # back is a sum of O products of size H^-1/2, so it and its error have size sqrt(O/H).
    size = max(1.0, np.sqrt(dims["O"] / dims["H"]))
    error = 2 * size * (unit_error(dims) + EPS32 * np.sqrt(dims["O"]))
    reason = "sums of O, H products of order sqrt(O/H), each rounded, times GELU values up to 3"
    of_weight = Tolerance(error * np.sqrt(dims["O"]), 8 * EPS32, reason + ", added up over H or O")
    tolerance = Tolerance(error, 8 * EPS32, reason)
    return Case(
        name,
        dims,
        _inputs,
        {"grad_x": tolerance, "grad_pre": tolerance, "grad_weight": of_weight},
    )


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    inputs, hidden, outputs = dims["I"], dims["H"], dims["O"]
    loop, strided = _rounds.loop, _rounds.strided
    width = min(CHUNK, hidden)
    choices = loop(ROWS, loop(dims["A"]))
    unit = loop(outputs, loop(ROWS)) + choices
    chunk = strided(width, 64, unit) + strided(inputs, 64, loop(width, loop(ROWS)) + loop(ROWS))
    weights = strided(outputs, 64) + _rounds.reduction(64) + strided(dims["A"], 64)
    expert = choices + strided(hidden, CHUNK, chunk) + loop(ROWS, weights)
    return strided(ROWS * inputs, 64) + loop(dims["E"], expert)


KERNEL = Kernel(
    stem="expert_ffn_backward",
    bindings=(
        Binding("w1", "f32", ("E", "I", "H")),
        Binding("w2", "f32", ("E", "H", "O")),
        Binding("b2", "f32", ("E", "O")),
        Binding("index", "i32", ("B", "A")),
        Binding("weight", "f32", ("B", "A")),
        Binding("pre", "f32", ("B", "A", "H")),
        Binding("grad_out", "f32", ("B", "O")),
        Binding("grad_x", "f32", ("B", "I"), "out"),
        Binding("grad_weight", "f32", ("B", "A"), "out"),
        Binding("grad_pre", "f32", ("B", "A", "H"), "out"),
    ),
    constants={"WG": 64, "ROWS": ROWS, "CHUNK": CHUNK},
    workgroups=lambda dims, params: (dims["B"] + ROWS - 1) // ROWS,
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    subgroup=True,
    cases=tuple(_case(name, dims) for name, dims in CASE_DIMS.items()),
)
