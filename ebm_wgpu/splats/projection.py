"""Directions in many dimensions as points of a plane: principal components, or UMAP."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.splats.store import Float64Array

Method = Literal["pca", "umap"]
METHODS: tuple[Method, ...] = ("pca", "umap")


@dataclass(frozen=True, eq=False)
class Projection:
    """Points of the plane.

    Attributes:
        points: (n, 2) float64.
        axes: what the two coordinates are, for labels.
    """

    points: Float64Array
    axes: tuple[str, str]


def project(rows: ArrayLike, method: Method = "pca", *, seed: int = 0) -> Projection:
    """Rows of unit vectors, (n, d), as points of the plane.

    "pca": the first two principal components of the centred rows; distances are chords seen from
    one side, and the axes say which share of the variance they show. "umap" keeps neighbours by
    cosine near each other; its axes and distances mean nothing by themselves.

    Args:
        rows: (n, d), n >= 3.
        method: how.
        seed: of what is random in UMAP.

    Raises:
        ConfigError: too few rows, or UMAP is not installed.
    """
    values = np.asarray(rows)
    if values.ndim != 2 or len(values) < 3:
        raise ConfigError(f"cannot draw a map of {len(values)} directions: give at least 3")
    return _umap(values, seed) if method == "umap" else _principal(values)


def _principal(rows: ArrayLike) -> Projection:
    centred = np.asarray(rows, np.float64)
    centred = centred - centred.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, :-3:-1]
    # Eigenvectors have no sign of their own: the largest entry is made positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    # Equal rows have no variance to share.
    shares = np.maximum(values[:-3:-1], 0) / max(float(values.sum()), np.finfo(np.float64).tiny)
    return Projection(
        centred @ axes,
        (
            f"first principal component ({shares[0]:.1%} of variance)",
            f"second principal component ({shares[1]:.1%} of variance)",
        ),
    )


def _umap(rows: ArrayLike, seed: int) -> Projection:
    try:
        umap = importlib.import_module("umap")
    except ImportError as error:
        raise ConfigError(
            'UMAP is not installed: pip install "ebm-wgpu[umap]", or use the projection pca'
        ) from error
    # One job: UMAP is repeatable only in one thread, and warns if it may have more.
    reducer = umap.UMAP(n_components=2, metric="cosine", random_state=seed, n_jobs=1)
    points = reducer.fit_transform(np.asarray(rows, np.float32))
    return Projection(np.asarray(points, np.float64), ("UMAP 1", "UMAP 2"))
