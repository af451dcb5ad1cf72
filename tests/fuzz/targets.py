"""What is fuzzed: the loaders of every file of a run, each with a valid file to start from.

A target makes the n-th mutated file from a seed, loads it, and looks at what came back.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import torch
from mutations import dumps, mutate_bytes, mutate_json, mutate_json_text
from numpy.random import Generator

from ebm_wgpu.config import Config
from ebm_wgpu.diagnosis.diagnose import diagnose
from ebm_wgpu.errors import EbmError
from ebm_wgpu.files import json_digest
from ebm_wgpu.splats.splat_file import SplatFile
from ebm_wgpu.splats.store import History, SplatStore
from ebm_wgpu.text.tokenizer_base import state_fingerprint
from ebm_wgpu.text.tokenizers import load_tokenizer, make_tokenizer
from ebm_wgpu.training.checkpoints import (
    MANIFEST_FILE,
    TRAINER_FILE,
    WEIGHTS_FILE,
    read_checkpoint,
    write_checkpoint,
)
from ebm_wgpu.training.run_folder import RunFolder

TEXT = "the cat sat on the mat, and the dog sat on the cat: a café for 12 cats.\n" * 4


class SilentDamage(Exception):
    """A file whose digest nobody renewed was read as something else than it was."""


class Target(ABC):
    """A loader under test.

    Attributes:
        name: of the format.
        share: of all inputs.
    """

    name: ClassVar[str]
    share: ClassVar[float]

    def __init__(self, folder: Path) -> None:
        """Make a valid file in `folder` and remember what it is."""
        self.folder = folder
        self.signed = False

    @abstractmethod
    def write(self, rng: Generator) -> None:
        """Write a mutated file; `signed` says whether its digests were renewed."""

    @abstractmethod
    def load(self) -> Any:
        """Load it; what comes back can be compared with what a valid file gives."""


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


class CheckpointTarget(Target):
    """A file of a checkpoint."""

    file: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        weights = {
            "a": torch.arange(12, dtype=torch.float32).reshape(3, 4),
            "b": torch.arange(5),
            "c": torch.zeros(0, 2),
            "d": torch.ones(2, dtype=torch.bfloat16),
        }
        state = {
            "progress": {"step": 7, "elapsed": 1.5, "logged": {"loss": 2.0}},
            "optimizers": [{"state": {0: {"exp_avg": torch.ones(3, 4)}}, "lr": 0.1}],
            "torch_random": torch.get_rng_state()[:64],
        }
        self.path = write_checkpoint(folder, 7, None, weights, state)
        self.contents = {path.name: path.read_bytes() for path in self.path.iterdir()}
        self.valid = self.contents[self.file]
        self.expected = self.load()

    def put(self, content: bytes) -> None:
        """Write the file and a manifest that agrees with it."""
        (self.path / self.file).write_bytes(content)
        manifest = json.loads(self.contents[MANIFEST_FILE])
        del manifest["sha256"]
        manifest["files"][self.file] = {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        manifest["sha256"] = json_digest(manifest)
        (self.path / MANIFEST_FILE).write_bytes(dumps(manifest))
        self.signed = True


class Weights(CheckpointTarget):
    """weights.safetensors: bytes, and the JSON of its header, with a manifest that agrees."""

    name = file = WEIGHTS_FILE
    share = 0.15

    def write(self, rng: Generator) -> None:
        if rng.random() < 0.5:
            self.put(mutate_bytes(self.valid, rng))
            return
        length = int.from_bytes(self.valid[:8], "little")
        header = mutate_json_text(self.valid[8 : 8 + length], rng)
        size = len(header) if rng.random() < 0.9 else int(rng.integers(2**40))
        self.put(size.to_bytes(8, "little") + header + self.valid[8 + length :])

    def load(self) -> Any:
        weights = read_checkpoint(self.path).weights
        return {name: (t.shape, t.dtype, t.tolist()) for name, t in weights.items()}


class TrainerState(CheckpointTarget):
    """trainer.pt: bytes, and the pickle inside, with a manifest that agrees."""

    name = file = TRAINER_FILE
    share = 0.1

    def write(self, rng: Generator) -> None:
        kind = rng.random()
        if kind < 0.7:
            self.put(mutate_bytes(self.valid, rng))
        elif kind < 0.9:
            buffer = io.BytesIO()
            torch.save(
                [None, 1, "x", [torch.ones(2)], {1: 2}, {"progress": 5}][rng.integers(6)], buffer
            )
            self.put(buffer.getvalue())
        else:
            self.put(pickle.dumps([{"progress": {}}, math.inf, {1}][rng.integers(3)]))

    def load(self) -> Any:
        state = read_checkpoint(self.path).trainer_state()
        assert isinstance(state, dict)
        return str(state)


class Manifest(CheckpointTarget):
    """manifest.json, with and without a new digest."""

    name = file = MANIFEST_FILE
    share = 0.1

    def write(self, rng: Generator) -> None:
        self.signed = bool(rng.random() < 0.6)
        if not self.signed:
            content = mutate_json_text(self.valid, rng)
        else:
            document = json.loads(self.valid)
            del document["sha256"]
            document = mutate_json(document, rng)
            if isinstance(document, dict):
                document["sha256"] = json_digest(document)
            content = dumps(document)
        (self.path / MANIFEST_FILE).write_bytes(content)

    def load(self) -> Any:
        checkpoint = read_checkpoint(self.path)
        assert type(checkpoint.step) is int and checkpoint.step >= 0
        return checkpoint.step, sorted(checkpoint.weights)


class Tokenizer(Target):
    """tokenizer.json of each kind, with and without a new fingerprint."""

    name, share = "tokenizer.json", 0.15
    kinds = (("bpe", 280), ("char", None), ("word", None), ("gpt2", None))

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "tokenizer.json"
        self.valid = []
        for kind, size in self.kinds:
            make_tokenizer(kind, TEXT, size).save(self.path)
            self.valid.append((self.path.read_bytes(), self.load()))
        self.expected: Any = None

    def write(self, rng: Generator) -> None:
        # Building GPT-2's vocabulary takes a hundred times longer than that of the others.
        number = 3 if rng.random() < 0.002 else int(rng.integers(3))
        valid, self.expected = self.valid[number]
        self.signed = bool(rng.random() < 0.6)
        if not self.signed:
            self.path.write_bytes(mutate_json_text(valid, rng))
            return
        document = mutate_json(json.loads(valid), rng)
        if isinstance(document, dict):
            document["fingerprint"] = state_fingerprint(
                document.get("name", ""), document.get("state", {})
            )
        self.path.write_bytes(dumps(document))

    def load(self) -> Any:
        tokenizer = load_tokenizer(self.path)
        ids = tokenizer.encode(TEXT)
        tokenizer.decode(ids)
        tokenizer.decode(list(range(tokenizer.vocab_size))[-300:])
        assert 0 <= tokenizer.start_id < tokenizer.vocab_size
        assert ids.size == 0 or 0 <= ids.min() <= ids.max() < tokenizer.vocab_size
        return tokenizer.fingerprint, ids.tobytes()


class ConfigFile(Target):
    """config.json."""

    name, share = "config.json", 0.1

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.run = RunFolder(folder)
        self.valid = Config().to_json().encode()

    def write(self, rng: Generator) -> None:
        self.signed = True
        (self.folder / "config.json").write_bytes(mutate_json_text(self.valid, rng))

    def load(self) -> Any:
        return self.run.read_config().validate().to_json()


class Metrics(Target):
    """metrics.jsonl, by way of a diagnosis, which looks at all of it."""

    name, share = "metrics.jsonl", 0.1

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.run = RunFolder(folder)
        self.run.create()
        self.run.write_config(Config())
        levels: Any = [{"kappa": 1.0, "loss": 0.5, "floor": 0.1, "explained": 0.55}]
        valid: dict[str, Any] = {
            "nll_per_token": 4.0,
            "token_perplexity": 50.0,
            "word_perplexity": 90.0,
        }
        valid |= {"bits_per_byte": 1.0, "score_matching": levels}
        self.lines = [
            {
                "step": step, "loss": 5.0 - step / 100, "token": 4.0, "energy": -step / 10,
                "grad_norm": 1.0, "lr": 0.1, "gate": 0.2, "balance": 1.0, "elapsed": step / 2,
                "splats": {"count": 40, "active": 30, "coverage": 0.9, "effective": 9.0,
                           "at_kappa_max": 0.0, "at_kappa_min": 0.0, "kappa_max": 9.0},
                "tokens_per_second": 100.0, "disk": {"free": 9, "checkpoint": 1},
                **({"valid": valid, "unigram_nll": 5.0} if step % 4 == 0 else {}),
                **({"alerts": ["energy-rising"]} if step == 9 else {}),
                **({"rollback": {"figure": "loss", "at": 7, "to": 4, "rate_scale": 0.5}}
                   if step == 11 else {}),
            }
            for step in range(24)
        ]  # fmt: skip

    def write(self, rng: Generator) -> None:
        self.signed = True
        lines = [dumps(line) for line in self.lines]
        if rng.random() < 0.8:
            for _ in range(int(rng.integers(1, 4))):
                at = int(rng.integers(len(lines)))
                lines[at] = dumps(mutate_json(self.lines[at], rng))
        content = b"\n".join(lines) + b"\n"
        if rng.random() < 0.3:
            content = mutate_json_text(lines[0], rng) + b"\n" + content
        if rng.random() < 0.3:
            content = mutate_bytes(content, rng)
        self.run.metrics_path.write_bytes(content)

    def load(self) -> Any:
        return json.dumps(diagnose(self.folder).summary(), allow_nan=False)


class Pointer(Target):
    """checkpoints/last.json and best.json."""

    name, share = "last.json", 0.05

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.run = RunFolder(folder)
        self.run.create()
        self.valid = (b'{"step": 12}\n', dumps({"step": 12, "sha256": json_digest({"step": 12})}))

    def write(self, rng: Generator) -> None:
        self.signed = True
        content = mutate_json_text(self.valid[rng.integers(2)], rng)
        (self.run.checkpoints / "last.json").write_bytes(content)

    def load(self) -> Any:
        step = self.run.pointer("last")
        assert step is None or (type(step) is int and step >= 0)
        return step


TARGETS: tuple[type[Target], ...] = (
    Splats, Weights, TrainerState, Manifest, Tokenizer, ConfigFile, Metrics, Pointer,
)  # fmt: skip


def check(target: Target) -> str:
    """Load what the target has written; "valid", or the class of the error that refused it.

    Raises:
        SilentDamage: see there.
        Exception: whatever else the loader lets out, which is a defect.
    """
    try:
        result = target.load()
    except EbmError as error:
        message = str(error)
        if not message.strip() or "\n" in message or type(error) is EbmError:
            raise AssertionError(
                f"not a one-line error of a class of its own: {message!r}"
            ) from error
        return type(error).__name__
    if not target.signed and result != target.expected:
        raise SilentDamage(f"read as {str(result)[:200]}, was {str(target.expected)[:200]}")
    return "valid"
