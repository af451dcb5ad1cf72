"""The backward of `attention_heads`: gradients of q, k and v (B, H, T, D) to that of x (B, T, W).

Those of q and k are turned back, and all three put side by side: grad_x of a token is
[q | k | v], each of them H heads of D coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import ELEMENTWISE, normal
from ebm_wgpu.kernels._rows import WG, entries
from ebm_wgpu.kernels.attention_heads import (
    CASE_DIMS,
    GRADIENT_TOLERANCE,
    PARTS,
    SPEED_CASE,
    cost,
    head_dims,
    tables,
    turned,
)
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Gradient, Kernel, Run, Scalar

_GRADIENTS = tuple(f"grad_{part}" for part in PARTS)


@njit(cache=True)
def mirror(
    grad_q: Array, grad_k: Array, grad_v: Array, cos: Array, sin: Array, grad_x: Array
) -> None:
    """Numba mirror."""
    half, width = cos.shape[2], grad_x.shape[2] // 3
    for batch in range(grad_q.shape[0]):
        table = batch if cos.shape[0] > 1 else 0
        for head in range(grad_q.shape[1]):
            for time in range(grad_q.shape[2]):
                for pair in range(half):
                    c, s = cos[table, time, pair], sin[table, time, pair]
                    first = 2 * half * head + pair
                    a, b = grad_q[batch, head, time, pair], grad_q[batch, head, time, pair + half]
                    grad_x[batch, time, first] = a * c + b * s
                    grad_x[batch, time, first + half] = b * c - a * s
                    first += width
                    a, b = grad_k[batch, head, time, pair], grad_k[batch, head, time, pair + half]
                    grad_x[batch, time, first] = a * c + b * s
                    grad_x[batch, time, first + half] = b * c - a * s
                    first += width
                    grad_x[batch, time, first] = grad_v[batch, head, time, pair]
                    grad_x[batch, time, first + half] = grad_v[batch, head, time, pair + half]


def reference(grad_q: Array, grad_k: Array, grad_v: Array, cos: Array, sin: Array) -> Arrays:
    """Float64 reference."""
    back = cos - 1j * sin
    parts = np.stack((turned(grad_q, back), turned(grad_k, back), grad_v))
    batch, _, time, _ = grad_q.shape
    return {"grad_x": parts.transpose(1, 3, 0, 2, 4).reshape(batch, time, -1)}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    given = {name: inputs[name] for name in ("cos", "sin")}
    found = run("attention_heads", x=cotangents["grad_x"], **given)
    return {f"grad_{part}": found[part] for part in PARTS}


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    shape = tuple(dims[name] for name in "BHTD")
    return {name: normal(rng, *shape) for name in _GRADIENTS} | tables(rng, dims)


KERNEL = Kernel(
    stem="attention_heads_backward",
    bindings=(
        *(Binding(name, "f32", ("B", "H", "T", "D"), half=True) for name in _GRADIENTS),
        Binding("cos", "f32", ("P", "T", "C"), half=True),
        Binding("sin", "f32", ("P", "T", "C"), half=True),
        Binding("grad_x", "f32", ("B", "T", "W"), "out", half=True),
    ),
    constants={"WG": WG},
    workgroups=entries("B", "T", "H", "C"),
    derive=head_dims,
    mirror=mirror,
    reference=reference,
    cases=tuple(Case(name, dims, _inputs, ELEMENTWISE) for name, dims in CASE_DIMS),
    gradient=Gradient(wrt=_GRADIENTS, vjp=_vjp, outputs=("grad_x",), tolerance=GRADIENT_TOLERANCE),
    work=cost,
    speed_case=SPEED_CASE,
)
