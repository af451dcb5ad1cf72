"""One step of AdamW on up to TENSORS flat tensors, each with its own arrays:

    g <- scale g,   m <- m + (1 - b1)(g - m),   v <- b2 v + (1 - b2) g^2,
    w <- (1 - lr decay) w - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + epsilon).

`scale` is one number on the device, such as the factor of `clip_factor`, so that clipping waits for
no read-back. `adamw_master` also writes each weight to a copy, which may be float16: the model's
own, of which the float32 weight is the master. Source: Loshchilov and Hutter 2019
(arXiv:1711.05101), algorithm 2. `adamw_params` makes the parameters; where there are fewer tensors,
the others are arrays of one zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from typing import Any

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._rows import WG
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Case,
    Dims,
    Kernel,
    Param,
    Scalar,
    Tolerance,
    Work,
)

TENSORS = 4
"""Tensors of a dispatch: 21 arrays at most, which every desktop adapter can bind."""
_SHARE = 4 * WG
_RATES = (
    "decay",
    "step_size",
    "mean_rate",
    "square_keep",
    "square_rate",
    "square_correction",
    "epsilon",
)


def adamw_params(
    step: int,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    weight_decay: float = 0.01,
) -> dict[str, Scalar]:
    """The kernel's parameters for step `step`, counted from 1, worked out in float64.

    Raises:
        KernelError: the step is below 1, or a beta lies outside [0, 1).
    """
    first, second = betas
    if step < 1 or not 0 <= first < 1 or not 0 <= second < 1:
        raise KernelError(
            f"AdamW needs step >= 1 and betas in [0, 1), not step {step} and betas {betas}"
        )
    return {
        "decay": 1 - learning_rate * weight_decay,
        "step_size": learning_rate / (1 - first**step),
        "mean_rate": 1 - first,
        "square_keep": second,
        "square_rate": 1 - second,
        "square_correction": (1 - second**step) ** -0.5,
        "epsilon": epsilon,
    }


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _update(
    weight: Array, grad: Array, mean: Array, square: Array, scale: float, rates: Array
) -> None:
    for i in range(weight.shape[0]):
        g = grad[i] * scale
        mean[i] += rates[2] * (g - mean[i])
        square[i] = rates[3] * square[i] + rates[4] * g * g
        divisor = np.sqrt(square[i]) * rates[5] + rates[6]
        weight[i] = weight[i] * rates[0] - rates[1] * mean[i] / divisor


def _mirror(**given: Any) -> None:
    rates = np.array([given[name] for name in _RATES], np.float32)
    for t in range(TENSORS):
        arrays = [given[f"{name}{t}"] for name in ("weight", "grad", "mean", "square")]
        _update(*arrays, given["scale"][0], rates)
        if "copy0" in given:
            given[f"copy{t}"][:] = given[f"weight{t}"]


def _reference(**given: Any) -> Arrays:
    outputs: Arrays = {}
    for t in range(TENSORS):
        weight, grad, mean, square = (
            given[f"{name}{t}"] for name in ("weight", "grad", "mean", "square")
        )
        g = grad * given["scale"][0]
        mean = mean + given["mean_rate"] * (g - mean)
        square = given["square_keep"] * square + given["square_rate"] * g**2
        divisor = np.sqrt(square) * given["square_correction"] + given["epsilon"]
        weight = weight * given["decay"] - given["step_size"] * mean / divisor
        outputs |= {f"weight{t}": weight, f"mean{t}": mean, f"square{t}": square}
    return outputs


def _with_names(function: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    """`function` with keywords that say which values it takes."""

    def call(**given: Any) -> Any:
        return function(**given)

    call.__signature__ = Signature(  # type: ignore[attr-defined]
        [Parameter(name, Parameter.KEYWORD_ONLY) for name in names]
    )
    return call


def _inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    arrays = {"scale": rng.uniform(0.2, 1.0, 1).astype(np.float32)}
    for t in range(TENSORS):
        size = dims[f"N{t}"]
        arrays[f"weight{t}"] = normal(rng, size)
        arrays[f"grad{t}"] = normal(rng, size, scale=0.1)
        arrays[f"mean{t}"] = normal(rng, size, scale=0.03)
        arrays[f"square{t}"] = normal(rng, size, scale=0.1) ** 2
    return arrays


def _start(rng: np.random.Generator, dims: Dims) -> Arrays:
    arrays = _inputs(rng, dims)
    for t in range(TENSORS):
        arrays[f"mean{t}"][:] = 0
        arrays[f"square{t}"][:] = 0
        arrays[f"grad{t}"][::3] = 0
    return arrays


_WEIGHT = Tolerance(2 * EPS32, 8 * EPS32, "a sum of order one; the step itself is below 0.1")
_TOLERANCE: Mapping[str, Tolerance] = {
    f"{name}{t}": tolerance
    for t in range(TENSORS)
    for name, tolerance in (
        ("weight", _WEIGHT),
        ("copy", _WEIGHT),
        ("mean", Tolerance(EPS32 / 8, 8 * EPS32, "a few roundings of numbers below 0.5")),
        ("square", Tolerance(0.0, 8 * EPS32, "a sum of two positive numbers")),
    )
}


def _sizes(*sizes: int) -> Dims:
    return {f"N{t}": size for t, size in enumerate(sizes)}


def _groups(dims: Dims, params: Mapping[str, Scalar]) -> int:
    return sum(-(-dims[f"N{t}"] // _SHARE) for t in range(TENSORS))


def _kernel(stem: str, with_copy: bool) -> Kernel:
    bindings: list[Binding] = []
    for t in range(TENSORS):
        bindings += [
            Binding(f"weight{t}", "f32", (f"N{t}",), "inout"),
            Binding(f"grad{t}", "f32", (f"N{t}",), half=True),
            Binding(f"mean{t}", "f32", (f"N{t}",), "inout"),
            Binding(f"square{t}", "f32", (f"N{t}",), "inout"),
        ]
        if with_copy:
            bindings.append(Binding(f"copy{t}", "f32", (f"N{t}",), "out", half=True))
    bindings.append(Binding("scale", "f32", (1,)))
    inputs = tuple(b.name for b in bindings if b.access != "out") + _RATES
    nbytes = 32.0 if with_copy else 28.0

    def work(dims: Dims) -> Work:
        count = sum(dims[f"N{t}"] for t in range(TENSORS))
        return Work(15.0 * count, nbytes * count)

    def reference(**given: Any) -> Arrays:
        outputs = _reference(**given)
        copies = {f"copy{t}": outputs[f"weight{t}"] for t in range(TENSORS)}
        return outputs | copies if with_copy else outputs

    return Kernel(
        stem=stem,
        source="adamw",
        defines={"COPY": ""} if with_copy else {},
        bindings=tuple(bindings),
        params=tuple(Param(name, "f32") for name in _RATES),
        constants={"WG": WG, "TENSORS": TENSORS},
        workgroups=_groups,
        mirror=_with_names(_mirror, (*(b.name for b in bindings), *_RATES)),
        reference=_with_names(reference, inputs),
        cases=(
            Case("odd", _sizes(1301, 7, 1024, 2049), _inputs, _TOLERANCE, adamw_params(9, 1e-2)),
            Case("first step", _sizes(5, 1, 1, 1), _start, _TOLERANCE, adamw_params(1, 1e-3)),
            Case(
                "other rates",
                _sizes(1, 1, 33, 300),
                _inputs,
                _TOLERANCE,
                adamw_params(1000, 3e-2, (0.95, 0.98), 1e-6, 0.1),
            ),
        ),
        work=work,
        speed_case=_sizes(1 << 24, 640, 1 << 20, 640),
    )


KERNELS = (_kernel("adamw_plain", False), _kernel("adamw_master", True))
