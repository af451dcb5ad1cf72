"""The splats of a model as plain arrays, with their invariants and derived quantities.

Splat k is a direction mu_k on S^{d-1}, a weight alpha_k > 0, a relative concentration kappa_k, a
semantic id sid_k (a token id), a usage frequency and an age. In natural units its concentration is
a_k = (d-1) kappa_k, and as a mixture component its weight is pi_k = alpha_k / sum(alpha).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.errors import StoreError
from ebm_wgpu.sphere import projx
from ebm_wgpu.vmf import MIN_DIMENSION, log_z0

KAPPA_RANGE = (1.0, 50.0)
UNIT_TOLERANCE = 1e-5
"""Largest accepted | |mu|^2 - 1 |; a float32 normalisation stays below 1e-6."""

_LOG_Z0_ROWS = 1 << 16

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]

COLUMN_TYPES: Mapping[str, type] = MappingProxyType(
    {
        "alpha": np.float32,
        "kappa": np.float32,
        "sid": np.int64,
        "frequency": np.float64,
        "age": np.int64,
    }
)
"""What every splat has besides its direction, and the type it is kept in."""


@dataclass(eq=False)
class History:
    """The ring buffer of recent states that consolidation draws new splats from.

    latents: (H, d) float32 unit vectors. energies: (H,) float32, nats. tokens: (H,) int64, the
    token that followed each state. H may be 0.
    """

    latents: Float32Array
    energies: Float32Array
    tokens: Int64Array

    def __len__(self) -> int:
        return len(self.latents)

    def validate(self, dimension: int) -> None:
        """Raise `StoreError`, naming the array and the first bad row, unless all holds."""
        count = len(self.latents) if np.ndim(self.latents) else 0
        _check_array("history latents", self.latents, np.float32, (count, dimension))
        _check_array("history energies", self.energies, np.float32, (count,))
        _check_array("history tokens", self.tokens, np.int64, (count,))
        _check_unit("history latents", self.latents)
        _check_rows("history energies", np.isfinite(self.energies), self.energies, "not finite")
        _check_rows("history tokens", self.tokens >= 0, self.tokens, "negative")


class _MixtureWeights(ABC):
    """What alpha, kappa and the dimension say of each splat as a component of the mixture."""

    alpha: Float32Array
    kappa: Float32Array

    @property
    @abstractmethod
    def dimension(self) -> int:
        """The dimension d of the space the unit vectors live in."""

    @property
    def concentration(self) -> Float64Array:
        """a_k = (d-1) kappa_k, natural units, (N,) float64."""
        return (self.dimension - 1) * self.kappa.astype(np.float64)

    @property
    def log_pi(self) -> Float64Array:
        """log(alpha_k / sum(alpha)), nats, (N,) float64."""
        alpha = self.alpha.astype(np.float64)
        return np.asarray(np.log(alpha) - np.log(alpha.sum()))

    @property
    def log_weight(self) -> Float64Array:
        """log w_k = log pi_k + a_k - log Z0(a_k), nats, (N,) float64.

        With it E_splats(x) = -log sum_k w_k exp(a_k (mu_k.x - 1)) is the energy of a normalised
        density relative to the uniform probability.
        """
        a, weight = self.concentration, self.log_pi
        # log Z0 needs a score of temporary arrays: part by part they stay small.
        for first in range(0, len(a), _LOG_Z0_ROWS):
            part = slice(first, first + _LOG_Z0_ROWS)
            weight[part] += a[part] - log_z0(a[part], self.dimension)
        return weight

    @property
    def concentration_f32(self) -> Float32Array:
        """`concentration` rounded to float32, as kernels take it."""
        return self.concentration.astype(np.float32)

    @property
    def log_pi_f32(self) -> Float32Array:
        """`log_pi`, computed in float64 and rounded to float32."""
        return self.log_pi.astype(np.float32)

    @property
    def log_weight_f32(self) -> Float32Array:
        """`log_weight`, computed in float64 and rounded to float32."""
        return self.log_weight.astype(np.float32)


@dataclass(eq=False)
class SplatColumns(_MixtureWeights):
    """All that N splats have besides their directions: 36 bytes a splat, whatever the dimension.

    The arrays are those of `SplatStore`. Stores too large for memory are handled as columns and a
    stream of blocks of directions (`ebm_wgpu.splats.splat_file`).
    """

    alpha: Float32Array
    kappa: Float32Array
    sid: Int64Array
    frequency: Float64Array
    age: Int64Array
    width: int
    kappa_range: tuple[float, float] = KAPPA_RANGE

    def __len__(self) -> int:
        return len(self.alpha)

    @property
    def dimension(self) -> int:
        """The dimension d of the directions."""
        return self.width

    def take(self, rows: NDArray[Any]) -> "SplatColumns":
        """The columns of some splats, by index or mask, in that order."""
        chosen = {name: getattr(self, name)[rows] for name in COLUMN_TYPES}
        return SplatColumns(**chosen, width=self.width, kappa_range=self.kappa_range)

    def validate(self, count: int | None = None) -> None:
        """Raise `StoreError`, naming the array and the first bad row, unless all invariants hold.

        Checked: all that `SplatStore.validate` checks of the columns, and that there are `count`
        splats, as many as directions.
        """
        if self.width < MIN_DIMENSION:
            raise StoreError(f"dimension {self.width} is below {MIN_DIMENSION}: use at least that")
        if count is None:
            count = len(self.alpha) if np.ndim(self.alpha) else 0
        if count == 0:
            raise StoreError("the store holds no splats: give at least one direction")
        for name, dtype in COLUMN_TYPES.items():
            _check_array(name, getattr(self, name), dtype, (count,))
        _check_rows("alpha", np.isfinite(self.alpha), self.alpha, "not finite")
        _check_rows("alpha", self.alpha > 0, self.alpha, "not positive")
        low, high = self.kappa_range
        if not 0 < low <= high < np.inf:
            raise StoreError(f"kappa range ({low}, {high}) is not an interval of positive numbers")
        inside = (self.kappa >= np.float32(low)) & (self.kappa <= np.float32(high))
        _check_rows("kappa", inside, self.kappa, f"outside its range [{low:g}, {high:g}]")
        _check_rows("sid", self.sid >= 0, self.sid, "negative")
        _check_rows(
            "frequency",
            np.isfinite(self.frequency) & (self.frequency >= 0),
            self.frequency,
            "negative or not finite",
        )
        _check_rows("age", self.age >= 0, self.age, "negative")


@dataclass(eq=False)
class SplatStore(_MixtureWeights):
    """N splats on S^{d-1}. Build one with `from_directions`, or from a file with `load`.

    mu: (N, d) float32, unit rows, C-contiguous. alpha: (N,) float32 > 0. kappa: (N,) float32 in
    `kappa_range`. sid: (N,) int64 >= 0. frequency: (N,) float64 >= 0. age: (N,) int64 >= 0.
    The constructor takes the arrays as they are; `validate` checks them, and `save` and `load`
    call it.
    """

    mu: Float32Array
    alpha: Float32Array
    kappa: Float32Array
    sid: Int64Array
    frequency: Float64Array
    age: Int64Array
    kappa_range: tuple[float, float] = KAPPA_RANGE
    history: History | None = field(default=None)

    @classmethod
    def from_directions(
        cls,
        mu: ArrayLike,
        *,
        alpha: ArrayLike = 1.0,
        kappa: ArrayLike = 1.0,
        sid: ArrayLike | None = None,
        frequency: ArrayLike = 0.0,
        age: ArrayLike = 0,
        kappa_range: tuple[float, float] = KAPPA_RANGE,
        history: History | None = None,
    ) -> "SplatStore":
        """Splats at mu / |mu|, with scalars spread over all of them; sid defaults to 0..N-1.

        mu: (N, d) non-zero rows; the others: scalars or (N,). Arrays are converted to the types of
        the store. Raises `StoreError` where `validate` would, `ConfigError` for a zero row.
        """
        directions = np.asarray(mu)
        if directions.ndim != 2:
            raise StoreError(f"mu has shape {directions.shape}: give one direction a row, (N, d)")
        count = len(directions)

        def spread(name: str, values: ArrayLike, dtype: type) -> NDArray[Any]:
            array = np.asarray(values)
            if array.shape not in ((), (count,)):
                raise StoreError(f"{name} has shape {array.shape}: give a scalar or {(count,)}")
            return np.array(np.broadcast_to(array, (count,)), dtype=dtype, order="C")

        store = cls(
            mu=np.ascontiguousarray(projx(directions), dtype=np.float32),
            alpha=spread("alpha", alpha, np.float32),
            kappa=spread("kappa", kappa, np.float32),
            sid=spread("sid", np.arange(count) if sid is None else sid, np.int64),
            frequency=spread("frequency", frequency, np.float64),
            age=spread("age", age, np.int64),
            kappa_range=kappa_range,
            history=history,
        )
        store.validate()
        return store

    def __len__(self) -> int:
        return len(self.mu)

    @property
    def dimension(self) -> int:
        """The dimension d of the space the unit vectors live in."""
        return int(self.mu.shape[1])

    @property
    def columns(self) -> SplatColumns:
        """All but the directions, in the same memory."""
        shared = {name: getattr(self, name) for name in COLUMN_TYPES}
        return SplatColumns(**shared, width=self.dimension, kappa_range=self.kappa_range)

    def validate(self) -> None:
        """Raise `StoreError`, naming the array and the first bad row, unless all invariants hold.

        Checked: types, shapes, d >= 8, at least one splat, finite values, unit rows of mu, positive
        alpha, kappa within `kappa_range`, non-negative sid, frequency and age, and the history.
        """
        if np.ndim(self.mu) != 2:
            raise StoreError(f"mu has shape {np.shape(self.mu)}: give one direction a row, (N, d)")
        dimension = self.mu.shape[1]
        self.columns.validate(len(self.mu))
        _check_array("mu", self.mu, np.float32, self.mu.shape)
        check_directions(self.mu)
        if self.history is not None:
            self.history.validate(dimension)

    def save(self, path: str | Path) -> None:
        """Write the store to an HDF5 file, atomically: the old file or the new one, never half.

        Raises `StoreError` if the store is invalid or the file cannot be written. The format is
        described in `ebm_wgpu.splats.hdf5`.
        """
        from ebm_wgpu.splats.hdf5 import write_store

        write_store(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> "SplatStore":
        """Read a store written by `save`.

        Raises `StoreError` if the file is missing, truncated, altered by as much as a bit, of
        another version, or holds invalid values.
        """
        from ebm_wgpu.splats.hdf5 import read_store

        return read_store(Path(path))


def _check_array(name: str, array: object, dtype: type, shape: tuple[int, ...]) -> None:
    expected = f"expected {np.dtype(dtype)} {shape}"
    if not isinstance(array, np.ndarray):
        raise StoreError(f"{name} is a {type(array).__name__}: {expected} array")
    if array.dtype != dtype or array.shape != shape:
        raise StoreError(f"{name} is {array.dtype} {array.shape}: {expected}")
    if not array.flags.c_contiguous:
        raise StoreError(f"{name} is not C-contiguous: pass np.ascontiguousarray({name})")


def _check_rows(name: str, good: NDArray[np.bool_], values: NDArray[Any], what: str) -> None:
    if not good.all():
        row = int(np.argmin(good))
        raise StoreError(f"{name} of row {row} is {values[row]!s}: {what}")


def check_directions(rows: Float32Array, first: int = 0) -> None:
    """Raise `StoreError`, naming the first bad row, unless all rows of mu are finite unit vectors.

    rows: (n, d) of a matrix of directions, from row `first` of it on.
    """
    _check_unit("mu", rows, first)


def _check_unit(name: str, rows: Float32Array, first: int = 0) -> None:
    # One pass over the rows: a NaN or an infinity does not sum up to 1 either.
    squared = np.einsum("nd,nd->n", rows, rows)
    unit = np.abs(squared - 1) <= UNIT_TOLERANCE
    if not unit.all():
        bad = int(np.argmin(unit))
        row = first + bad
        if not np.isfinite(rows[bad]).all():
            raise StoreError(f"{name} of row {row} holds NaN or infinity")
        raise StoreError(f"{name} of row {row} has length {np.sqrt(squared[bad]):.6g}: expected 1")
