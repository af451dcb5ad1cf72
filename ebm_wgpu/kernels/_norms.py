"""What layer_norm, rms_norm and their backwards share: truth, inputs and kernel records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._rows import COLUMNS, WG, part_rounds, part_workgroups, parts_of, row_kernel
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Gradient,
    Kernel,
    Param,
    Scalar,
    Tolerance,
    Work,
)

Norm = Literal["layer", "rms"]

EPSILON: dict[str, Scalar] = {"epsilon": 1e-5}
SUM_CONSTANTS = {"WG": WG, "COLUMNS": COLUMNS}
CASES: tuple[tuple[str, Dims, float], ...] = (
    ("odd", {"R": 9, "N": 641}, 0.3),
    ("narrow", {"R": 70, "N": 8}, 0.0),
    ("one row", {"R": 1, "N": 300}, 1.0),
    ("far from zero", {"R": 5, "N": 65}, 100.0),
)
"""Name, dimensions and the mean of the entries, whose deviation is one."""
_SMOOTH = ("odd", "one row", "far from zero")
"""Cases without rows of zeros."""
_SPEED = {"R": 16384, "N": 640}


def exact_layer_norm(x: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """Float64 (x - mean) rstd, mean and rstd of each row."""
    mean = x.mean(1)
    centred = x - mean[:, None]
    rstd = 1 / np.sqrt(np.mean(centred**2, 1) + epsilon)
    return centred * rstd[:, None], mean, rstd


def exact_rms_norm(x: Array, epsilon: float) -> tuple[Array, Array]:
    """Float64 x rstd and rstd of each row."""
    rstd = 1 / np.sqrt(np.mean(x**2, 1) + epsilon)
    return x * rstd[:, None], rstd


def _forward_inputs(mean: float, norm: Norm) -> Callable[[np.random.Generator, Dims], Arrays]:
    """Draws rows of unit deviation about `mean`, the last one of zeros where there are several."""

    def draw(rng: np.random.Generator, dims: Dims) -> Arrays:
        x = normal(rng, dims["R"], dims["N"]) + np.float32(mean)
        if dims["R"] > 20:
            x[-1] = 0
        arrays = {"x": x, "weight": 1 + normal(rng, dims["N"], scale=0.3)}
        return arrays | {"bias": normal(rng, dims["N"])} if norm == "layer" else arrays

    return draw


def _backward_inputs(
    mean: float, norm: Norm, of_columns: bool
) -> Callable[[np.random.Generator, Dims], Arrays]:
    """Draws what a backward is given: statistics of the rows, and the gradient of the output."""

    def draw(rng: np.random.Generator, dims: Dims) -> Arrays:
        arrays = _forward_inputs(mean, "rms")(rng, dims)
        arrays["x"][-1] = normal(rng, dims["N"]) + np.float32(mean)
        arrays["grad_out"] = normal(rng, dims["R"], dims["N"])
        exact = arrays["x"].astype(np.float64)
        if norm == "layer":
            _, centre, rstd = exact_layer_norm(exact, float(EPSILON["epsilon"]))
            arrays["mean"] = centre.astype(np.float32)
        else:
            rstd = exact_rms_norm(exact, float(EPSILON["epsilon"]))[1]
        arrays["rstd"] = rstd.astype(np.float32)
        if of_columns:
            del arrays["weight"]
        return arrays

    return draw


def _row_tolerance(mean: float, count: int) -> Tolerance:
    """Of `count` normalised entries, below 6, and of their gradients."""
    return Tolerance(
        EPS32 * (12 + mean * (1 + 0.5 * count**0.5)),
        8 * EPS32,
        f"entries about {mean:g}, whose float32 sum errs by eps sqrt(N)/2, over a deviation of 1",
    )


def _sum_tolerance(mean: float, rows: int) -> Tolerance:
    """Of sums over rows of products of order one."""
    return Tolerance(
        EPS32 * (8 + 2 * mean) * rows**0.5,
        8 * EPS32,
        f"sums of {rows} products of numbers below 6, each rounded",
    )


def _rows(name: str, access: Literal["in", "out"] = "in") -> Binding:
    return Binding(name, "f32", ("R", "N"), access, half=True)


def _statistics(norm: Norm, access: Literal["in", "out"] = "in") -> tuple[Binding, ...]:
    names = ("mean", "rstd") if norm == "layer" else ("rstd",)
    return tuple(Binding(name, "f32", ("R",), access) for name in names)


def _parameters(norm: Norm) -> tuple[str, ...]:
    return ("weight", "bias") if norm == "layer" else ("weight",)


def _offset(norm: Norm, mean: float) -> float:
    """What is subtracted from entries about `mean`, at the price of their last digits."""
    return mean if norm == "layer" else 0.0


def forward_kernel(
    norm: Norm,
    mirror: Callable[..., None],
    reference: Callable[..., Arrays],
    vjp: Callable[..., Arrays],
    tolerance: Tolerance,
    passes: int,
    reductions: int,
    flops: float,
) -> Kernel:
    """The record of <norm>_norm: out (R, N) and the statistics (R,) from x and the parameters.

    Args:
        norm: which of the two.
        mirror: as in the declaration, like `reference`.
        reference: float64.
        vjp: of the gradient's proof.
        tolerance: of the gradient's proof.
        passes: how often a row is gone over.
        reductions: calls of lib/reduce.
        flops: of an entry.
    """
    parameters = _parameters(norm)
    return row_kernel(
        f"{norm}_norm",
        (
            _rows("x"),
            *(Binding(name, "f32", ("N",), half=True) for name in parameters),
            _rows("out", "out"),
            *_statistics(norm, "out"),
        ),
        mirror,
        reference,
        tuple(
            Case(
                name,
                dims,
                _forward_inputs(mean, norm),
                _row_tolerance(_offset(norm, mean), dims["N"]),
                EPSILON,
            )
            for name, dims, mean in CASES
        ),
        passes,
        reductions,
        params=(Param("epsilon", "f32"),),
        gradient=Gradient(
            wrt=("x", *parameters), vjp=vjp, outputs=("out",), tolerance=tolerance, cases=_SMOOTH
        ),
        cost=(flops, 8.0),
        speed_case=_SPEED,
    )


def backward_kernel(
    norm: Norm,
    mirror: Callable[..., None],
    reference: Callable[..., Arrays],
    passes: int,
    reductions: int,
    flops: float,
) -> Kernel:
    """The record of <norm>_norm_backward: grad_x (R, N); arguments as of `forward_kernel`."""
    return row_kernel(
        f"{norm}_norm_backward",
        (
            _rows("x"),
            Binding("weight", "f32", ("N",), half=True),
            *_statistics(norm),
            _rows("grad_out"),
            _rows("grad_x", "out"),
        ),
        mirror,
        reference,
        tuple(
            Case(
                name,
                dims,
                _backward_inputs(mean, norm, of_columns=False),
                _row_tolerance(_offset(norm, mean), dims["N"]),
            )
            for name, dims, mean in CASES
        ),
        passes,
        reductions,
        cost=(flops, 12.0),
        speed_case=_SPEED,
    )


def weight_backward_kernel(
    norm: Norm, mirror: Callable[..., None], reference: Callable[..., Arrays], flops: float
) -> Kernel:
    """The record of <norm>_norm_weight_backward: gradients (P, N) of the parameters, in P parts."""
    return Kernel(
        stem=f"{norm}_norm_weight_backward",
        bindings=(
            _rows("x"),
            *_statistics(norm),
            _rows("grad_out"),
            *(Binding(f"grad_{name}", "f32", ("P", "N"), "out") for name in _parameters(norm)),
        ),
        constants=SUM_CONSTANTS,
        workgroups=part_workgroups,
        derive=parts_of,
        mirror=mirror,
        reference=reference,
        rounds=part_rounds,
        cases=tuple(
            Case(
                name,
                {**dims, "P": parts},
                _backward_inputs(mean, norm, of_columns=True),
                _sum_tolerance(_offset(norm, mean), dims["R"]),
            )
            for (name, dims, mean), parts in zip(CASES, (2, 5, 1, 3), strict=True)
        ),
        work=lambda dims: Work(flops * dims["R"] * dims["N"], 8.0 * dims["R"] * dims["N"]),
        speed_case={**_SPEED, "P": 64},
    )
