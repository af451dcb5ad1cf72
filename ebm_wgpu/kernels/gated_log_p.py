"""out = log((1 - s) exp(a) + s exp(b)), s = sigmoid(gate): log p of two predictors mixed by a gate.

Computed as a + softplus(gate + b - a) - softplus(gate). b may be -inf, where the second predictor
knows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels._math import F32, exp_accurate, log1p_accurate
from ebm_wgpu.kernels._rows import WG, entries
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

_ZERO, _LIMIT = np.float32(0), np.float32(80)


@njit(cache=True, error_model="numpy", forceinline=True)
def softplus(z: F32) -> F32:
    """log(1 + exp(z)); 0 at -inf."""
    return max(z, _ZERO) + log1p_accurate(exp_accurate(-min(abs(z), _LIMIT)))


@njit(cache=True, error_model="numpy")
def mirror(a: Array, b: Array, gate: Array, out: Array) -> None:
    """Numba mirror."""
    for i in range(out.shape[0]):
        out[i] = a[i] + (softplus(gate[i] + (b[i] - a[i])) - softplus(gate[i]))


def reference(a: Array, b: Array, gate: Array) -> Arrays:
    """Float64 reference."""
    shut, open_ = -np.logaddexp(0, gate), -np.logaddexp(0, -gate)
    return {"out": np.logaddexp(shut + a, open_ + b)}


def gated_inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Log probabilities down to -30, gates of both signs and far out, and mute predictors."""
    count = dims["N"]
    a, b = (-30 * rng.random((2, count)) ** 2).astype(np.float32)
    gate = rng.normal(0, 4, count).astype(np.float32)
    gate[:4] = [0, -25, 25, -1][:count]
    b[3::7] = -np.inf
    return {"a": a, "b": b, "gate": gate}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    found = run("gated_log_p_backward", **inputs, grad_out=cotangents["out"])
    return {name: found[f"grad_{name}"] for name in inputs}


CASE_DIMS: tuple[tuple[str, Dims], ...] = (("some", {"N": 300}), ("one", {"N": 1}))

KERNEL = Kernel(
    stem="gated_log_p",
    bindings=(
        Binding("a", "f32", ("N",)),
        Binding("b", "f32", ("N",)),
        Binding("gate", "f32", ("N",)),
        Binding("out", "f32", ("N",), "out"),
    ),
    constants={"WG": WG},
    workgroups=entries("N"),
    mirror=mirror,
    reference=reference,
    cases=tuple(
        Case(
            name,
            dims,
            gated_inputs,
            Tolerance(64 * EPS32, 4 * EPS32, "four roundings of numbers up to 30 or so"),
        )
        for name, dims in CASE_DIMS
    ),
    gradient=Gradient(
        wrt=("a", "b", "gate"),
        vjp=_vjp,
        outputs=("out",),
        tolerance=Tolerance(4e-6, 16 * EPS32, "float32 roundings; differences good to 1e-9"),
    ),
    work=lambda dims: Work(50.0 * dims["N"], 16.0 * dims["N"]),
    speed_case={"N": 16_777_216},
)
