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
"""

import hashlib
import secrets
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ebm_wgpu.errors import StoreError
from ebm_wgpu.files import sync_file, sync_folder
from ebm_wgpu.splats.store import History, SplatStore

ENCODING_VERSION = "1"
SIGN_CONVENTION = (
    "energy falls towards a splat: E(x) = -log sum_k w_k exp(a_k (mu_k.x - 1)), "
    "a_k = (d-1) kappa_k, log_weight = log w_k = log pi_k + a_k - log Z0(a_k)"
)
_CHUNK_BYTES = 1 << 20
_LOG_WEIGHT_TOLERANCE = 1e-5


class _GroupSpec(NamedTuple):
    """What a group must hold: datasets are named with their type and whether rows are vectors."""

    encoding_type: str
    units: str
    datasets: dict[str, tuple[str, bool]]


class _Group(NamedTuple):
    """What a group does hold, in memory."""

    attributes: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


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
    arrays = {
        "/": {},
        "splats": {
            name: store.log_weight_f32 if name == "log_weight" else getattr(store, name)
            for name in _GROUPS["splats"].datasets
        },
    }
    if store.history is not None:
        arrays["history"] = {
            name: getattr(store.history, name) for name in _GROUPS["history"].datasets
        }
    groups = {name: _Group(_attributes(name, store), arrays[name]) for name in arrays}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        _write_file(temporary, groups)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot write: {_one_line(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_store(path: Path) -> SplatStore:
    """Read and check the file at `path`.

    Raises `StoreError`, one line naming the file and what is wrong with it, whatever the damage.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such splat file: check the path, or train a model first")
    try:
        with h5py.File(path, "r") as file:
            groups, digest = _read_file(file, path.stat().st_size)
        store = _to_store(groups)
        store.validate()
        _check_log_weight(store, groups["splats"].arrays["log_weight"])
        if digest != _digest(groups):
            raise StoreError("content differs from its sha256 digest: restore it from a copy")
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from error
    # A damaged file can make the HDF5 library fail in any way it has; all mean the same here.
    except Exception as error:
        raise StoreError(
            f"{path}: damaged or not a splat file ({_one_line(error)}): restore it from a copy"
        ) from error
    return store


def _attributes(group: str, store: SplatStore) -> dict[str, Any]:
    return {
        "encoding-type": np.bytes_(_GROUPS[group].encoding_type),
        "encoding-version": np.bytes_(ENCODING_VERSION),
        "dimension": np.int64(store.dimension),
        "kappa-range": np.array(store.kappa_range, np.float64),
        "sign-convention": np.bytes_(SIGN_CONVENTION),
        "units": np.bytes_(_GROUPS[group].units),
    }


def _write_file(path: Path, groups: dict[str, _Group]) -> None:
    with h5py.File(path, "x", libver=("v110", "v110")) as file:
        for name, group in groups.items():
            node = file.require_group(name)
            for key, value in group.attributes.items():
                node.attrs.create(key, value)
            for key, array in group.arrays.items():
                row_bytes = array.itemsize * int(np.prod(array.shape[1:]))
                rows = max(1, min(len(array), _CHUNK_BYTES // row_bytes))
                node.create_dataset(
                    key,
                    data=array,
                    dtype=_GROUPS[name].datasets[key][0],
                    chunks=(rows, *array.shape[1:]),
                    maxshape=(None, *array.shape[1:]),
                    fletcher32=True,
                )
        file.attrs.create("sha256", np.bytes_(_digest(groups)))
    sync_file(path)


def _digest(groups: dict[str, _Group]) -> str:
    """SHA-256 over all attributes and arrays, in the order the module's docstring fixes."""
    digest = hashlib.sha256()
    for name in [name for name in _GROUPS if name in groups]:
        for values in groups[name]:
            for key in sorted(values):
                array = np.asarray(values[key])
                array = array.astype(array.dtype.newbyteorder("<"), copy=False)
                digest.update(f"{name}|{key}|{array.dtype.str}|{array.shape}|".encode())
                digest.update(array.tobytes())
    return digest.hexdigest()


def _read_file(file: h5py.File, size: int) -> tuple[dict[str, _Group], str]:
    """All groups of the file, with names, types and shapes checked, and the stored digest."""
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
        groups[name] = _Group(
            attributes,
            {
                key: _read_dataset(node[key], dtype, dimension if vectors else None, size)
                for key, (dtype, vectors) in spec.datasets.items()
            },
        )
    return groups, digest


def _read_dataset(node: Any, dtype: str, dimension: int | None, size: int) -> NDArray[Any]:
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
    array: NDArray[Any] = node[...]
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _to_store(groups: dict[str, _Group]) -> SplatStore:
    splats = dict(groups["splats"].arrays)
    del splats["log_weight"]
    low, high = groups["/"].attributes["kappa-range"]
    for name, group in groups.items():
        if tuple(group.attributes["kappa-range"]) != (low, high):
            raise StoreError(f"group {name} has another kappa-range than the file's {low}, {high}")
    history = History(**groups["history"].arrays) if "history" in groups else None
    return SplatStore(**splats, kappa_range=(float(low), float(high)), history=history)


def _check_log_weight(store: SplatStore, stored: NDArray[Any]) -> None:
    derived = store.log_weight
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
