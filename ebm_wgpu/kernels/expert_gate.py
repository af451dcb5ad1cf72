"""Choice of A experts a row, with the load statistics of the balancing loss.

index[b] = the A largest logits of row b, falling (ties: the lower index first; NaN logits still
give A different indices);
weight[b] = their softmax; load[e] = share of all B A choices that fell on e;
importance[e] = mean over b of softmax(logits[b])[e]. The loss E sum_e load[e] importance[e] is 1
where the load is even (Fedus, Zoph and Shazeer 2021, Switch Transformers, eq. 4).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import ELEMENTWISE, EPS32, normal
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
)

MAX_EXPERTS = 32
"""The choice is kept in the bits of one word."""


def check_active(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    """Raise `KernelError` if there are too many experts, or too few for the choice."""
    if dims["E"] > MAX_EXPERTS:
        raise KernelError(f"E={dims['E']} experts: the gate takes at most {MAX_EXPERTS}")
    if not 0 < dims.get("A", 1) <= dims["E"]:
        raise KernelError(f"A={dims['A']} active experts of E={dims['E']}: choose from 1 to E")
    return {}


@njit(cache=True)
def mirror(
    logits: Array, A: int, index: Array, weight: Array, load: Array, importance: Array
) -> None:
    """Numba mirror."""
    n_rows, n_experts = logits.shape
    counts = np.zeros(n_experts)
    sums = np.zeros(n_experts)
    shares = np.empty(n_experts, np.float32)
    for row in range(n_rows):
        peak = logits[row].max()
        total = np.float32(0)
        for expert in range(n_experts):
            shares[expert] = np.exp(logits[row, expert] - peak)
            total += shares[expert]
        for expert in range(n_experts):
            sums[expert] += shares[expert] / total
        taken = 0
        chosen = np.float32(0)
        for slot in range(A):
            best = -1
            for expert in range(n_experts):
                if not (taken >> expert) & 1 and (
                    best < 0 or logits[row, expert] > logits[row, best]
                ):
                    best = expert
            taken |= 1 << best
            index[row, slot] = best
            weight[row, slot] = shares[best]
            chosen += shares[best]
            counts[best] += 1
        weight[row] /= chosen
    for expert in range(n_experts):
        load[expert] = counts[expert] / (n_rows * A)
        importance[expert] = sums[expert] / n_rows


def reference(logits: Array, A: int) -> Arrays:
    """Float64 reference."""
    index = np.argsort(-logits, axis=1, kind="stable")[:, :A]
    chosen = np.take_along_axis(logits, index, 1)
    weight = np.exp(chosen - chosen.max(1, keepdims=True))
    probability = np.exp(logits - logits.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    return {
        "index": index.astype(np.int32),
        "weight": weight / weight.sum(1, keepdims=True),
        "load": np.bincount(index.ravel(), minlength=logits.shape[1]) / index.size,
        "importance": probability.mean(0),
    }


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    forward = run("expert_gate", **inputs, **params)
    gradients = run(
        "expert_gate_backward",
        **inputs,
        index=forward["index"],
        weight=forward["weight"],
        grad_weight=cotangents["weight"],
        grad_importance=cotangents["importance"],
    )
    return {"logits": gradients["grad_logits"]}


def _case(name: str, dims: Dims, scale: float) -> Case:
    shares = Tolerance(
        ELEMENTWISE.atol,
        (8 + 16 * scale) * EPS32,
        f"exp of differences x up to about {8 * scale:g}: 3 + 2|x| units in the last place",
    )
    means = Tolerance(
        2e-6, shares.rtol, "a mean of float32 softmax values, summed in blocks of one workgroup"
    )
    return Case(
        name,
        dims,
        lambda rng, sizes: {"logits": normal(rng, sizes["B"], sizes["E"], scale=scale)},
        {"index": EXACT, "weight": shares, "load": ELEMENTWISE, "importance": means},
    )


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    loop = _rounds.loop
    experts, chosen = loop(dims["E"]), dims["A"]
    row = loop(chosen, experts) + loop(chosen)
    column = _rounds.strided(dims["B"], 64, 2 * experts + loop(chosen, experts))
    return row + column + 2 * _rounds.reduction(64)


KERNEL = Kernel(
    stem="expert_gate",
    bindings=(
        Binding("logits", "f32", ("B", "E")),
        Binding("index", "i32", ("B", "A"), "out"),
        Binding("weight", "f32", ("B", "A"), "out"),
        Binding("load", "f32", ("E",), "out"),
        Binding("importance", "f32", ("E",), "out"),
    ),
    derive=check_active,
    workgroups=lambda dims, params: (dims["B"] + 63) // 64 + dims["E"],
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    subgroup=True,
    cases=(
        _case("top 2 of 4", {"B": 131, "E": 4, "A": 2}, 1.0),
        _case("top 1 of 7", {"B": 5, "E": 7, "A": 1}, 1.0),
        _case("all of 3", {"B": 64, "E": 3, "A": 3}, 1.0),
        _case("one row, one expert", {"B": 1, "E": 1, "A": 1}, 1.0),
        _case("far apart", {"B": 70, "E": 5, "A": 3}, 20.0),
    ),
    gradient=Gradient(
        wrt=("logits",),
        vjp=_vjp,
        outputs=("weight", "importance"),
        tolerance=Tolerance(2e-6, 1e-5, "a few roundings of softmax values"),
        step=1e-7,
    ),
)
