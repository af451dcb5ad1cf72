"""Energies against loops over one position at a time, causality, and the cache."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.energy_blocks import EnergyBackbone, EnergyBlock
from ebm_wgpu.models.energy_transformer_config import EnergyTransformerConfig, Variant

CONFIG = EnergyTransformerConfig(
    n_layers=2, n_heads=2, dim=8, ffn_ratio=1.5, max_length=12, max_steps=3
)
VARIANTS: list[Variant] = ["default", "adaln", "time"]
Array = NDArray[np.float64]


def make(variant: Variant, seed: int = 0) -> EnergyBackbone:
    """A float64 backbone with weights large enough for attention to matter."""
    backbone = EnergyBackbone(dataclasses.replace(CONFIG, variant=variant)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.normal_(0.0, 0.6, generator=generator)
    return backbone


def embeddings(rows: int, length: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, length, CONFIG.dim, generator=generator, dtype=torch.float64)


def rms_norm(x: Array, gain: Array) -> Array:
    return x / np.sqrt((x * x).mean() + np.finfo(np.float64).eps) * gain


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def turned(x: Array, position: int) -> Array:
    """Rotary turn of one head at a position, pair by pair."""
    half, out = len(x) // 2, np.empty_like(x)
    for i in range(half):
        # The table is rounded to float32.
        angle = position * 10000.0 ** (-2 * i / len(x))
        cos, sin = float(np.float32(np.cos(angle))), float(np.float32(np.sin(angle)))
        out[i] = x[i] * cos - x[half + i] * sin
        out[half + i] = x[i] * sin + x[half + i] * cos
    return out


class Node:
    """One embedding on its way through the blocks: who it attends to, and where it stands."""

    def __init__(self, x: Array, position: int, sees: list[Node], modulated: bool = False) -> None:
        self.x, self.position, self.modulated = x, position, modulated
        self.sees = [*sees, self]


def numpy_of(tensor: Tensor) -> Array:
    return tensor.detach().numpy()


def pass_block(block: EnergyBlock, nodes: list[Node], step: Array | None) -> None:
    """Move all nodes through a block, one query and one head at a time."""
    change = [np.zeros(CONFIG.dim)] * 6
    if block.modulation is not None and step is not None:
        inner = block.modulation.inner
        out = numpy_of(inner.weight) @ silu(step) + numpy_of(inner.bias)
        change = list(out.reshape(6, CONFIG.dim))
    queries, keys, values = {}, {}, {}
    for node in nodes:
        inner = rms_norm(node.x, numpy_of(block.attention_norm.weight))
        if node.modulated:
            inner = inner * (1 + change[1]) + change[0]
        whole = numpy_of(block.attention.inputs.weight) @ inner
        query, key, value = whole.reshape(3, CONFIG.n_heads, -1)
        queries[node] = [turned(head, node.position) for head in query]
        keys[node] = [turned(head, node.position) for head in key]
        values[node] = list(value)
    moved = {}
    for node in nodes:
        heads = []
        for head in range(CONFIG.n_heads):
            query = queries[node][head]
            scores = np.array([query @ keys[seen][head] for seen in node.sees])
            weights = np.exp(scores / np.sqrt(len(query)))
            weights /= weights.sum()
            heads.append(sum(w * values[s][head] for w, s in zip(weights, node.sees, strict=True)))
        mixed = numpy_of(block.attention.output.weight) @ np.concatenate(heads)
        x = node.x + (change[2] * mixed if node.modulated else mixed)
        inner = rms_norm(x, numpy_of(block.feed_forward_norm.weight))
        if node.modulated:
            inner = inner * (1 + change[4]) + change[3]
        gate, up = np.split(numpy_of(block.feed_forward.inputs.weight) @ inner, 2)
        out = numpy_of(block.feed_forward.output.weight) @ (silu(gate) * up)
        moved[node] = x + (change[5] * out if node.modulated else out)
    for node in nodes:
        node.x = moved[node]


def reference_energy(
    backbone: EnergyBackbone, real: Array, predicted: Array, place: int, step: int
) -> float:
    """Energy of one prediction after real[: place + 1], built from its own graph of nodes."""
    variant = backbone.config.variant
    embedding = None if backbone.steps is None else numpy_of(backbone.steps.weight)[step]
    text: list[Node] = []
    for position in range(place + 1):
        text.append(Node(real[position], position, list(text)))
    before = []
    if variant == "time" and embedding is not None:
        before = [Node(embedding, -1, [])]
    guess = Node(predicted, place + 1, [*before, *text], modulated=variant == "adaln")
    for block in backbone.blocks:
        assert isinstance(block, EnergyBlock)
        pass_block(block, [*before, *text, guess], embedding)
    x = rms_norm(guess.x, numpy_of(backbone.norm.weight))
    if backbone.last_modulation is not None and embedding is not None:
        inner = backbone.last_modulation.inner
        shift, scale = np.split(numpy_of(inner.weight) @ silu(embedding) + numpy_of(inner.bias), 2)
        x = x * (1 + scale) + shift
    return float(numpy_of(backbone.head.weight)[0] @ x)


def energies(backbone: EnergyBackbone, real: Tensor, predicted: Tensor, step: int = 0) -> Tensor:
    keys, values = backbone.read(real)
    return backbone.energies(predicted, backbone.part(keys, values, 0, real.shape[1]), step)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("step", [0, 2])
def test_energies_are_those_of_the_naive_reference(variant: Variant, step: int) -> None:
    backbone, real, predicted = make(variant), embeddings(2, 4), embeddings(2, 4, seed=2)
    found = energies(backbone, real, predicted, step)
    for row in range(2):
        for place in range(4):
            expected = reference_energy(
                backbone, real[row].numpy(), predicted[row, place].numpy(), place, step
            )
            assert found[row, place].item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_later_token_or_another_prediction_changes_nothing(variant: Variant) -> None:
    backbone, real, predicted = make(variant), embeddings(1, 5), embeddings(1, 5, seed=2)
    before = energies(backbone, real, predicted)
    for place in range(5):
        other = real.clone()
        other[0, place] += 1
        changed = energies(backbone, other, predicted) != before
        assert changed[0].tolist() == [p >= place for p in range(5)]
        other = predicted.clone()
        other[0, place] += 1
        changed = energies(backbone, real, other) != before
        assert changed[0].tolist() == [p == place for p in range(5)]


@pytest.mark.parametrize("variant", ["adaln", "time"])
def test_steps_are_told_apart_up_to_the_last_one(variant: Variant) -> None:
    backbone, real, predicted = make(variant), embeddings(1, 3), embeddings(1, 3, seed=2)
    found = [energies(backbone, real, predicted, step) for step in range(5)]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])
    assert torch.equal(found[2], found[3])
    assert torch.equal(found[2], found[4])


def test_adaptive_norms_start_as_none() -> None:
    backbone = EnergyBackbone(dataclasses.replace(CONFIG, variant="adaln")).double()
    backbone.reset(torch.Generator().manual_seed(0))
    predicted = embeddings(1, 3, seed=2)
    found = energies(backbone, embeddings(1, 3), predicted, 1)
    plain = backbone.head(backbone.norm(predicted)).squeeze(-1)
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_part_of_the_positions_has_the_energies_it_has_in_the_whole(variant: Variant) -> None:
    backbone, real, predicted = make(variant), embeddings(2, 6), embeddings(2, 6, seed=2)
    whole = energies(backbone, real, predicted, 1)
    keys, values = backbone.read(real)
    for start, stop in ((0, 2), (2, 5), (5, 6)):
        part = backbone.part(keys, values, start, stop)
        found = backbone.energies(predicted[:, start:stop], part, 1)
        torch.testing.assert_close(found, whole[:, start:stop], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_cache_of_texts_of_different_length(variant: Variant) -> None:
    backbone, real, predicted = make(variant), embeddings(2, 7), embeddings(2, 7, seed=2)
    whole = energies(backbone, real, predicted, 1)
    cache = backbone.start_cache(2)
    lengths = torch.zeros(2, dtype=torch.int64)
    for counts in ([3, 1], [1, 1], [2, 3]):
        count = torch.tensor(counts)
        new = torch.full((2, max(counts), CONFIG.dim), 9.0, dtype=torch.float64)
        for row in range(2):
            start = int(lengths[row])
            new[row, : counts[row]] = real[row, start : start + counts[row]]
        backbone.read_cached(new, cache, count)
        lengths += count
        last = lengths - 1
        found = backbone.energies(
            predicted[torch.arange(2), last][:, None], backbone.cached_part(cache), 1
        )
        torch.testing.assert_close(found[:, 0], whole[torch.arange(2), last])


def test_a_text_that_is_too_long_is_refused() -> None:
    backbone = make("default")
    with pytest.raises(ConfigError, match=r"13 tokens of input exceed ebt\.max_length=12"):
        backbone.read(embeddings(1, 13))
    cache = backbone.start_cache(1)
    backbone.read_cached(embeddings(1, 12), cache, torch.tensor([12]))
    with pytest.raises(ConfigError, match=r"13 tokens"):
        backbone.read_cached(embeddings(1, 1), cache, torch.tensor([1]))
    assert cache.lengths.tolist() == [12]
