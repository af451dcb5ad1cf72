"""Softmax cross-entropy of rows of logits, with label smoothing:

    lse = logsumexp_k z_k,   loss = lse - (1 - s) z_target - (s / V) sum_k z_k,

0 where target = ignore_index, NaN where a target lies outside the vocabulary. Source: Szegedy et
al. 2016 (arXiv:1512.00567), section 7, for s. A linear layer over a large vocabulary is taken by
chunks of rows: logits by `matmul`, this kernel, `cross_entropy_backward` in the logits' own memory,
and two products with that gradient; no more than one chunk of logits ever exists.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._readout import row_max, row_sum, share_sum
from ebm_wgpu.kernels._rows import WG
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

CONSTANTS = {"WG": WG, "NAN_BITS": 0x7FC00000}
PARAMS = (Param("ignore_index", "i32"), Param("smoothing", "f32"))


@njit(cache=True, error_model="numpy")
def _losses(
    logits: Array, targets: Array, ignore_index: int, smoothing: float, loss: Array, lse: Array
) -> None:
    count = logits.shape[1]
    for row in range(logits.shape[0]):
        z = logits[row]
        peak = row_max(z)
        lse[row] = peak + np.log(share_sum(z, peak))
        target = targets[row]
        if target == ignore_index:
            loss[row] = 0
        elif target < 0 or target >= count:
            loss[row] = np.nan
        else:
            loss[row] = lse[row] - z[target]
            if smoothing != 0:
                loss[row] -= smoothing * (row_sum(z) / np.float32(count) - z[target])


def mirror(
    logits: Array, targets: Array, ignore_index: int, smoothing: float, loss: Array, lse: Array
) -> None:
    """Numba mirror."""
    _losses(logits, targets, ignore_index, np.float32(smoothing), loss, lse)


def reference(logits: Array, targets: Array, ignore_index: int, smoothing: float) -> Arrays:
    """Float64 reference."""
    rows, count = logits.shape
    peak = logits.max(1)
    lse = peak + np.log(np.exp(logits - peak[:, None]).sum(1))
    inside = (targets >= 0) & (targets < count)
    chosen = logits[np.arange(rows), np.where(inside, targets, 0)]
    loss = lse - (1 - smoothing) * chosen - smoothing * logits.mean(1)
    loss = np.where(inside, loss, np.nan)
    return {"loss": np.where(targets == ignore_index, 0.0, loss), "lse": lse}


def _vjp(run: Run, inputs: Arrays, params: Mapping[str, Scalar], cotangents: Arrays) -> Arrays:
    options = {p.name: params[p.name] for p in PARAMS}
    lse = run("cross_entropy", **inputs, **options)["lse"]
    return run("cross_entropy_backward", **inputs, **options, lse=lse, grad_loss=cotangents["loss"])


def entropy_inputs(
    rng: np.random.Generator, dims: Dims, scale: float, ignore_index: int, outside: bool
) -> Arrays:
    """Logits of standard deviation `scale`; every third target is ignored, two may be wrong."""
    targets = rng.integers(0, dims["V"], dims["R"]).astype(np.int32)
    targets[1::3] = ignore_index
    if outside:
        targets[0], targets[-1] = dims["V"], -7
    return {"logits": normal(rng, dims["R"], dims["V"], scale=scale), "targets": targets}


CASES: tuple[tuple[str, Dims, float, dict[str, Scalar], bool], ...] = (
    ("odd", {"R": 9, "V": 601}, 2.0, {"ignore_index": -100, "smoothing": 0.0}, False),
    ("smoothed", {"R": 8, "V": 301}, 3.0, {"ignore_index": -1, "smoothing": 0.1}, False),
    ("one token", {"R": 4, "V": 1}, 1.0, {"ignore_index": -100, "smoothing": 0.2}, False),
    ("far apart", {"R": 17, "V": 65}, 60.0, {"ignore_index": 7, "smoothing": 0.0}, False),
    ("targets outside", {"R": 6, "V": 50}, 1.0, {"ignore_index": -100, "smoothing": 0.0}, True),
)


def _case(name: str, dims: Dims, scale: float, params: Mapping[str, Scalar], outside: bool) -> Case:
    return Case(
        name,
        dims,
        lambda rng, sizes: entropy_inputs(rng, sizes, scale, int(params["ignore_index"]), outside),
        Tolerance(
            EPS32 * (4 + 8 * scale),
            4 * EPS32,
            f"differences of float32 numbers up to {5 * scale:g}, and a sum of at most 601 shares",
        ),
        params,
    )


KERNEL = Kernel(
    stem="cross_entropy",
    bindings=(
        Binding("logits", "f32", ("R", "V"), half=True),
        Binding("targets", "i32", ("R",)),
        Binding("loss", "f32", ("R",), "out"),
        Binding("lse", "f32", ("R",), "out"),
    ),
    params=PARAMS,
    constants=CONSTANTS,
    workgroups=lambda dims, params: dims["R"],
    mirror=mirror,
    reference=reference,
    rounds=_rounds.row_passes("V", 1, 3, WG),
    subgroup=True,
    cases=tuple(_case(*case) for case in CASES),
    gradient=Gradient(
        wrt=("logits",),
        vjp=_vjp,
        outputs=("loss",),
        tolerance=Tolerance(2e-5, 2e-5, "logits up to 300 leave shares exact to 2e-5"),
        cases=("odd", "smoothed", "far apart"),
    ),
    work=lambda dims: Work(25.0 * dims["R"] * dims["V"], 4.0 * dims["R"] * dims["V"]),
    speed_case={"R": 1024, "V": 50257},
)
