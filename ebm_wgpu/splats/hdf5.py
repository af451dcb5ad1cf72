"""The splats.h5 format: how a `SplatStore` lies on disk.

    /          no datasets
    /splats    mu (N,d) f32 in chunks of rows; alpha, kappa, log_weight (N,) f32; sid, age (N,) i64;
               frequency (N,) f64
    /history   latents (H,d) f32, energies (H,) f32, tokens (H,) i64; only if there is a history

Every group carries the attributes encoding-type, encoding-version, dimension, kappa-range,
sign-convention and units. log_weight is derived from the rest, for readers that have no Bessel
function; it is checked on reading. Numbers are little-endian, texts are ASCII of fixed length.

Every dataset has Fletcher-32 checksums, and the file uses the HDF5 1.10 layout, whose metadata is
checksummed too. A checksum can be rewritten along with an edit, so the root attribute sha256 also
holds a digest of the content, in hexadecimal: for /, /splats and /history in this order, first each
attribute except sha256, then each dataset, both in the order of their names; of each the UTF-8
text "group|name|type|shape|" (NumPy's names, as in "splats|mu|<f4|(3, 8)|") and then its bytes in C
order. A reader that finds another digest, or an object not named here, refuses the file.

Directions are written and digested in blocks of rows, so that a file may be larger than memory;
`ebm_wgpu.splats.splat_file` reads one that way.
"""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ebm_wgpu.errors import StoreError
from ebm_wgpu.files import replacing, require_space
from ebm_wgpu.splats.store import (
    COLUMN_TYPES,
    Float32Array,
    History,
    SplatColumns,
    SplatStore,
    check_directions,
)

ENCODING_VERSION = "1"
SIGN_CONVENTION = (
    "energy falls towards a splat: E(x) = -log sum_k w_k exp(a_k (mu_k.x - 1)), "
    "a_k = (d-1) kappa_k, log_weight = log w_k = log pi_k + a_k - log Z0(a_k)"
)
BLOCK_BYTES = 1 << 24
"""About how much of an array is held at a time where it need not be held whole."""

_CHUNK_BYTES = 1 << 20
_METADATA_BYTES = 1 << 16
_LOG_WEIGHT_TOLERANCE = 1e-5


class _GroupSpec(NamedTuple):
    """What a group must hold: datasets are named with their type and whether rows are vectors."""

    encoding_type: str
    units: str
    datasets: dict[str, tuple[str, bool]]


class Group(NamedTuple):
    """What a group does hold; arrays are in memory, or datasets of an open file."""

    attributes: dict[str, Any]
    arrays: dict[str, Any]


_GROUPS = {
    "/": _GroupSpec(
        "ebm-wgpu-splats",
        "directions: unit vectors; kappa: per degree of freedom, a = (d-1) kappa; energy: nats",
        {},
    ),
    "splats": _GroupSpec(
        "splats",
        "mu: unit vectors; alpha: relative weight; kappa: per degree of freedom; "
        "log_weight: nats; sid: token id; frequency: share of uses; age: steps",
        {
            "mu": ("<f4", True),
            "alpha": ("<f4", False),
            "kappa": ("<f4", False),
            "log_weight": ("<f4", False),
            "sid": ("<i8", False),
            "frequency": ("<f8", False),
            "age": ("<i8", False),
        },
    ),
    "history": _GroupSpec(
        "history",
        "latents: unit vectors; energies: nats; tokens: token id",
        {"latents": ("<f4", True), "energies": ("<f4", False), "tokens": ("<i8", False)},
    ),
}


def write_store(store: SplatStore, path: Path) -> None:
    """Write the store to a temporary file in the same folder, sync it, and rename it to `path`.

    Raises `StoreError` if the store is invalid or the file cannot be written; the file that was
    at `path` is then as it was.
    """
    store.validate()
    write_rows(path, store.columns, [store.mu], store.history)


def write_rows(
    path: Path,
    columns: SplatColumns,
    blocks: Iterable[Float32Array],
    history: History | None = None,
) -> None:
    """Write a store whose directions come in blocks of rows, (n, d) each, N rows in all.

    The file is the one that `write_store` writes, to the bit, and appears as a whole like it. No
    more than a block or two are in memory at a time. Raises as `write_store`.
    """
    columns.validate()
    if history is not None:
        history.validate(columns.dimension)
    try:
        # The HDF5 library may crash where the disk fills up while it closes a file.
        require_space(path.parent, _file_size(columns, history))
        with replacing(path) as temporary:
            _write_file(temporary, columns, blocks, history)
    except (OSError, RuntimeError) as error:
        raise StoreError(f"{path}: cannot write: {_one_line(error)}") from error


def read_store(path: Path) -> SplatStore:
    """Read and check the file at `path`.

    Raises `StoreError`, one line naming the file and what is wrong with it, whatever the damage.
    """
    with reading(path), h5py.File(path, "r") as file:
        groups, digest = open_groups(file, path.stat().st_size)
        held = {
            name: Group(group.attributes, {key: load(node) for key, node in group.arrays.items()})
            for name, group in groups.items()
        }
        columns = to_columns(held)
        store = SplatStore(
            held["splats"].arrays["mu"],
            **{name: getattr(columns, name) for name in COLUMN_TYPES},
            kappa_range=columns.kappa_range,
            history=to_history(held),
        )
        store.validate()
        check_log_weight(columns, held["splats"].arrays["log_weight"])
        if digest != content_digest(held):
            raise StoreError("content differs from its sha256 digest: restore it from a copy")
    return store


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while `path` is read into a `StoreError` that names it."""
    if not path.is_file():
        raise StoreError(f"{path}: no such splat file: check the path, or train a model first")
    try:
        yield
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from error
    # A damaged file can make the HDF5 library fail in any way it has; all mean the same here.
    except Exception as error:
        raise StoreError(
            f"{path}: damaged or not a splat file ({_one_line(error)}): restore it from a copy"
        ) from error


def row_blocks(array: Any) -> Iterator[tuple[int, NDArray[Any]]]:
    """An array, or a dataset of an open file, in blocks of whole chunks: first row, and rows."""
    chunk = getattr(array, "chunks", None) or (1,)
    row_bytes = array.dtype.itemsize * int(np.prod(array.shape[1:]))
    rows = max(1, BLOCK_BYTES // (row_bytes * chunk[0])) * chunk[0]
    for first in range(0, len(array), rows):
        yield first, load(array, slice(first, first + rows))


def load(array: Any, rows: slice = slice(None)) -> NDArray[Any]:
    """Rows of an array or a dataset, in the byte order of this machine."""
    values: NDArray[Any] = array[rows]
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _attributes(group: str, columns: SplatColumns) -> dict[str, Any]:
    return {
        "encoding-type": np.bytes_(_GROUPS[group].encoding_type),
        "encoding-version": np.bytes_(ENCODING_VERSION),
        "dimension": np.int64(columns.dimension),
        "kappa-range": np.array(columns.kappa_range, np.float64),
        "sign-convention": np.bytes_(SIGN_CONVENTION),
        "units": np.bytes_(_GROUPS[group].units),
    }


def _write_file(
    path: Path, columns: SplatColumns, blocks: Iterable[Float32Array], history: History | None
) -> None:
    arrays: dict[str, dict[str, Any]] = {"/": {}, "splats": {}}
    arrays["splats"] = {name: getattr(columns, name) for name in COLUMN_TYPES}
    arrays["splats"]["log_weight"] = columns.log_weight_f32
    if history is not None:
        arrays["history"] = {name: getattr(history, name) for name in _GROUPS["history"].datasets}
    with h5py.File(path, "x", libver=("v110", "v110")) as file:
        for name, held in arrays.items():
            node = file.require_group(name)
            for key, value in _attributes(name, columns).items():
                node.attrs.create(key, value)
            for key, (dtype, _) in _GROUPS[name].datasets.items():
                shape = (len(columns), columns.dimension) if key == "mu" else held[key].shape
                dataset = _create_dataset(node, key, dtype, shape)
                if key == "mu":
                    _write_blocks(dataset, blocks)
                    held["mu"] = dataset
                else:
                    dataset[...] = held[key]
        groups = {name: Group(_attributes(name, columns), arrays[name]) for name in arrays}
        file.attrs.create("sha256", np.bytes_(content_digest(groups)))


def _file_size(columns: SplatColumns, history: History | None) -> int:
    """Bytes that a file takes at most: all chunks of all datasets, and what describes them."""
    rows = {"splats": len(columns), "history": 0 if history is None else len(history.tokens)}
    size = _METADATA_BYTES
    for name, count in rows.items():
        for dtype, vectors in _GROUPS[name].datasets.values():
            shape = (count, columns.dimension) if vectors else (count,)
            chunk = _chunk_rows(dtype, shape)
            row_bytes = np.dtype(dtype).itemsize * math.prod(shape[1:])
            size += -(-count // chunk) * chunk * row_bytes
    return size


def _chunk_rows(dtype: str, shape: tuple[int, ...]) -> int:
    row_bytes = np.dtype(dtype).itemsize * math.prod(shape[1:])
    return max(1, min(shape[0], _CHUNK_BYTES // row_bytes))


def _create_dataset(node: h5py.Group, key: str, dtype: str, shape: tuple[int, ...]) -> h5py.Dataset:
    return node.create_dataset(
        key,
        shape,
        dtype,
        chunks=(_chunk_rows(dtype, shape), *shape[1:]),
        maxshape=(None, *shape[1:]),
        fletcher32=True,
    )


def _write_blocks(dataset: h5py.Dataset, blocks: Iterable[Float32Array]) -> None:
    """Fill the dataset from blocks of any sizes, which must be unit rows and as many as it has."""
    count, dimension = dataset.shape
    written = 0
    for block in blocks:
        if block.ndim != 2 or block.shape[1] != dimension or written + len(block) > count:
            raise StoreError(
                f"a block of directions of shape {block.shape} after {written} rows: "
                f"give ({count}, {dimension}) in all"
            )
        check_directions(block, written)
        dataset[written : written + len(block)] = block
        written += len(block)
    if written < count:
        raise StoreError(f"mu has {written} rows for {count} splats: give a direction for each")


def content_digest(
    groups: dict[str, Group], on_mu: Callable[[int, Float32Array], None] | None = None
) -> str:
    """SHA-256 over all attributes and arrays, in the order the module's docstring fixes.

    on_mu is shown the directions as they pass by: first row, and rows.
    """
    digest = hashlib.sha256()
    for name in [name for name in _GROUPS if name in groups]:
        attributes, arrays = groups[name]
        for key in sorted(attributes):
            array = np.asarray(attributes[key])
            _add_header(digest, name, key, array)
            _add_values(digest, array)
        for key in sorted(arrays):
            _add_header(digest, name, key, arrays[key])
            for first, block in row_blocks(arrays[key]):
                if key == "mu" and on_mu is not None:
                    on_mu(first, block)
                _add_values(digest, block)
    return digest.hexdigest()


def _add_header(digest: Any, group: str, key: str, array: Any) -> None:
    dtype = array.dtype.newbyteorder("<").str
    digest.update(f"{group}|{key}|{dtype}|{tuple(array.shape)}|".encode())


def _add_values(digest: Any, array: NDArray[Any]) -> None:
    digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def open_groups(file: h5py.File, size: int) -> tuple[dict[str, Group], str]:
    """All groups of the file, with names, types and shapes checked, and the stored digest.

    Arrays stay in the file; `size` is its number of bytes.
    """
    _expect_text(file, "encoding-type", _GROUPS["/"].encoding_type)
    _expect_text(file, "encoding-version", ENCODING_VERSION)
    if "splats" not in file:
        raise StoreError("group /splats is missing: restore the file from a copy")
    unknown = set(file) - set(_GROUPS)
    if unknown:
        raise StoreError(f"unknown object /{min(unknown)}: files of this format do not have it")
    digest = _text(file, "sha256")
    dimension = int(file.attrs["dimension"])
    groups = {}
    for name in ["/", *file]:
        node, spec = file[name], _GROUPS[name]
        _expect_text(node, "encoding-type", spec.encoding_type)
        _expect_text(node, "encoding-version", ENCODING_VERSION)
        _expect_text(node, "sign-convention", SIGN_CONVENTION)
        _expect_text(node, "units", spec.units)
        attributes = {key: node.attrs[key] for key in node.attrs if key != "sha256"}
        if attributes["dimension"] != dimension:
            raise StoreError(f"group {node.name} has another dimension than the file's {dimension}")
        if name != "/":
            _expect_names(node, set(node), set(spec.datasets))
        groups[name] = Group(
            attributes,
            {
                key: _check_dataset(node[key], dtype, dimension if vectors else None, size)
                for key, (dtype, vectors) in spec.datasets.items()
            },
        )
    return groups, digest


def _check_dataset(node: Any, dtype: str, dimension: int | None, size: int) -> h5py.Dataset:
    expected = f"{np.dtype(dtype)} (rows{'' if dimension is None else f', {dimension}'})"
    if (
        not isinstance(node, h5py.Dataset)
        or node.dtype != np.dtype(dtype)
        or node.ndim != (1 if dimension is None else 2)
        or (dimension is not None and node.shape[1] != dimension)
    ):
        shape = f"{getattr(node, 'dtype', 'no dataset')} {getattr(node, 'shape', '')}"
        raise StoreError(f"{node.name} is {shape}: expected {expected}")
    # Datasets are stored whole, so a shape that does not fit in the file is a lie.
    if node.nbytes > size:
        raise StoreError(f"{node.name} claims {node.nbytes} bytes in a file of {size}: truncated")
    return node


def to_columns(groups: dict[str, Group]) -> SplatColumns:
    """All of the splats but their directions and the derived log_weight, not yet validated."""
    splats = groups["splats"].arrays
    low, high = groups["/"].attributes["kappa-range"]
    for name, group in groups.items():
        if tuple(group.attributes["kappa-range"]) != (low, high):
            raise StoreError(f"group {name} has another kappa-range than the file's {low}, {high}")
    return SplatColumns(
        **{name: load(splats[name]) for name in COLUMN_TYPES},
        width=int(splats["mu"].shape[1]),
        kappa_range=(float(low), float(high)),
    )


def to_history(groups: dict[str, Group]) -> History | None:
    """The history of the file, if it has one, not yet validated."""
    if "history" not in groups:
        return None
    return History(**{key: load(node) for key, node in groups["history"].arrays.items()})


def check_log_weight(columns: SplatColumns, stored: NDArray[Any]) -> None:
    """Raise `StoreError`, naming the first bad row, unless `stored` is the columns' log_weight."""
    derived = columns.log_weight
    if stored.shape != derived.shape:
        raise StoreError(f"log_weight has {len(stored)} rows for {len(derived)} splats")
    good = np.abs(stored - derived) <= _LOG_WEIGHT_TOLERANCE * (1 + np.abs(derived))
    if not good.all():
        row = int(np.argmin(good))
        raise StoreError(
            f"log_weight of row {row} is {stored[row]:.6g} but alpha and kappa give "
            f"{derived[row]:.6g}: one of them was altered"
        )


def _expect_names(node: h5py.Group, found: set[str], expected: set[str]) -> None:
    for problem, names in (("missing", expected - found), ("unknown", found - expected)):
        if names:
            raise StoreError(f"dataset {node.name}/{min(names)} is {problem}")


def _expect_text(node: h5py.Group, name: str, expected: str) -> None:
    found = _text(node, name)
    if found != expected:
        raise StoreError(
            f"attribute {name} of {node.name} is {found!r}, this program reads {expected!r}: "
            "use the version that wrote the file"
        )


def _text(node: h5py.Group, name: str) -> str:
    if name not in node.attrs:
        raise StoreError(f"attribute {name} of {node.name} is missing: not an ebm-wgpu splat file")
    value = node.attrs[name]
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).strip("'") or type(error).__name__
