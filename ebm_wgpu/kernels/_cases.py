"""Input distributions and tolerances that the case tables share."""

from __future__ import annotations

import numpy as np

from ebm_wgpu.kernels.spec import Array, Tolerance

EPS32 = float(np.finfo(np.float32).eps)

ELEMENTWISE = Tolerance(
    1e-6, 4 * EPS32, "a few float32 roundings of values of order one, none of them amplified"
)
"""For outputs of order one made by a handful of roundings."""


def dot_tolerance(length: int, scale: float = 1.0) -> Tolerance:
    """Tolerance of a float32 sum of `length` products of total size about `scale`.

    Blocked or pairwise summation errs by about sqrt(length) eps at worst in practice (Higham,
    Accuracy and Stability of Numerical Algorithms, section 4.2).
    """
    return Tolerance(
        2 * EPS32 * np.sqrt(length) * scale,
        4 * EPS32,
        f"float32 sum of {length} products of total size {scale:g}: 2 eps sqrt(n)",
    )


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    """Independent normal entries, float32."""
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def unit_rows(rng: np.random.Generator, *shape: int) -> Array:
    """Rows uniform on the sphere, float32."""
    x = rng.standard_normal(shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def tangent_rows(rng: np.random.Generator, x: Array, length: float = 1.0) -> Array:
    """Rows tangent to the sphere at the rows of x, of about the given length, float32."""
    v = rng.standard_normal(x.shape)
    v -= np.sum(v * x, axis=-1, keepdims=True) * x
    return (length * v / np.linalg.norm(v, axis=-1, keepdims=True)).astype(np.float32)
