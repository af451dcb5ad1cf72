"""Composition of meanings: points of the sphere added in a tangent space, mixed, and negated.

Seen from a base point m (the middle of what a model knows), a point x is the tangent log_m(x).
Composition is a map of two such tangents to a third, and what it gives is walked back to the
sphere. `COMPOSERS` holds the maps by name; one that is learned
(`ebm_wgpu.models.composition.CompositionNet.composer`) is given in place of a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.sphere import FloatArray, expmap, inner, logmap, projx

Composer = Callable[[FloatArray, FloatArray, FloatArray, float], FloatArray]
"""From base point, a, b (unit, (..., d)) and the share of b to a unit vector."""


def geodesic_mean(base: FloatArray, a: FloatArray, b: FloatArray, share: float) -> FloatArray:
    """exp_a(share log_a(b)): the point of the geodesic from a to b; the base has no part in it."""
    return np.asarray(expmap(a, share * logmap(a, b)))


def tangent_sum(base: FloatArray, a: FloatArray, b: FloatArray, share: float) -> FloatArray:
    """exp_m(2 ((1-share) log_m(a) + share log_m(b))), the sum of both tangents at share 1/2.

    The base is neutral: composed with it at share 1/2, a point stays what it is. A sum longer than
    pi goes past the point opposite to the base.
    """
    return np.asarray(expmap(base, 2 * ((1 - share) * logmap(base, a) + share * logmap(base, b))))


COMPOSERS: Mapping[str, Composer] = MappingProxyType(
    {"geodesic": geodesic_mean, "tangent": tangent_sum}
)


def compose(
    a: ArrayLike,
    b: ArrayLike,
    base: ArrayLike,
    *,
    method: str | Composer = "tangent",
    share: float = 0.5,
) -> FloatArray:
    """The composition of two points of the sphere, a unit vector (..., d) float64.

    Args:
        a, b: (..., d) of any length but zero.
        base: (..., d) the base point.
        method: a key of `COMPOSERS`, or a map of its own.
        share: how much of b, from 0 to 1.

    Raises:
        ConfigError: an unknown method, a share out of range, or points opposite to each other (to
            the base, for "tangent"), between which no direction leads.
    """
    composer = COMPOSERS.get(method) if isinstance(method, str) else method
    if composer is None:
        raise ConfigError(f"unknown composition {method!r}: use one of {', '.join(COMPOSERS)}")
    if not 0 <= share <= 1:
        raise ConfigError(f"share {share:g} of the second text: use 0 to 1")
    one, other, middle = (projx(np.asarray(point, np.float64)) for point in (a, b, base))
    # Walking a geodesic leaves the sphere by rounding only.
    return np.asarray(projx(composer(middle, one, other, share)))


def negate(x: ArrayLike, base: ArrayLike) -> FloatArray:
    """2 (m.x) m - x = exp_m(-log_m(x)): x reflected in the base point m, (..., d) float64.

    The angle to the base stays, the direction seen from it turns round: composed with what it
    negates, by tangent sum, a point gives the base.

    Args:
        x: (..., d) of any length but zero.
        base: (..., d) the base point.

    Raises:
        ConfigError: a point without a direction.
    """
    point, middle = projx(np.asarray(x, np.float64)), projx(np.asarray(base, np.float64))
    return np.asarray(projx(2 * inner(middle, point, keepdims=True) * middle - point))
