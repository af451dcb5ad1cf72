"""out = silu(gate) up of rows x = [gate | up], silu(z) = z sigmoid(z).

Source: Shazeer 2020 (arXiv:2002.05202), equation 6.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._math import F32, exp_accurate
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

_ONE, _LIMIT = np.float32(1), np.float32(80)


@njit(cache=True, error_model="numpy", forceinline=True)
def silu_gate(z: F32) -> F32:
    """sigmoid(z)."""
    return _ONE / (_ONE + exp_accurate(min(max(-z, -_LIMIT), _LIMIT)))


@njit(cache=True, error_model="numpy")
def mirror(x: Array, out: Array) -> None:
    """Numba mirror."""
    width = out.shape[1]
    for row in range(out.shape[0]):
        for k in range(width):
            z = x[row, k]
            out[row, k] = z * silu_gate(z) * x[row, width + k]


def reference(x: Array) -> Arrays:
    """Float64 reference."""
    gate, up = np.split(x, 2, axis=1)
    return {"out": gate / (1 + np.exp(-gate)) * up}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    return {"x": run("swiglu_backward", **inputs, grad_out=cotangents["out"])["grad_x"]}


def two_halves(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    """Sets N, the units of a row of M = 2 N entries.

    Raises:
        KernelError: an odd number of entries, or another N.
    """
    if dims["M"] % 2 or dims.get("N", dims["M"] // 2) != dims["M"] // 2:
        raise KernelError(
            f"kernel swiglu: rows of {dims['M']} entries are no gates and values of "
            f"{dims.get('N', dims['M'] / 2):g} units"
        )
    return {"N": dims["M"] // 2}


def swiglu_inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Gates of deviation 3, and the extremes 0, -60 and 60 among them."""
    gate = normal(rng, dims["R"], dims["N"], scale=3.0)
    gate.flat[: min(3, gate.size)] = np.array([0, -60, 60], np.float32)[: gate.size]
    return {"x": np.concatenate((gate, normal(rng, dims["R"], dims["N"])), axis=1)}


CASE_DIMS: tuple[tuple[str, Dims], ...] = (
    ("odd", {"R": 7, "N": 301, "M": 602}),
    ("one entry", {"R": 1, "N": 1, "M": 2}),
)
SPEED_CASE: Dims = {"R": 16384, "N": 1728, "M": 3456}
TOLERANCE = Tolerance(
    EPS32, 24 * EPS32, "the built-in exp errs by 3 + 2|z| units, |z| up to 12 where it shows"
)

KERNEL = Kernel(
    stem="swiglu",
    bindings=(
        Binding("x", "f32", ("R", "M"), half=True),
        Binding("out", "f32", ("R", "N"), "out", half=True),
    ),
    constants={"WG": WG},
    workgroups=entries("R", "N"),
    derive=two_halves,
    mirror=mirror,
    reference=reference,
    cases=tuple(Case(name, dims, swiglu_inputs, TOLERANCE) for name, dims in CASE_DIMS),
    gradient=Gradient(
        wrt=("x",),
        vjp=_vjp,
        outputs=("out",),
        tolerance=Tolerance(2e-6, 1e-5, "a few float32 roundings"),
    ),
    work=lambda dims: Work(15.0 * dims["R"] * dims["N"], 12.0 * dims["R"] * dims["N"]),
    speed_case=SPEED_CASE,
)
