"""The energy along great circles of the sphere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.energy import Energy
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.sphere import dist, expmap, logmap, projx

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Landscape:
    """Energies along the great circle through two points a and b.

    Attributes:
        angle: (n,) degrees from a towards b.
        separation: degrees from a to b.
        free: (n,) -log p(x) = E(x), nats: no context.
        from_a, from_b: (n,) -log p(x|c) = E(x|c) + log Z(c), nats, in the contexts that lead to a
            and to b.
        splat: (n,) the splat of the largest term of the energy.
    """

    angle: Float64Array
    separation: float
    free: Float64Array
    from_a: Float64Array
    from_b: Float64Array
    splat: NDArray[np.int64]


def great_circle(a: ArrayLike, b: ArrayLike, angles: ArrayLike) -> Float64Array:
    """x(t) = cos(t) a + sin(t) u with u the unit tangent at a towards b: (n, d).

    Args:
        a, b: (d,) of any length but zero; neither equal nor opposite.
        angles: (n,) radians from a; negative ones lead away from b.

    Raises:
        ConfigError: a and b are equal, so that no circle is given, or opposite, so that many are.
    """
    start, goal = projx(np.asarray(a, np.float64)), projx(np.asarray(b, np.float64))
    tangent = logmap(start, goal)
    length = np.linalg.norm(tangent)
    if length < np.finfo(np.float32).eps:
        raise ConfigError("the two points are one, so that no great circle is given: choose others")
    steps = np.asarray(angles, np.float64)[:, None]
    return np.asarray(expmap(start, steps * (tangent / length)))


def energy_between(
    energy: Energy,
    a: ArrayLike,
    b: ArrayLike,
    tilt_a: ArrayLike,
    tilt_b: ArrayLike,
    *,
    points: int = 241,
    margin: float = 30.0,
) -> Landscape:
    """Energies from `margin` degrees before a to `margin` degrees behind b.

    Args:
        energy: a plain mixture.
        a, b: (d,) the two points.
        tilt_a, tilt_b: (d,) the contexts h whose densities are shown beside the free one.
        points: n.
        margin: degrees.

    Raises:
        ConfigError: as `great_circle`, or the energy is no plain mixture.
    """
    start, goal = projx(np.asarray(a, np.float64)), projx(np.asarray(b, np.float64))
    separation = float(np.degrees(dist(start, goal)))
    angle = np.linspace(-margin, separation + margin, points)
    x = great_circle(start, goal, np.radians(angle)).astype(np.float32)
    tilts = (np.zeros(x.shape[1]), np.asarray(tilt_a), np.asarray(tilt_b))
    free, from_a, from_b = (-energy.log_density(x, tilt).astype(np.float64) for tilt in tilts)
    return Landscape(angle, separation, free, from_a, from_b, energy.heaviest(x))
