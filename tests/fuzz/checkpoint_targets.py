"""The loaders of checkpoints under fuzz."""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
from pathlib import Path
from typing import Any, ClassVar

import torch
from mutations import dumps, mutate_bytes, mutate_json, mutate_json_text
from numpy.random import Generator
from target import Target

from ebm_wgpu.files import json_digest
from ebm_wgpu.training.checkpoints import (
    MANIFEST_FILE,
    TRAINER_FILE,
    WEIGHTS_FILE,
    read_checkpoint,
    write_checkpoint,
)


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
