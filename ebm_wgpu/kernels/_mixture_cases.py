"""Declarations and proofs that the kernels of tilted splats share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ebm_wgpu.kernels._cases import normal
from ebm_wgpu.kernels.spec import Array, Arrays, Binding, Case, Dims, Param, Tolerance

S = Binding("s", "f32", ("B", "N"))
A = Binding("a", "f32", ("N",))
LOG_PI = Binding("log_pi", "f32", ("N",))
H2 = Binding("h2", "f32", ("B",))
DIMENSION = (Param("dimension", "u32"),)


@dataclass(frozen=True)
class Tilt:
    """Contexts of about one length among random splats.

    Attributes:
        name: says what is special about it.
        dims: B contexts and N splats.
        dimension: d.
        kappa: range of the concentrations per degree of freedom.
        length: |h|; row 0 has h = 0 unless it is the only one.
        opposite: cosine of a context with |h| = a to the first splat, unless 0: eta = 0 at -1. Two
            more lie along and against the second splat.
    """

    name: str
    dims: Dims
    dimension: int
    kappa: tuple[float, float]
    length: float
    opposite: float = 0.0

    def draw(self, rng: np.random.Generator, dims: Dims) -> Arrays:
        """s (B, N), a (N,) and h2 (B,), float32; `dims` may differ from those of the proof."""
        rows, count = dims["B"], dims["N"]
        h = self.length * rng.uniform(0.8, 1.2, rows)
        if rows > 1:
            h[0] = 0
        cosine = np.clip(rng.standard_normal((rows, count)) / self.dimension**0.5, -1, 1)
        a = (self.dimension - 1) * rng.uniform(*self.kappa, count)
        if self.opposite:
            h[1] = a[0]
            cosine[1, 0] = self.opposite
            cosine[2, 1], cosine[3, 1] = 1, -1
        arrays = {"s": h[:, None] * cosine, "a": a, "h2": h**2}
        return {name: value.astype(np.float32) for name, value in arrays.items()}


FORWARD = (
    Tilt("d640", {"B": 5, "N": 301}, 640, (1, 50), 20),
    Tilt("d64", {"B": 3, "N": 129}, 64, (1, 10), 16),
    Tilt("d65", {"B": 3, "N": 33}, 65, (1, 3), 16),
    Tilt("d9", {"B": 4, "N": 33}, 9, (1, 50), 4),
    Tilt("strong tilt", {"B": 2, "N": 31}, 640, (1, 5), 600),
    Tilt("opposite tilt", {"B": 5, "N": 7}, 128, (1, 2), 16, opposite=-0.999),
    Tilt("one splat", {"B": 1, "N": 1}, 33, (1, 2), 5),
)
"""Proofs of forward kernels: differences of float32 arrays can be taken in all of them."""
BACKWARD = (
    Tilt("d640", {"B": 33, "N": 67}, 640, (1, 50), 20),
    Tilt("d64", {"B": 19, "N": 301}, 64, (1, 10), 16),
    Tilt("d9", {"B": 4, "N": 33}, 9, (1, 50), 4),
    Tilt("strong tilt", {"B": 2, "N": 31}, 640, (1, 5), 600),
    Tilt("opposite tilt", {"B": 5, "N": 7}, 128, (1, 2), 16, opposite=-1.0),
    Tilt("one splat", {"B": 1, "N": 1}, 33, (1, 2), 5),
)
"""Proofs of backward kernels: several blocks of rows, and a splat that is tilted away wholly."""


def tilt_cases(
    tilts: Iterable[Tilt],
    others: Callable[[np.random.Generator, Dims], Arrays],
    tolerance: Callable[[Tilt], Tolerance | Mapping[str, Tolerance]],
) -> tuple[Case, ...]:
    """The proofs of a kernel over tilted splats.

    Args:
        tilts: what s, a and h2 are.
        others: (generator, dims) -> the kernel's other inputs.
        tolerance: of each proof.
    """

    def case(tilt: Tilt) -> Case:
        return Case(
            tilt.name,
            tilt.dims,
            lambda rng, dims: tilt.draw(rng, dims) | others(rng, dims),
            tolerance(tilt),
            {"dimension": tilt.dimension},
        )

    return tuple(case(tilt) for tilt in tilts)


def log_shares(rng: np.random.Generator, dims: Dims) -> Array:
    """log pi of N splats."""
    return np.log(rng.dirichlet(np.full(dims["N"], 2.0))).astype(np.float32)


def shares(rng: np.random.Generator, dims: Dims) -> Array:
    """A row of shares of the mass for each context, none above 2/N."""
    return (rng.uniform(0, 2, (dims["B"], dims["N"])) / dims["N"]).astype(np.float32)


def cotangent(rng: np.random.Generator, *shape: int) -> Array:
    """Normal entries clipped to four deviations, so that tolerances can be stated."""
    return np.clip(normal(rng, *shape), -4, 4)
