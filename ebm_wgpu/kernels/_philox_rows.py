"""The declaration that the kernels philox_* share: a row of random numbers a chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from ebm_wgpu.kernels.spec import (
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

PHILOX_FLOPS = 25.0
"""Integer operations for one 32-bit word of Philox4x32-10."""


def _chains(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Chain numbers of any sign, the extremes among them."""
    chain = rng.integers(-(2**31), 2**31, dims["B"]).astype(np.int32)
    chain[0] = 2**31 - 1
    chain[-1] = 0
    return {"chain": chain}


def philox_kernel(
    stem: str,
    mirror: Callable[..., None],
    reference: Callable[..., Arrays],
    tolerance: Tolerance,
    flops: float,
    dtype: Literal["f32", "i32"] = "f32",
    lanes: int = 4,
    params: tuple[Param, ...] = (),
    values: tuple[Mapping[str, Scalar], ...] = ({}, {}, {}),
) -> Kernel:
    """The kernel `stem` of D numbers for each chain.

    Args:
        stem: name of the kernel.
        mirror: of the kernel.
        reference: of the kernel.
        tolerance: of every case.
        flops: operations for a number.
        dtype: type of the numbers.
        lanes: how many of them a block of Philox gives.
        params: parameters beside seed, step and stream.
        values: of those in each of the three cases.
    """
    proofs = (
        ("odd", {"B": 7, "D": 641}, {"seed": 0x0123456789ABCDEF, "step": 17, "stream": 0}),
        ("three coordinates", {"B": 1, "D": 3}, {"seed": 0, "step": 0, "stream": 1}),
        ("largest", {"B": 2048, "D": 8}, {"seed": 2**64 - 1, "step": 2**32 - 1, "stream": 4}),
    )
    return Kernel(
        stem=stem,
        bindings=(Binding("chain", "i32", ("B",)), Binding("out", dtype, ("B", "D"), "out")),
        params=(Param("seed", "u64"), Param("step", "u32"), Param("stream", "u32"), *params),
        workgroups=lambda dims, params: -(-dims["B"] * -(-dims["D"] // lanes) // 64),
        mirror=mirror,
        reference=reference,
        cases=tuple(
            Case(name, dims, _chains, tolerance, {**given, **more})
            for (name, dims, given), more in zip(proofs, values, strict=True)
        ),
        work=lambda dims: Work(flops * dims["B"] * dims["D"], 4.0 * dims["B"] * dims["D"]),
        speed_case={"B": 65536, "D": 640},
    )
