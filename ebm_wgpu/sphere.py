"""Geometry of the unit sphere S^{d-1} in R^d, over the last axis of NumPy arrays.

The verbs are `projx`, `proju`, `expmap`, `logmap`, `transp`, `dist`, `inner`, `random_uniform` and
`random_tangent`. All batch over leading axes by broadcasting, and keep float32 as float32; every
other type is computed in float64. The von Mises-Fisher functions are in `ebm_wgpu.vmf`.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ebm_wgpu.errors import ConfigError

FloatArray = NDArray[np.floating[Any]]

ANTIPODE_EPS = 64
"""Pairs with |x + y| below this many machine epsilons have no usable geodesic direction."""


def inner(u: ArrayLike, v: ArrayLike, *, keepdims: bool = False) -> FloatArray:
    """Sum_i u_i v_i over the last axis: the metric of the sphere at every point.

    u, v: (..., d). Returns (...), or (..., 1) with `keepdims`.
    """
    u, v = _floats(u, v)
    return np.asarray(np.sum(u * v, axis=-1, keepdims=keepdims))


def projx(x: ArrayLike) -> FloatArray:
    """x / |x|: the nearest point of the sphere, (..., d) to (..., d).

    Raises `ConfigError` for a row that is zero or not finite: it has no direction.
    """
    (x,) = _floats(x)
    # Scaling by the largest entry first keeps the squares clear of overflow and underflow.
    largest = np.max(np.abs(x), axis=-1, keepdims=True)
    bad = ~(np.isfinite(largest) & (largest > 0))
    if bad.any():
        row = tuple(int(i) for i in np.argwhere(bad)[0][:-1])
        raise ConfigError(
            f"projx: row {row} is zero or not finite and has no direction: remove or replace it"
        )
    scaled = x / largest
    return scaled / np.linalg.norm(scaled, axis=-1, keepdims=True)


def proju(x: ArrayLike, g: ArrayLike) -> FloatArray:
    """P_x g = g - (x.g) x: the part of g that is tangent at the unit vector x, (..., d)."""
    x, g = _floats(x, g)
    return g - inner(x, g, keepdims=True) * x


def expmap(x: ArrayLike, v: ArrayLike) -> FloatArray:
    """exp_x(v) = cos|v| x + sin|v| v/|v|: walk the geodesic from x along v for the length |v|.

    x: (..., d) unit; v: (..., d) tangent at x, in radians. exp_x(0) = x exactly.
    """
    x, v = _floats(x, v)
    length = np.linalg.norm(v, axis=-1, keepdims=True)
    safe = np.where(length > 0, length, 1)
    return np.cos(length) * x + np.where(length > 0, np.sin(length) / safe, 1) * v


def logmap(x: ArrayLike, y: ArrayLike) -> FloatArray:
    """log_x(y) = theta/sin(theta) (y - cos(theta) x): the tangent at x whose exponential is y.

    x, y: (..., d) unit. Returns (..., d) of length dist(x, y) in radians; log_x(x) = 0 exactly.
    Raises `ConfigError` where y = -x to within `ANTIPODE_EPS` machine epsilons: every direction
    leads there, so none can be chosen.
    """
    x, y = _floats(x, y)
    _refuse_antipodes("logmap", x, y)
    # P_x(y - x) and P_x(y + x) both equal P_x y; the shorter one keeps its digits.
    near = inner(x, y, keepdims=True) >= 0
    tangent = proju(x, np.where(near, y - x, y + x))
    sine = np.linalg.norm(tangent, axis=-1, keepdims=True)
    theta = dist(x, y)[..., None]
    return np.where(sine > 0, theta / np.where(sine > 0, sine, 1), 1) * tangent


def transp(x: ArrayLike, y: ArrayLike, v: ArrayLike) -> FloatArray:
    """v - (v.(x+y))/(1+x.y) (x+y): parallel transport of v from x to y along the geodesic.

    x, y: (..., d) unit; v: (..., d) tangent at x. Returns (..., d), tangent at y and as long as v:
    for tangent v this is the reflection in the hyperplane orthogonal to x+y.
    Raises `ConfigError` where y = -x to within `ANTIPODE_EPS` machine epsilons (see `logmap`).
    """
    x, y, v = _floats(x, y, v)
    _refuse_antipodes("transp", x, y)
    middle = x + y
    # 1 + x.y = |x+y|^2 / 2, without the cancellation near the antipode.
    half_square = inner(middle, middle, keepdims=True) / 2
    return v - inner(v, middle, keepdims=True) / half_square * middle


def dist(x: ArrayLike, y: ArrayLike) -> FloatArray:
    """arccos(x.y) computed as 2 atan2(|x-y|, |x+y|): the angle between unit vectors, in [0, pi].

    x, y: (..., d) unit. Returns (...) in radians, exact to rounding at 0 and at pi, where the
    arc cosine loses half its digits.
    """
    x, y = _floats(x, y)
    return np.asarray(
        2 * np.arctan2(np.linalg.norm(x - y, axis=-1), np.linalg.norm(x + y, axis=-1))
    )


def random_uniform(
    rng: np.random.Generator, n: int, d: int, dtype: DTypeLike = np.float64
) -> FloatArray:
    """N independent points of the uniform probability on S^{d-1}: (n, d)."""
    return projx(rng.standard_normal((n, d))).astype(dtype, copy=False)


def random_tangent(rng: np.random.Generator, x: ArrayLike) -> FloatArray:
    """P_x z with z standard normal: a tangent at each x with covariance P_x, shape and type of x.

    Its squared length is chi-square with d-1 degrees of freedom: a thermal velocity at T = 1.
    """
    (x,) = _floats(x)
    return proju(x, rng.standard_normal(x.shape).astype(x.dtype, copy=False))


def _floats(*arrays: ArrayLike) -> tuple[FloatArray, ...]:
    """The arrays as float32 if all of them are, else as float64."""
    converted = [np.asarray(array) for array in arrays]
    single = all(array.dtype == np.float32 for array in converted)
    return tuple(
        array.astype(np.float32 if single else np.float64, copy=False) for array in converted
    )


def _refuse_antipodes(verb: str, x: FloatArray, y: FloatArray) -> None:
    chord = np.linalg.norm(x + y, axis=-1)
    bad = ~(chord >= ANTIPODE_EPS * np.finfo(x.dtype).eps)
    if bad.any():
        row = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ConfigError(
            f"{verb}: pair {row} is antipodal (|x+y| = {chord[row]:.2g}) or not finite, so no "
            "single geodesic joins it: move one of the points"
        )
