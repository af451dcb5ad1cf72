"""What softmax, log-softmax and their backwards share: kernel records and the rows to try."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ebm_wgpu.kernels._cases import normal
from ebm_wgpu.kernels._rows import row_kernel
from ebm_wgpu.kernels.spec import (
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

CaseMaker = Callable[[str, Dims, float, bool], Case]
_CASES = (
    ("odd", {"R": 9, "N": 601}, 2.0, False),
    ("one column", {"R": 4, "N": 1}, 1.0, False),
    ("one row", {"R": 1, "N": 70}, 1.0, False),
    ("far apart", {"R": 17, "N": 65}, 30.0, False),
    ("masked", {"R": 5, "N": 300}, 2.0, True),
)
_SMOOTH = ("odd", "one row", "far apart")
"""Cases whose gradient is not zero and has no infinite entry."""
_SPEED = {"R": 16384, "N": 1024}


def row_inputs(scale: float, masked: bool = False) -> Callable[[np.random.Generator, Dims], Arrays]:
    """Draws rows of the given standard deviation, with some entries -inf if masked."""

    def draw(rng: np.random.Generator, dims: Dims) -> Arrays:
        x = normal(rng, dims["R"], dims["N"], scale=scale)
        if masked:
            hidden = rng.random(x.shape) < 0.3
            hidden[:, -1] = False
            x[hidden] = -np.inf
        return {"x": x}

    return draw


def forward_kernel(
    stem: str,
    mirror: Callable[..., None],
    reference: Callable[..., Arrays],
    case: CaseMaker,
    flops: float,
) -> Kernel:
    """The record of out (R, N) from x (R, N); `flops` are those of an entry.

    Its gradient is the kernel `stem` + "_backward".
    """

    def vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
        y = run(stem, **inputs)["out"]
        return {"x": run(f"{stem}_backward", y=y, grad_out=cotangents["out"])["grad_x"]}

    return row_kernel(
        stem,
        (
            Binding("x", "f32", ("R", "N"), half=True),
            Binding("out", "f32", ("R", "N"), "out", half=True),
        ),
        mirror,
        reference,
        tuple(case(*entry) for entry in _CASES),
        passes=2,
        reductions=2,
        gradient=Gradient(
            wrt=("x",),
            vjp=vjp,
            outputs=("out",),
            tolerance=Tolerance(2e-5, 2e-5, "entries up to 150 leave shares exact to 2e-5"),
            cases=_SMOOTH,
        ),
        cost=(flops, 8.0),
        speed_case=_SPEED,
    )


def backward_kernel(
    stem: str,
    mirror: Callable[..., None],
    reference: Callable[..., Arrays],
    case: CaseMaker,
    flops: float,
) -> Kernel:
    """The record of grad_x (R, N) from the forward's output y and its gradient, (R, N) each."""
    return row_kernel(
        stem,
        (
            Binding("y", "f32", ("R", "N"), half=True),
            Binding("grad_out", "f32", ("R", "N"), half=True),
            Binding("grad_x", "f32", ("R", "N"), "out", half=True),
        ),
        mirror,
        reference,
        tuple(case(*entry) for entry in _CASES),
        passes=2,
        reductions=1,
        cost=(flops, 12.0),
        speed_case=_SPEED,
    )
