"""out[b] ~ p(x) = exp(eta[b].x - log Z0(|eta[b]|)): one exact von Mises-Fisher draw a row.

eta is in natural units (concentration times mean direction); zero gives the uniform. Row b takes
its random numbers from chain[b] at `step`: rows with the same chain number draw the same.

The cosine to the mean is Wood's rejection from a beta envelope, in a form without cancellation.
With k = |eta|, m = D - 1, root = sqrt(1 + (2k/m)^2), x0 = (2k/m)/(1 + root) and r the symmetric
beta on [-1, 1] by Ulrich's formula, r = sqrt(1 - u^(2/(m-1))) cos(2 pi u'):

    cosine = (x0 + r)/(1 + q),  sine = sqrt(2/(1 + root) (1 - r^2))/(1 + q),  q = x0 r,
    accept if m (q/(1 + q) - log(1 + q)) >= log u''.

(u, u', u'') are lanes 0 to 2 of Philox stream 2, one block an attempt; the uniform tangent
direction is a projected normal vector of stream 3.

Sources: Ulrich, "Computer generation of distributions on the m-sphere", Applied Statistics 33
(1984); Wood, "Simulation of the von Mises Fisher distribution", Comm. Stat. Simulation 23 (1994).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels import _rounds
from ebm_wgpu.kernels._cases import unit_rows
from ebm_wgpu.kernels._math import (
    F32,
    expm1_accurate,
    log1p_accurate,
    log_accurate,
    sincos_turns,
)
from ebm_wgpu.kernels._philox import (
    STREAM_COSINE,
    STREAM_DIRECTION,
    U32,
    fill_normal,
    normal_reference,
    philox_reference,
    split_seed,
    uniform4,
    uniforms_of,
)
from ebm_wgpu.kernels._sphere import dot, sphere_tolerance
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Kernel, Param, Scalar, Work
from ebm_wgpu.vmf import MIN_DIMENSION

# At least half of all attempts succeed, so this many fail with probability below 2^-256.
_ATTEMPTS = 256
# Below this length the square of eta underflows, and the draw is uniform to rounding.
_NEGLIGIBLE = np.float32(1e-18)
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@njit(cache=True, error_model="numpy")
def _draw_angle(k: F32, d: int, chain: U32, step: U32, k0: U32, k1: U32) -> tuple[F32, F32]:
    """Cosine and sine of the angle to the mean direction."""
    m = np.float32(d - 1)
    steep = _TWO * k / m
    root = np.sqrt(_ONE + steep * steep)
    x0 = steep / (_ONE + root)
    r, q = _ZERO, _ZERO
    for attempt in range(_ATTEMPTS):
        u0, u1, u2, _ = uniform4(np.uint32(attempt), step, chain, STREAM_COSINE, k0, k1)
        radius = np.sqrt(-expm1_accurate(_TWO / (m - _ONE) * log_accurate(u0)))
        r = radius * sincos_turns(u1)[1]
        q = x0 * r
        if m * (q / (_ONE + q) - log1p_accurate(q)) >= log_accurate(u2):
            break
    sine = np.sqrt(_TWO / (_ONE + root) * (_ONE - r) * (_ONE + r))
    return (x0 + r) / (_ONE + q), sine / (_ONE + q)


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def _rows(eta: Array, chain: Array, seed: np.uint64, step: U32, out: Array) -> None:
    k0, k1 = split_seed(seed)
    d = eta.shape[1]
    mean = np.empty(d, np.float32)
    for row in range(eta.shape[0]):
        norm = np.sqrt(dot(eta[row], eta[row]))
        k = _ZERO if norm < _NEGLIGIBLE else norm
        if k == _ZERO:
            mean[:] = _ZERO
            mean[0] = _ONE
        else:
            for i in range(d):
                mean[i] = eta[row, i] / k
        number = np.uint32(chain[row])
        across = out[row]
        fill_normal(across, step, number, STREAM_DIRECTION, k0, k1)
        radial = dot(across, mean)
        for i in range(d):
            across[i] -= radial * mean[i]
        cosine, sine = _draw_angle(k, d, number, step, k0, k1)
        scale = sine / np.sqrt(dot(across, across))
        for i in range(d):
            across[i] = cosine * mean[i] + scale * across[i]


def mirror(eta: Array, chain: Array, seed: int, step: int, out: Array) -> None:
    """Numba mirror."""
    _rows(eta, chain, np.uint64(seed), np.uint32(step), out)


def reference_angle(
    k: Array, d: int, chain: Array, seed: int, step: int
) -> tuple[Array, Array, Array]:
    """Cosine and sine of the angle to the mean for each row, in float64, and its margin.

    The margin is the least distance of an acceptance test from its threshold, in nats: a float32
    device decides every attempt alike if it is far above m eps.
    """
    m = d - 1
    steep = 2 * k / m
    root = np.sqrt(1 + steep**2)
    x0 = steep / (1 + root)
    r, margin = np.zeros(len(k)), np.full(len(k), np.inf)
    todo = np.arange(len(k))
    for attempt in range(_ATTEMPTS):
        words = philox_reference(attempt, step, chain[todo], STREAM_COSINE, seed)
        u0, u1, u2, _ = np.moveaxis(uniforms_of(words), -1, 0)
        r[todo] = np.sqrt(-np.expm1(2 / (m - 1) * np.log(u0))) * np.cos(2 * np.pi * u1)
        q = x0[todo] * r[todo]
        excess = m * (q / (1 + q) - np.log1p(q)) - np.log(u2)
        margin[todo] = np.minimum(margin[todo], np.abs(excess))
        todo = todo[excess < 0]
        if not todo.size:
            break
    q = x0 * r
    return (x0 + r) / (1 + q), np.sqrt(2 / (1 + root) * (1 - r) * (1 + r)) / (1 + q), margin


def reference(eta: Array, chain: Array, seed: int, step: int) -> Arrays:
    """Float64 reference."""
    d = eta.shape[1]
    norm = np.linalg.norm(eta, axis=1)
    k = np.where(norm < _NEGLIGIBLE, 0, norm)
    cosine, sine, _ = reference_angle(k, d, chain, seed, step)
    mean = np.where(k[:, None] > 0, eta / np.where(k > 0, k, 1)[:, None], np.eye(1, d))
    across = normal_reference(chain, d, step, STREAM_DIRECTION, seed)
    across -= np.sum(across * mean, axis=1, keepdims=True) * mean
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    return {"out": cosine[:, None] * mean + sine[:, None] * across}


def _check_dimension(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    if dims["D"] < MIN_DIMENSION:
        raise KernelError(
            f"vmf_sample: dimension {dims['D']} is below {MIN_DIMENSION}: use d >= {MIN_DIMENSION}"
        )
    return {}


def _concentrated(name: str, rows: int, d: int, low: float, high: float) -> Case:
    """Draws with |eta| between two powers of ten.

    With these fixed seeds every acceptance test clears its threshold by more than 1e-4, far above
    its float32 error, so that no device may decide another way; the tests check that.
    """

    def inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
        k = 10.0 ** rng.uniform(low, high, (dims["B"], 1))
        eta = k * unit_rows(rng, dims["B"], dims["D"])
        return {"eta": eta.astype(np.float32), "chain": np.arange(dims["B"], dtype=np.int32)}

    return Case(
        name, {"B": rows, "D": d}, inputs, sphere_tolerance(d), {"seed": 2**63 + 5, "step": 3}
    )


def _zero_and_negligible(rng: np.random.Generator, dims: Dims) -> Arrays:
    eta = 1e-20 * unit_rows(rng, dims["B"], dims["D"])
    eta[::2] = 0
    return {"eta": eta.astype(np.float32), "chain": np.arange(-1, dims["B"] - 1, dtype=np.int32)}


def _count_rounds(dims: Dims, params: Mapping[str, Scalar]) -> int:
    d = dims["D"]
    normals = _rounds.strided(d, 64) + _rounds.quads(d, 64, _rounds.PHILOX)
    angle = _rounds.loop(_ATTEMPTS, _rounds.PHILOX)
    return normals + 2 * _rounds.quads(d, 64) + angle + 3 * _rounds.reduction(64)


KERNEL = Kernel(
    stem="vmf_sample",
    bindings=(
        Binding("eta", "f32", ("B", "D")),
        Binding("chain", "i32", ("B",)),
        Binding("out", "f32", ("B", "D"), "out"),
    ),
    params=(Param("seed", "u64"), Param("step", "u32")),
    workgroups=lambda dims, params: dims["B"],
    mirror=mirror,
    reference=reference,
    rounds=_count_rounds,
    derive=_check_dimension,
    subgroup=True,
    cases=(
        _concentrated("odd", 9, 641, 1, 5),
        _concentrated("d8", 65, 8, -1, 6),
        _concentrated("d64, strong", 17, 64, 3, 6),
        _concentrated("d9, one row", 1, 9, 1, 1),
        Case(
            "zero and negligible",
            {"B": 5, "D": 30},
            _zero_and_negligible,
            sphere_tolerance(30),
            {"seed": 11, "step": 2**32 - 1},
        ),
    ),
    work=lambda dims: Work(60.0 * dims["B"] * dims["D"], 8.0 * dims["B"] * dims["D"]),
    speed_case={"B": 16384, "D": 640},
)
