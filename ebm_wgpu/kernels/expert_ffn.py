"""Feed-forward networks of the chosen experts, weighted.

out[b] = sum_a weight[b, a] (W2_e gelu(W1_e x_b + b1_e) + b2_e), e = index[b, a], with GELU in its
tanh form. The experts of a row must differ, as those that expert_gate chooses do. Matrices are
(E, inputs, outputs). pre[b, a] = W1_e x_b + b1_e is kept for the backward kernels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._experts import (
    CASE_DIMS,
    CHUNK,
    ROWS,
    by_expert,
    exact_gelu,
    expert_inputs,
    gelu_rows,
    unit_error,
)
from ebm_wgpu.kernels.spec import (
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


def mirror(
    x: Array,
    w1: Array,
    b1: Array,
    w2: Array,
    b2: Array,
    index: Array,
    weight: Array,
    out: Array,
    pre: Array,
) -> None:
    """Matrix products over the rows of each expert; GELU in Numba."""
    out[...] = 0
    for expert, rows, slots in by_expert(index, len(w1)):
        z = x[rows] @ w1[expert]
        z += b1[expert]
        pre[rows, slots] = z
        gelu_rows(z, z)
        y = z @ w2[expert]
        y += b2[expert]
        y *= weight[rows, slots, None]
        out[rows] += y


def reference(
    x: Array, w1: Array, b1: Array, w2: Array, b2: Array, index: Array, weight: Array
) -> Arrays:
    """Float64 reference."""
    pre = np.einsum("bi,baih->bah", x, w1[index]) + b1[index]
    y = np.einsum("bah,baho->bao", exact_gelu(pre)[0], w2[index]) + b2[index]
    return {"out": np.einsum("ba,bao->bo", weight, y), "pre": pre}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    pre = run("expert_ffn", **inputs)["pre"]
    shared = {n: inputs[n] for n in ("index", "weight")}
    shared |= {"pre": pre, "grad_out": cotangents["out"]}
    matrices = {n: inputs[n] for n in ("w1", "w2", "b2")}
    rows = run("expert_ffn_backward", **shared, **matrices)
    sums = run(
        "expert_ffn_weight_backward",
        **shared,
        x=inputs["x"],
        grad_pre=rows["grad_pre"],
        E=len(inputs["w1"]),
    )
    gradients = rows | sums
    return {name: gradients[f"grad_{name}"] for name in KERNEL.gradient.wrt}  # type: ignore[union-attr]


def _case(name: str, dims: Dims) -> Case:
    error = unit_error(dims)
    reason = "sums of I and of H products of order one, each rounded: eps (sqrt(I) + sqrt(H) + 8)"
    tolerance = Tolerance(error, 8 * EPS32, reason)
    return Case(name, dims, expert_inputs, {"pre": tolerance, "out": tolerance})


def _work(dims: Dims) -> Work:
    matrices = dims["E"] * dims["H"] * (dims["I"] + dims["O"])
    products = dims["B"] * dims["A"] * dims["H"] * (dims["I"] + dims["O"])
    rows = dims["B"] * (dims["I"] + dims["O"] + dims["A"] * dims["H"])
    return Work(2.0 * products, 4.0 * (matrices + rows))


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    inputs, hidden, outputs = dims["I"], dims["H"], dims["O"]
    loop, strided = _rounds.loop, _rounds.strided
    width = min(CHUNK, hidden)
    choices = loop(ROWS, loop(dims["A"]))
    unit = loop(inputs, loop(ROWS)) + choices
    output = loop(ROWS) + loop(width, loop(ROWS)) + loop(ROWS)
    chunk = strided(width, 64, unit) + strided(outputs, 64, output)
    expert = choices + strided(hidden, CHUNK, chunk)
    return strided(ROWS * outputs, 64) + loop(dims["E"], expert)


KERNEL = Kernel(
    stem="expert_ffn",
    bindings=(
        Binding("x", "f32", ("B", "I")),
        Binding("w1", "f32", ("E", "I", "H"), half=True),
        Binding("b1", "f32", ("E", "H")),
        Binding("w2", "f32", ("E", "H", "O"), half=True),
        Binding("b2", "f32", ("E", "O")),
        Binding("index", "i32", ("B", "A")),
        Binding("weight", "f32", ("B", "A")),
        Binding("out", "f32", ("B", "O"), "out"),
        Binding("pre", "f32", ("B", "A", "H"), "out"),
    ),
    constants={"WG": 64, "ROWS": ROWS, "CHUNK": CHUNK},
    workgroups=lambda dims, params: (dims["B"] + ROWS - 1) // ROWS,
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    cases=tuple(_case(name, dims) for name, dims in CASE_DIMS.items()),
    gradient=Gradient(
        wrt=("x", "w1", "b1", "w2", "b2", "weight"),
        vjp=_vjp,
        outputs=("out",),
        tolerance=Tolerance(5e-6, 1e-5, "float32 sums of hundreds of products of order one"),
    ),
    work=_work,
    speed_case={"B": 4096, "I": 1280, "H": 1024, "O": 640, "E": 8, "A": 2},
)
