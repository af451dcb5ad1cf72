"""The loaders of splats under fuzz."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from mutations import mutate_bytes
from numpy.random import Generator
from target import Target

from ebm_wgpu.errors import EbmError
from ebm_wgpu.splats.splat_file import SplatFile
from ebm_wgpu.splats.store import History, SplatStore


class Splats(Target):
    """splats.h5: bytes, and datasets and attributes with and without a new digest."""

    name, share = "splats.h5", 0.25

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "splats.h5"
        rng = np.random.default_rng(0)

        def directions(rows: int) -> Any:
            x = rng.standard_normal((rows, 8))
            return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

        history = History(directions(3), np.zeros(3, np.float32), np.arange(3))
        SplatStore.from_directions(directions(12), kappa=3.0, history=history).save(self.path)
        self.valid = self.path.read_bytes()
        self.expected = self.load()

    def write(self, rng: Generator) -> None:
        self.signed = False
        if rng.random() < 0.6:
            self.path.write_bytes(mutate_bytes(self.valid, rng))
            return
        self.path.write_bytes(self.valid)
        with h5py.File(self.path, "r+") as file:
            for _ in range(int(rng.integers(1, 3))):
                self._edit(file, rng)
            if rng.random() < 0.7:
                self._sign(file)
        if rng.random() < 0.1:
            self.path.write_bytes(mutate_bytes(self.path.read_bytes(), rng))

    def _edit(self, file: Any, rng: Generator) -> None:
        groups = [name for name in ("/", "splats", "history") if name in file]
        group = file[groups[rng.integers(len(groups))]]
        values = (
            0, -1, 2**40, math.nan, np.float32(7), "", "1", "2", np.bytes_(b"\xff"), np.zeros(0),
            np.zeros((2, 2)), np.array([1.0, 50.0]), np.array([50.0, 1.0]), h5py.Empty("f4"),
        )  # fmt: skip
        names = list(group.attrs)
        if names and rng.random() < 0.35:
            name = names[rng.integers(len(names))]
            if rng.random() < 0.2:
                del group.attrs[name]
            else:
                group.attrs[name] = values[rng.integers(len(values))]
            return
        keys = list(group)
        if not keys:
            return
        key = keys[rng.integers(len(keys))]
        change = rng.random()
        if change < 0.15:
            del group[key]
        elif change < 0.25:
            group.pop(f"{key}x", None)
            group[f"{key}x"] = group[key]
        elif change < 0.3:
            group.pop(f"{key}x", None)
            group[f"{key}x"] = h5py.SoftLink(["/nowhere", "/", "/splats/mu"][rng.integers(3)])
        elif isinstance(group.get(key), h5py.Dataset):
            data = np.asarray(group[key][...])
            if data.dtype.kind in "fi" and data.ndim:
                del group[key]
                group[key] = self._altered(data, rng)

    @staticmethod
    def _altered(data: Any, rng: Generator) -> Any:
        """Another array, or the same with other values."""
        if rng.random() < 0.5 and data.size:
            flat = data.copy().reshape(-1)
            flat[rng.integers(flat.size)] = [0, -1, 1, 100][rng.integers(4)]
            if flat.dtype.kind == "f" and rng.random() < 0.4:
                flat[rng.integers(flat.size)] = [math.nan, math.inf, 1e30][rng.integers(3)]
            return flat.reshape(data.shape)
        return [
            data.astype(np.float16), data.astype("S4"), data[:0], data[:-1], data[None], data.T,
            np.float32(1), "text", h5py.Empty("f4"), data.astype(">f8"),
            np.broadcast_to(np.float32(0), (4096, 64)),
        ][rng.integers(11)]  # fmt: skip

    def _sign(self, file: Any) -> None:
        """Renew the digest, where the content still lets anybody do so."""
        digest = hashlib.sha256()
        try:
            for name in ("/", "splats", "history"):
                if name not in file:
                    continue
                node = file[name]
                attributes = {key: node.attrs[key] for key in node.attrs if key != "sha256"}
                arrays = {k: node[k][...] for k in node if isinstance(node.get(k), h5py.Dataset)}
                for values in (attributes, arrays):
                    for key in sorted(values):
                        array = np.asarray(values[key])
                        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
                        head = f"{name}|{key}|{array.dtype.str}|{array.shape}|"
                        digest.update(head.encode() + array.tobytes())
        except (TypeError, ValueError, KeyError, AttributeError):
            return
        file.attrs["sha256"] = np.bytes_(digest.hexdigest())
        self.signed = True

    def load(self) -> Any:
        errors = []
        for read in (self._in_memory, self._by_rows):
            try:
                result = read()
            except EbmError as error:
                errors.append(error)
        if errors:
            # What one way refuses the other may not have looked at; refusing is always right.
            raise errors[0]
        return result

    def _in_memory(self) -> Any:
        store = SplatStore.load(self.path)
        store.validate()
        return self._content(store)

    def _by_rows(self) -> Any:
        with SplatFile(self.path) as file:
            file.verify()
            file.history()
            mu = np.concatenate([rows for _, rows in file.blocks()])
            return mu.tobytes()

    @staticmethod
    def _content(store: SplatStore) -> Any:
        names = ("mu", "alpha", "kappa", "sid", "frequency", "age")
        return [getattr(store, name).tobytes() for name in names], store.kappa_range
