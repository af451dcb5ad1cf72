"""The record of kernels that give functions of concentrations, entry by entry, and their proofs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ebm_wgpu.errors import KernelError
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
from ebm_wgpu.vmf import MIN_DIMENSION

Errors = Tolerance | Mapping[str, Tolerance]


def _check_dimension(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    """Refuse dimensions below 8, for which the expansions were not made."""
    if params["dimension"] < MIN_DIMENSION:
        raise KernelError(
            f"dimension {params['dimension']} is below {MIN_DIMENSION}: use d >= {MIN_DIMENSION}"
        )
    return {}


def _concentrations(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Concentrations over ten orders of magnitude, the published range and zero among them."""
    k = 10.0 ** rng.uniform(-4, 6, dims["N"])
    k[:6] = 0, 10, 320, 639, 6390, 31950
    return {"k": k.astype(np.float32)}


def vmf_kernel(
    stem: str,
    outputs: tuple[str, ...],
    mirror: Callable[..., None],
    reference: Callable[..., Arrays],
    *,
    expansion: Errors,
    recurrence: Errors,
    derivative: tuple[str, str],
    gradient: Tolerance,
    step: float = Gradient.step,
    flops: float,
) -> Kernel:
    """The record of a kernel of k (N,) and a dimension, whose outputs are (N,), the first "out".

    Args:
        stem: its name.
        outputs: names.
        mirror: as in the declaration, like `reference`.
        reference: float64.
        expansion: errors where the expansion alone is used, at d = 64 and 640.
        recurrence: errors where the recurrence comes down from it, at d = 8 and 9.
        derivative: the kernel, and its output, that is d out / dk.
        gradient: errors of it.
        step: of the differences it is compared with.
        flops: of an entry.
    """

    def vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
        kernel, output = derivative
        slope: Array = run(kernel, k=inputs["k"], dimension=params["dimension"])[output]
        return {"k": cotangents["out"] * slope}

    sizes = {"d640": (641, expansion), "d64": (130, expansion)}
    sizes |= {"d8": (193, recurrence), "d9": (65, recurrence)}
    return Kernel(
        stem=stem,
        bindings=(
            Binding("k", "f32", ("N",)),
            *(Binding(name, "f32", ("N",), "out") for name in outputs),
        ),
        params=(Param("dimension", "u32"),),
        workgroups=lambda dims, params: -(-dims["N"] // 64),
        mirror=mirror,
        reference=reference,
        derive=_check_dimension,
        cases=tuple(
            Case(name, {"N": count}, _concentrations, errors, {"dimension": int(name[1:])})
            for name, (count, errors) in sizes.items()
        ),
        gradient=Gradient(wrt=("k",), vjp=vjp, outputs=("out",), tolerance=gradient, step=step),
        work=lambda dims: Work(flops * dims["N"], 4.0 * (1 + len(outputs)) * dims["N"]),
        speed_case={"N": 16_777_216},
    )
