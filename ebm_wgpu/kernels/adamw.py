"""One step of AdamW on up to TENSORS flat tensors, each with its own arrays:

    g <- scale g,   m <- m + (1 - b1)(g - m),   v <- b2 v + (1 - b2) g^2,
    w <- (1 - lr decay) w - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + epsilon).

`scale` is one number on the device, such as the inverse of a loss scale, so that nothing waits for
a read-back. Source: Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2. `adamw_params`
makes the parameters; where there are fewer tensors, the others are arrays of one zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import njit

from ebm_wgpu.kernels._adam import adam_rates
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._keywords import ByKeyword
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
"""Tensors of a dispatch: 17 arrays, which every desktop adapter can bind."""
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
    rates = adam_rates(step, learning_rate, betas, epsilon)
    return {"decay": 1 - learning_rate * weight_decay, **rates}


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


def _mirror(given: Mapping[str, Any]) -> None:
    rates = np.array([given[name] for name in _RATES], np.float32)
    for t in range(TENSORS):
        arrays = [given[f"{name}{t}"] for name in ("weight", "grad", "mean", "square")]
        _update(*arrays, given["scale"][0], rates)


def _reference(given: Mapping[str, Any]) -> Arrays:
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
        ("mean", Tolerance(EPS32 / 8, 8 * EPS32, "a few roundings of numbers below 0.5")),
        ("square", Tolerance(0.0, 8 * EPS32, "a sum of two positive numbers")),
    )
}


def _sizes(*sizes: int) -> Dims:
    return {f"N{t}": size for t, size in enumerate(sizes)}


def _groups(dims: Dims, params: Mapping[str, Scalar]) -> int:
    return sum(-(-dims[f"N{t}"] // _SHARE) for t in range(TENSORS))


def _bindings(t: int) -> tuple[Binding, ...]:
    shape = (f"N{t}",)
    return (
        Binding(f"weight{t}", "f32", shape, "inout"),
        Binding(f"grad{t}", "f32", shape, half=True),
        Binding(f"mean{t}", "f32", shape, "inout"),
        Binding(f"square{t}", "f32", shape, "inout"),
    )


def _work(dims: Dims) -> Work:
    count = sum(dims[f"N{t}"] for t in range(TENSORS))
    return Work(15.0 * count, 28.0 * count)


_BINDINGS = (*(b for t in range(TENSORS) for b in _bindings(t)), Binding("scale", "f32", (1,)))
_NAMES = (*(binding.name for binding in _BINDINGS), *_RATES)

KERNEL = Kernel(
    stem="adamw",
    bindings=_BINDINGS,
    params=tuple(Param(name, "f32") for name in _RATES),
    constants={"WG": WG, "TENSORS": TENSORS},
    workgroups=_groups,
    mirror=ByKeyword(_mirror, _NAMES),
    reference=ByKeyword(_reference, _NAMES),
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
    work=_work,
    speed_case=_sizes(1 << 24, 640, 1 << 20, 640),
)
