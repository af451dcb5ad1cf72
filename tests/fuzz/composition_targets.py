"""The loader of learned compositions under fuzz."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from mutations import dumps, mutate_bytes, mutate_json, mutate_json_text
from numpy.random import Generator
from safetensors.torch import load, save
from target import Target
from torch import Tensor

from ebm_wgpu.models import composition
from ebm_wgpu.models.composition import CompositionNet
from ebm_wgpu.training.composition_fitting import COMPOSITION_FILE


class Composition(Target):
    """composition.safetensors: bytes, the JSON of its header, and tensors and record renewed."""

    name, share = COMPOSITION_FILE, 0.05

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / COMPOSITION_FILE
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = CompositionNet([3.0, 4.0, 0.0], hidden=2)
        net.record = {"step": 7, "checkpoint": "a" * 64, "phrase": {"chance": 0.5}}
        net.save(self.path)
        self.valid = self.path.read_bytes()
        self.expected = self.load()

    def write(self, rng: Generator) -> None:
        kind = rng.random()
        self.signed = bool(kind >= 0.7)
        if kind < 0.4:
            self.path.write_bytes(mutate_bytes(self.valid, rng))
        elif kind < 0.7:
            length = int.from_bytes(self.valid[:8], "little")
            header = mutate_json_text(self.valid[8 : 8 + length], rng)
            self.path.write_bytes(
                len(header).to_bytes(8, "little") + header + self.valid[8 + length :]
            )
        else:
            self._sign(rng)

    def _sign(self, rng: Generator) -> None:
        """Write other tensors, or another record, with a digest that agrees."""
        length = int.from_bytes(self.valid[:8], "little")
        content = json.loads(json.loads(self.valid[8 : 8 + length])["__metadata__"]["content"])
        tensors = load(self.valid)
        if rng.random() < 0.5:
            content = mutate_json(content, rng)
        else:
            name = sorted(tensors)[rng.integers(len(tensors))]
            tensors[name] = _altered(tensors[name], rng)
        metadata = {
            "content": dumps(content).decode(),
            "sha256": composition._digest(content, tensors),
        }
        self.path.write_bytes(save(tensors, metadata))

    def load(self) -> Any:
        net = CompositionNet.load(self.path)
        made = net.compose([[0.6, 0.8, 0.0]], [[0.0, 0.6, 0.8]])
        assert math.isclose(float((made**2).sum()), 1.0, rel_tol=1e-6)
        return json.dumps(net.record), made.tobytes()


def _altered(tensor: Tensor, rng: Generator) -> Tensor:
    """A tensor of another shape, type or content."""
    bad = tensor.clone().flatten()
    bad[rng.integers(bad.numel())] = float(rng.choice([math.nan, math.inf, 0.0, 7.0]))
    return [
        tensor.double(), tensor.int(), tensor.flatten()[:1].clone(), tensor[None].clone(),
        tensor[:0].clone(), bad.reshape(tensor.shape), tensor.bool(),
    ][rng.integers(7)]  # fmt: skip
