"""out = f(x + bias), f one of `ACTIVATIONS` by its number (see `activation_number`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels._activation import ACTIVATIONS, activate, activate_reference
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._rows import WG, entries
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Gradient,
    Kernel,
    Param,
    Run,
    Scalar,
    Tolerance,
    Work,
)


@njit(cache=True, error_model="numpy")
def mirror(x: Array, bias: Array, activation: int, out: Array) -> None:
    """Numba mirror."""
    for row in range(x.shape[0]):
        for k in range(x.shape[1]):
            out[row, k] = activate(x[row, k] + bias[k], activation)


def reference(x: Array, bias: Array, activation: int) -> Arrays:
    """Float64 reference."""
    return {"out": activate_reference(x + bias, activation)}


def known_activation(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    """Refuses the number of no activation.

    Raises:
        KernelError: there is none of that number.
    """
    if not 0 <= params["activation"] < len(ACTIVATIONS):
        raise KernelError(
            f"activation={params['activation']} must be the number of one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    return {}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    grad_x = run(
        "bias_activation_backward",
        **inputs,
        activation=params["activation"],
        grad_out=cotangents["out"],
    )["grad_x"]
    return {"x": grad_x, "bias": run("column_sum", x=grad_x, P=1)["out"][0]}


def activation_inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Entries of deviation 2, and some of either sign so large that every gate is shut or open."""
    x = normal(rng, dims["R"], dims["N"], scale=2.0)
    x.flat[: min(3, x.size)] = np.array([0.5, -90, 90], np.float32)[: x.size]
    return {"x": x, "bias": normal(rng, dims["N"])}


_ODD: Dims = {"R": 7, "N": 101}
CASES: tuple[tuple[str, Dims, Mapping[str, Scalar]], ...] = (
    *((f"{name}, odd", _ODD, {"activation": n}) for n, name in enumerate(ACTIVATIONS)),
    ("gelu, one entry", {"R": 1, "N": 1}, {"activation": ACTIVATIONS.index("gelu")}),
)
_TOLERANCE = Tolerance(
    4 * EPS32, 24 * EPS32, "a gate good to eps absolutely and 24 eps relatively where not nearly 0"
)

KERNEL = Kernel(
    stem="bias_activation",
    bindings=(
        Binding("x", "f32", ("R", "N"), half=True),
        Binding("bias", "f32", ("N",), half=True),
        Binding("out", "f32", ("R", "N"), "out", half=True),
    ),
    params=(Param("activation", "u32"),),
    constants={"WG": WG},
    workgroups=entries("R", "N"),
    derive=known_activation,
    mirror=mirror,
    reference=reference,
    cases=tuple(
        Case(name, dims, activation_inputs, _TOLERANCE, params) for name, dims, params in CASES
    ),
    gradient=Gradient(
        wrt=("x", "bias"),
        vjp=_vjp,
        outputs=("out",),
        tolerance=Tolerance(4e-6, 1e-5, "a few float32 roundings, and sums of 7 of them"),
    ),
    work=lambda dims: Work(30.0 * dims["R"] * dims["N"], 8.0 * dims["R"] * dims["N"]),
    speed_case={"R": 16384, "N": 2560},
)
