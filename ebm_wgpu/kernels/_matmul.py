"""What the kernels of batched products share: declaration, mirror, reference, gradient.

out[l] = act(alpha op(a[l]) op(b[l]) + bias + out[l]), where op(m) is m or, with trans_a or trans_b
set to 1, its transpose; an operand with one matrix serves the whole batch; `bias` has N entries, or
none; `out` counts with accumulate = 1. With splits = s > 1 the depth is shared: out holds s layers
for each matrix of the batch, the sums over one share each, for `matmul_sum` to add and finish.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels._activation import ACTIVATIONS, activate, activate_reference
from ebm_wgpu.kernels.spec import (
    Array,
    Arrays,
    Binding,
    Dims,
    Gradient,
    Param,
    Run,
    Scalar,
    Tolerance,
    Work,
)

SHARE = 16
"""Shares of a split depth are multiples of this."""


def bindings(lanes: int) -> tuple[Binding, ...]:
    """Arrays of a batched product; `lanes` = 4 reads operands by vec4s."""
    wide: Literal[1, 4] = 4 if lanes == 4 else 1
    return (
        Binding("a", "f32", ("AZ", "AR", "AC"), half=True, lanes=wide),
        Binding("b", "f32", ("BZ", "BR", "BC"), half=True, lanes=wide),
        Binding("bias", "f32", ("BN",), half=True),
        Binding("out", "f32", ("L", "M", "N"), "inout", half=True),
    )


PARAMS = (
    Param("trans_a", "u32"),
    Param("trans_b", "u32"),
    Param("alpha", "f32"),
    Param("activation", "u32"),
    Param("accumulate", "u32"),
    Param("splits", "u32"),
)


def depth_of(dims: Dims, params: Mapping[str, Scalar]) -> int:
    """Length of the sums."""
    return dims["AR"] if params["trans_a"] else dims["AC"]


def check_shapes(stem: str, dims: Dims, params: Mapping[str, Scalar]) -> dict[str, int]:
    """M and N of the product.

    Raises:
        KernelError: a flag other than 0 and 1, or matrices that do not fit together.
    """
    trans_a, trans_b = params["trans_a"], params["trans_b"]
    if trans_a not in (0, 1) or trans_b not in (0, 1):
        raise KernelError(
            f"kernel {stem}: trans_a={trans_a} and trans_b={trans_b} must each be 0 or 1"
        )
    m, k = (dims["AC"], dims["AR"]) if trans_a else (dims["AR"], dims["AC"])
    depth, n = (dims["BC"], dims["BR"]) if trans_b else (dims["BR"], dims["BC"])
    if k != depth:
        raise KernelError(
            f"kernel {stem}: op(a) is {m}x{k} and op(b) is {depth}x{n}; {k} and {depth} must agree"
        )
    if dims.get("M", m) != m or dims.get("N", n) != n:
        raise KernelError(
            f"kernel {stem}: the product is {m}x{n}, but 'out' is {dims['M']}x{dims['N']}"
        )
    return {"M": m, "N": n}


def check_epilogue(stem: str, dims: Dims, params: Mapping[str, Scalar]) -> None:
    """Refuse what the end of a product cannot do.

    Raises:
        KernelError: a bias of another length than N or 0, an unknown activation, or accumulate
            other than 0 and 1.
    """
    if dims["BN"] not in (0, dims["N"]):
        raise KernelError(
            f"kernel {stem}: 'bias' has {dims['BN']} entries for {dims['N']} columns; "
            "give one each, or none at all"
        )
    if params["activation"] not in range(len(ACTIVATIONS)) or params["accumulate"] not in (0, 1):
        raise KernelError(
            f"kernel {stem}: activation={params['activation']} must lie in 0 to "
            f"{len(ACTIVATIONS) - 1}, accumulate={params['accumulate']} must be 0 or 1"
        )


def derive(stem: str, lanes: int) -> Callable[[dict[str, int], Mapping[str, Scalar]], dict]:
    """The `derive` of a batched product."""

    def check(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
        found = check_shapes(stem, dims, params)
        check_epilogue(stem, dims, params)
        splits, a, b = int(params["splits"]), dims["AZ"], dims["BZ"]
        batch = b if a == 1 else a
        if b not in (1, batch) or splits < 1 or dims["L"] != batch * splits:
            raise KernelError(
                f"kernel {stem}: batches of {a} and {b} matrices in {splits} splits do not make "
                f"{dims['L']} layers of 'out'"
            )
        if splits > 1 and (dims["BN"] or params["activation"] or params["accumulate"]):
            raise KernelError(
                f"kernel {stem}: a product in {splits} splits takes no bias, activation or "
                "accumulate; give them to matmul_sum"
            )
        if dims["AC"] % lanes or dims["BC"] % lanes:
            raise KernelError(
                f"kernel {stem}: rows of {dims['AC']} and {dims['BC']} must be multiples of {lanes}"
            )
        return found

    return check


def shares(depth: int, splits: int) -> Iterator[slice]:
    """The depths that each split sums."""
    share = math.ceil(depth / splits)
    length = math.ceil(share / SHARE) * SHARE
    for split in range(splits):
        yield slice(min(split * length, depth), min((split + 1) * length, depth))


@njit(cache=True, error_model="numpy")
def _finish(
    sums: Array, bias: Array, out: Array, alpha: float, activation: int, accumulate: int
) -> None:
    for layer in range(out.shape[0]):
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                value = np.float32(alpha) * sums[layer, i, j]
                if bias.shape[0]:
                    value += bias[j]
                if accumulate:
                    value += out[layer, i, j]
                out[layer, i, j] = activate(value, activation) if activation else value


def finish(
    sums: Array, bias: Array, out: Array, alpha: float, activation: int, accumulate: int
) -> None:
    """out = act(alpha sums + bias + out), the last only with `accumulate`."""
    _finish(sums, bias, out, float(alpha), int(activation), int(accumulate))


def _oriented(a: Array, b: Array, trans_a: int, trans_b: int) -> tuple[Array, Array]:
    return (a.transpose(0, 2, 1) if trans_a else a), (b.transpose(0, 2, 1) if trans_b else b)


def mirror(
    a: Array,
    b: Array,
    bias: Array,
    out: Array,
    trans_a: int,
    trans_b: int,
    alpha: float,
    activation: int,
    accumulate: int,
    splits: int,
) -> None:
    """BLAS through NumPy: no compiled loop of ours comes near it."""
    left, right = _oriented(a, b, trans_a, trans_b)
    with np.errstate(invalid="ignore", over="ignore"):
        if splits > 1:
            layers = out.reshape(-1, splits, *out.shape[1:])
            for split, part in enumerate(shares(left.shape[2], splits)):
                layers[:, split] = np.float32(alpha) * (left[:, :, part] @ right[:, part])
        elif alpha == 1.0 and not (len(bias) or activation or accumulate):
            np.matmul(left, right, out=out)
        else:
            finish(left @ right, bias, out, alpha, activation, accumulate)


def reference(
    a: Array,
    b: Array,
    bias: Array,
    out: Array,
    trans_a: int,
    trans_b: int,
    alpha: float,
    activation: int,
    accumulate: int,
    splits: int,
) -> Arrays:
    """Float64 reference."""
    left, right = _oriented(a, b, trans_a, trans_b)
    parts = [left[:, :, part] @ right[:, part] for part in shares(left.shape[2], splits)]
    sums = np.stack(parts, axis=1).reshape(out.shape)
    return {"out": finish_reference(sums, bias, out, alpha, activation, accumulate)}


def finish_reference(
    sums: Array, bias: Array, out: Array, alpha: float, activation: int, accumulate: int
) -> Array:
    """Float64 reference of `finish`."""
    value = alpha * sums + (bias if len(bias) else 0.0) + (out if accumulate else 0.0)
    return activate_reference(value, activation)


def vjp(stem: str) -> Callable[[Run, Arrays, Mapping[str, Scalar], Arrays], dict[str, Array]]:
    """Gradients of a product without activation: products again, of transposed operands."""

    def gradients(
        run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays
    ) -> dict[str, Array]:
        a, b, d_out = inputs["a"], inputs["b"], cotangents["out"]
        trans_a, trans_b = int(params["trans_a"]), int(params["trans_b"])

        def product(
            left: Array, right: Array, trans_left: int, trans_right: int, alpha: float = 1.0
        ) -> Array:
            m, n = left.shape[2 if trans_left else 1], right.shape[1 if trans_right else 2]
            out = np.zeros((max(len(left), len(right)), m, n), np.float32)
            flags = {"trans_a": trans_left, "trans_b": trans_right, "alpha": alpha}
            rest = {"activation": 0, "accumulate": 0, "splits": 1}
            empty = np.zeros(0, np.float32)
            return run(stem, a=left, b=right, bias=empty, out=out, **flags, **rest)["out"]

        def summed(gradient: Array, like: Array) -> Array:
            return gradient.sum(0, keepdims=True) if len(like) < len(gradient) else gradient

        alpha = float(params["alpha"])
        if trans_a:
            d_a = product(b, d_out, trans_b, 1, alpha)
        else:
            d_a = product(d_out, b, 0, 1 - trans_b, alpha)
        if trans_b:
            d_b = product(d_out, a, 1, trans_a, alpha)
        else:
            d_b = product(a, d_out, 1 - trans_a, 0, alpha)
        rows = d_out.reshape(1, -1, d_out.shape[2])
        ones = np.ones((1, 1, rows.shape[1]), np.float32)
        d_bias = product(ones, rows, 0, 0)[0, 0] if len(inputs["bias"]) else inputs["bias"]
        return {"a": summed(d_a, a), "b": summed(d_b, b), "bias": d_bias}

    return gradients


def work(dims: Dims) -> Work:
    """Cost of a batched product."""
    batch = max(dims["AZ"], dims["BZ"])
    entries = (
        dims["AZ"] * dims["AR"] * dims["AC"]
        + dims["BZ"] * dims["BR"] * dims["BC"]
        + dims["L"] * dims["M"] * dims["N"]
    )
    return Work(2.0 * batch * dims["AR"] * dims["AC"] * dims["N"], 4.0 * entries)


SQUARE = {
    "AZ": 1,
    "AR": 2048,
    "AC": 2048,
    "BZ": 1,
    "BR": 2048,
    "BC": 2048,
    "BN": 0,
    "L": 1,
    "M": 2048,
    "N": 2048,
}
"""The square product of speed mode."""


def gradient(stem: str) -> Gradient:
    """The proof that gradients of a product are products of the same kernel."""
    return Gradient(
        wrt=("a", "b", "bias"),
        vjp=vjp(stem),
        outputs=("out",),
        tolerance=Tolerance(
            2e-6, 2e-6, "float32 products of up to 200 terms against float64 differences"
        ),
        cases=(
            "several tiles, odd",
            "a transposed, bias",
            "b transposed, batch",
            "both transposed, onto out",
            "one a for three b",
        ),
    )
