"""How a hierarchical index cuts the sphere into cells: k-means, halves, what a cell can hold."""

from __future__ import annotations

import importlib

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

COSINE_ERROR = 2e-5
"""Above the error of a float32 product of unit vectors, and of the angles that exact bounds use."""
_CENTRES_PER_ROOT = 4
_KMEANS_ROUNDS = 8
_POINTS_PER_CENTRE = 64
_CHUNK = 4096


def spherical_kmeans(rows: Float32Array, count: int, seed: int) -> Float32Array:
    """`count` unit centres of rows, (count, d), by spherical k-means on a sample of the rows."""
    faiss = importlib.import_module("faiss")
    kmeans = faiss.Kmeans(
        rows.shape[1],
        count,
        niter=_KMEANS_ROUNDS,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=_POINTS_PER_CENTRE,
    )
    kmeans.train(rows)
    centres = np.asarray(kmeans.centroids, np.float64)
    return np.stack([direction(c, rows[i % len(rows)]) for i, c in enumerate(centres)])


def default_cells(n: int) -> int:
    """Cells for n directions."""
    return round(_CENTRES_PER_ROOT * n**0.5)


def building_products(n: int) -> int:
    """Products that so many cells of n directions take: those of k-means, and to place each."""
    n_cells = default_cells(n)
    return (_KMEANS_ROUNDS * min(n, _POINTS_PER_CENTRE * n_cells) + n) * n_cells


def direction(vector: Float64Array, otherwise: Float32Array) -> Float32Array:
    """The vector at length one, or another if it has none."""
    length = np.linalg.norm(vector)
    return (vector / length).astype(np.float32) if length > 1e-6 else otherwise


def nearest_centre(rows: Float32Array, centres: Float32Array) -> NDArray[np.int64]:
    """The centre of highest product with each row, (n,)."""
    best = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        best[part] = np.argmax(rows[part] @ centres.T, axis=1)
    return best


def angles_to_centres(
    rows: Float32Array, centres: Float32Array, cell: NDArray[np.integer]
) -> Float64Array:
    """Angle of each unit row to the centre of its cell, (n,) radians, by the half chord."""
    angles = np.empty(len(rows))
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        chord = np.linalg.norm(rows[part] - centres[cell[part]], axis=1).astype(np.float64)
        angles[part] = 2 * np.arcsin(np.minimum(chord / 2, 1))
    return angles


def cosine_bound(scores: Float32Array, reach: Float64Array) -> Float64Array:
    """Highest cosine a member of a cell can have: cos(max(0, angle to the centre - reach)).

    The angle's cosine is only known to `COSINE_ERROR`, which the bound allows for.
    """
    closest = np.maximum(np.abs(scores, dtype=np.float64) - COSINE_ERROR, 0)
    sine = np.sqrt(np.maximum(1 - np.square(closest), 0))
    bound = scores * np.cos(reach) + COSINE_ERROR + sine * np.sin(reach)
    inside = scores + COSINE_ERROR >= np.cos(reach)
    return np.where(inside, 1.0, np.minimum(bound, 1.0))


def upper_half(rows: Float32Array) -> NDArray[np.bool_]:
    """Which half of the rows lies farther along the line between two centres, by 2-means."""
    centred = rows - rows.mean(axis=0)
    line = centred[np.argmax(np.square(centred).sum(axis=1))]
    for _ in range(_KMEANS_ROUNDS):
        along = centred @ line
        upper = along > np.median(along)
        if not upper.any():
            break
        line = centred[upper].mean(axis=0) - centred[~upper].mean(axis=0)
    order = np.argsort(centred @ line, kind="stable")
    half = np.zeros(len(rows), bool)
    half[order[len(rows) // 2 :]] = True
    return half
