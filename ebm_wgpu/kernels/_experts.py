"""What the expert kernels share: GELU in its tanh form, rows grouped by expert, inputs of cases.

gelu(z) = z sigmoid(2 y), y = sqrt(2/pi) (z + 0.044715 z^3) (Hendrycks and Gimpel 2016, section 2):
the tanh form, because it needs only exp.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numba import njit

from ebm_wgpu.kernels._cases import EPS32, normal
from ebm_wgpu.kernels._math import exp_accurate
from ebm_wgpu.kernels.spec import Array, Arrays, Dims

ROWS, CHUNK, UNITS = 8, 256, 8
"""Rows and hidden units that a workgroup holds at a time; units it sums gradients of."""
_ONE = np.float32(1)
_CUBIC, _THREE_CUBIC = np.float32(0.044715), np.float32(0.134145)
_TWICE_ROOT, _LIMIT = np.float32(2 * np.sqrt(2 / np.pi)), np.float32(80)
_FLAGS = {"cache": True, "fastmath": {"contract"}, "error_model": "numpy"}


@njit(**_FLAGS)
def _gate(z: float) -> float:
    y = _TWICE_ROOT * (z + _CUBIC * z * z * z)
    return _ONE / (_ONE + exp_accurate(min(max(-y, -_LIMIT), _LIMIT)))


@njit(**_FLAGS)
def gelu_rows(z: Array, out: Array) -> None:
    """Write gelu(z), float32 matrices."""
    for row in range(z.shape[0]):
        for j in range(z.shape[1]):
            out[row, j] = z[row, j] * _gate(z[row, j])


@njit(**_FLAGS)
def gelu_slope_rows(z: Array, back: Array, hidden: Array, slope: Array) -> None:
    """Write gelu(z) and back gelu'(z), float32 matrices."""
    for row in range(z.shape[0]):
        for j in range(z.shape[1]):
            value = z[row, j]
            gate = _gate(value)
            hidden[row, j] = value * gate
            curve = value * gate * (_ONE - gate) * _TWICE_ROOT
            slope[row, j] = back[row, j] * (gate + curve * (_ONE + _THREE_CUBIC * value * value))


def exact_gelu(z: Array) -> tuple[Array, Array]:
    """Float64 gelu(z) and gelu'(z)."""
    root = np.sqrt(2 / np.pi)
    tanh = np.tanh(root * (z + 0.044715 * z**3))
    slope = 0.5 * (1 + tanh) + 0.5 * z * (1 - tanh**2) * root * (1 + 0.134145 * z**2)
    return 0.5 * z * (1 + tanh), slope


def by_expert(index: Array, n_experts: int) -> Iterator[tuple[int, Array, Array]]:
    """Yield (expert, rows, slots) of all choices that fell on each expert, in order of the rows."""
    flat = index.ravel()
    order = np.argsort(flat, kind="stable")
    ends = np.searchsorted(flat[order], np.arange(n_experts + 1))
    for expert in range(n_experts):
        chosen = order[ends[expert] : ends[expert + 1]]
        if len(chosen):
            yield expert, chosen // index.shape[1], chosen % index.shape[1]


def expert_inputs(rng: np.random.Generator, dims: Dims) -> Arrays:
    """Rows of unit variance, matrices that keep it, and choices of distinct experts."""
    sizes = {n: dims[n] for n in "BIHOEA"}
    b, i, h, o, e, a = sizes.values()
    index = np.stack([rng.permutation(e)[:a] for _ in range(b)]).astype(np.int32)
    weight = rng.uniform(0.1, 1.0, (b, a)).astype(np.float32)
    return {
        "x": normal(rng, b, i),
        "w1": normal(rng, e, i, h, scale=i**-0.5),
        "b1": normal(rng, e, h, scale=0.5),
        "w2": normal(rng, e, h, o, scale=h**-0.5),
        "b2": normal(rng, e, o, scale=0.5),
        "index": index,
        "weight": weight,
    }


def unit_error(dims: Dims) -> float:
    """Absolute error of a hidden or output unit of `expert_inputs` in float32.

    Running sums of I, then H products wander up to about 1 and round at each step:
    eps (sqrt(I) + sqrt(H)) covers both, with 8 eps for GELU, whose exp errs by 3 + 2|x| units.
    """
    return EPS32 * (np.sqrt(dims["I"]) + np.sqrt(dims["H"]) + 8)


CASE_DIMS = {
    "odd": {"B": 21, "I": 37, "H": 67, "O": 19, "E": 4, "A": 2},
    "several chunks": {"B": 9, "I": 24, "H": 2 * CHUNK + 3, "O": 70, "E": 3, "A": 2},
    "one expert": {"B": 8, "I": 8, "H": 16, "O": 8, "E": 1, "A": 1},
    "one row": {"B": 1, "I": 130, "H": 9, "O": 65, "E": 8, "A": 2},
    "unchosen experts": {"B": 3, "I": 5, "H": 7, "O": 3, "E": 16, "A": 1},
    "all experts": {"B": 10, "I": 12, "H": 20, "O": 9, "E": 3, "A": 3},
}
"""Shapes of the cases, the same for all three kernels."""
