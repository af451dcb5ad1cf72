"""What hierarchical_context and its backward share: windows as band matrices, float64 truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numba import njit

from ebm_wgpu.errors import KernelError
from ebm_wgpu.kernels._cases import EPS32
from ebm_wgpu.kernels.spec import Array, Arrays, Dims, Param, Scalar

LONGEST = 1024
"""Longest window the WGSL holds in workgroup memory."""
BLOCK = 256
"""Queries that the mirrors take at a time."""
WINDOWS = ("recent_window", "decay_window", "attention_window")
PARAMS = (*(Param(name, "u32") for name in WINDOWS), Param("scale", "f32"))


def check_windows(dims: dict[str, int], params: Mapping[str, Scalar]) -> dict[str, int]:
    """Raise `KernelError` for a window of zero positions or one longer than the kernel can hold."""
    for name in WINDOWS:
        reach = min(int(params[name]), dims["T"])
        if not 0 < reach <= LONGEST:
            raise KernelError(
                f"{name}={params[name]} over {dims['T']} positions: windows span from 1 to "
                f"{LONGEST} positions; choose one in that range or shorter sequences"
            )
    return {}


def reaches(dims: Dims, params: Mapping[str, Scalar]) -> list[int]:
    """The most positions that each window spans, in the order of WINDOWS."""
    return [min(int(params[name]), dims["T"]) for name in WINDOWS]


@njit(cache=True)
def bands(
    start: int, stop: int, low: int, recent_window: int, decay_window: int
) -> tuple[Array, Array]:
    """Weights of positions low..stop-1 in the recent and decay summaries of start..stop-1."""
    recent = np.zeros((stop - start, stop - low), np.float32)
    decay = np.zeros((stop - start, stop - low), np.float32)
    rate = np.float32(4) / np.float32(decay_window)
    for query in range(stop - start):
        last = start - low + query
        count = min(start + query + 1, recent_window)
        recent[query, last - count + 1 : last + 1] = np.float32(1) / np.float32(count)
        count = min(start + query + 1, decay_window)
        total = np.float32(0)
        for age in range(count):
            weight = np.exp(-rate * np.float32(age))
            decay[query, last - age] = weight
            total += weight
        for age in range(count):
            decay[query, last - age] /= total
    return recent, decay


@njit(cache=True)
def lowest(start: int, recent_window: int, decay_window: int, attention_window: int) -> int:
    """First position that any summary of a query from `start` on can see."""
    return max(0, start + 1 - max(recent_window, max(decay_window, attention_window)))


def exact_weights(
    q: Array,
    k: Array,
    recent_window: int,
    decay_window: int,
    attention_window: int,
    scale: float,
) -> tuple[Array, Array, Array, Array]:
    """Float64 weights of all positions in the three summaries, and the log-sum-exp of the scores.

    Returns:
        recent (T, T), decay (T, T), attention (B, T, T), lse (B, T).
    """
    length = q.shape[1]
    age = np.arange(length)[:, None] - np.arange(length)[None, :]

    def inside(window: int) -> Array:
        return (age >= 0) & (age < window)

    recent = inside(recent_window).astype(np.float64)
    recent /= recent.sum(1, keepdims=True)
    decay = np.where(inside(decay_window), np.exp(-4.0 / decay_window * np.maximum(age, 0)), 0.0)
    decay /= decay.sum(1, keepdims=True)
    scores = scale * np.einsum("btd,bjd->btj", q, k)
    scores = np.where(inside(attention_window), scores, -np.inf)
    peak = scores.max(2, keepdims=True)
    lse = peak + np.log(np.exp(scores - peak).sum(2, keepdims=True))
    return recent, decay, np.exp(scores - lse), lse[..., 0]


@dataclass(frozen=True)
class Sequences:
    """A proof: random sequences under windows.

    Attributes:
        name: says what is special about it.
        dims: B sequences of T positions in D dimensions.
        windows: recent, decay and attention window.
        sharpness: standard deviation of the scores.
    """

    name: str
    dims: Dims
    windows: tuple[int, int, int]
    sharpness: float = 1.0

    @property
    def params(self) -> dict[str, Scalar]:
        """The windows, and scale 1/sqrt(D)."""
        windows = dict(zip(WINDOWS, self.windows, strict=True))
        return {**windows, "scale": self.dims["D"] ** -0.5}

    def draw(self, rng: np.random.Generator, dims: Dims) -> Arrays:
        """Normal x, and q, k whose scores have standard deviation `sharpness`, (B, T, D)."""
        shape = (dims["B"], dims["T"], dims["D"])
        scales = {"x": 1.0, "q": self.sharpness, "k": 1.0}
        return {n: (s * rng.standard_normal(shape)).astype(np.float32) for n, s in scales.items()}

    @property
    def weight_error(self) -> float:
        """Relative error of a softmax weight in float32.

        A score is a running sum of D products that wanders up to about `sharpness`: sqrt(D) eps
        sharpness. WGSL's exp(x) errs by 3 + 2|x| units in the last place, |x| up to 4 sharpness.
        """
        sharpness = self.sharpness
        return EPS32 * (self.dims["D"] ** 0.5 * sharpness + 4 + 8 * sharpness)


SEQUENCES = (
    Sequences("design windows", {"B": 2, "T": 77, "D": 65}, (12, 64, 512)),
    Sequences("short windows", {"B": 1, "T": 33, "D": 8}, (3, 5, 7)),
    Sequences("windows of one", {"B": 2, "T": 5, "D": 9}, (1, 1, 1)),
    Sequences("one position", {"B": 3, "T": 1, "D": 8}, (12, 64, 512)),
    Sequences("sharp attention", {"B": 1, "T": 40, "D": 16}, (4, 16, 40), sharpness=12.0),
    Sequences("across blocks", {"B": 1, "T": 300, "D": 8}, (12, 64, 31)),
    Sequences("d640", {"B": 1, "T": 9, "D": 640}, (4, 8, 9)),
)
"""Proofs of the forward and of the backward kernel."""
