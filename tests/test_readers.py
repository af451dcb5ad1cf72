"""States of texts: each family's own, and the same for a text alone as among others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.embedding import TextEmbedder
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.nano_ebm import NanoEBM
from ebm_wgpu.models.registry import build_model
from ebm_wgpu.models.splat_lm import SplatLM
from ebm_wgpu.readers import StateReader, place_texts, reader_of
from ebm_wgpu.text.tokenizers import make_tokenizer

TOKENIZER = make_tokenizer("char", "abcdef\n")
TEXTS = ("a", "abc", "fedcba", "bb", "f")
CONTEXT = 5
SHAPE = ("transformer.dim=16", "transformer.n_layers=1", "transformer.n_heads=2")
FAMILIES = {
    "transformer": ("model.family=transformer", *SHAPE),
    "splat transformer": ("model.context=transformer", *SHAPE),
    "nano": ("model.family=nano", *SHAPE, "nano.think_steps=1"),
    "splat": (
        "model.dim=16", "model.n_splats=20", "model.n_experts=2", "model.n_active=1",
        "model.expert_hidden=8", "model.recent_window=2", "model.decay_window=3",
        "model.attention_window=4", "energy.n_neighbours=8", "sampler.list_size=16",
    ),
    "ebt": ("model.family=ebt", "ebt.dim=16", "ebt.n_layers=1", "ebt.n_heads=2"),
}  # fmt: skip


def model(name: str, device: KernelDevice) -> LanguageModel:
    small = ("data.block_size=8", "data.eval_context=8", "data.eval_stride=4")
    config = apply_overrides(Config(), [*small, *FAMILIES[name]])
    built = build_model(config, TOKENIZER.vocab_size, device)
    ids = TOKENIZER.encode("abcdef\n" * 20)
    built.initialize(ids, np.bincount(ids, minlength=TOKENIZER.vocab_size), seed=1)
    return built.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["transformer", "splat transformer", "nano", "splat"])
def test_what_is_read_is_the_score_and_the_states(name: str, numba_device: KernelDevice) -> None:
    built = model(name, numba_device)
    reader = reader_of(built)
    assert reader is not None
    assert isinstance(reader, StateReader) == (name in ("nano", "splat"))
    tokens = torch.randint(TOKENIZER.vocab_size, (3, 7), generator=torch.Generator().manual_seed(0))
    reading = reader.read(tokens[:, :-1], tokens[:, 1:])
    expected = built.token_log_probs(tokens[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(reading.log_p, expected)
    assert reading.keys.shape == reading.queries.shape == (3, 6, 16)
    if isinstance(built, NanoEBM):
        assert torch.equal(reading.keys, built.backbone(tokens[:, :-1]))
    if isinstance(built, SplatLM):
        assert torch.equal(reading.queries, built.features(tokens[:, :-1]).h)
        assert torch.equal(reading.alone, reading.log_p)


@torch.no_grad()
@pytest.mark.parametrize("name", ["transformer", "splat transformer", "nano"])
def test_texts_are_their_last_states_whatever_stands_beside_them(
    name: str, numba_device: KernelDevice
) -> None:
    built = model(name, numba_device)
    reader = reader_of(built)
    assert reader is not None
    placed = place_texts(built, TOKENIZER, TEXTS, CONTEXT)
    for text, direction in zip(TEXTS, placed.directions, strict=True):
        ids = [TOKENIZER.start_id, *TOKENIZER.encode(text)][-CONTEXT:]
        tokens = torch.tensor([ids])
        key = reader.read(tokens, torch.zeros_like(tokens)).keys[0, -1].double().numpy()
        np.testing.assert_allclose(direction, key / np.linalg.norm(key), atol=1e-5)
    mean = placed.directions.mean(0)
    np.testing.assert_allclose(placed.base, mean / np.linalg.norm(mean), atol=1e-12)


def test_splats_give_their_latents(numba_device: KernelDevice) -> None:
    built = model("splat", numba_device)
    placed = place_texts(built, TOKENIZER, TEXTS, CONTEXT)
    embedder = TextEmbedder(built, TOKENIZER, numba_device, CONTEXT)
    np.testing.assert_allclose(placed.directions, embedder.embed(TEXTS).direction, atol=1e-6)
    np.testing.assert_allclose(placed.base, embedder.base_point(), atol=1e-6)


def test_a_family_without_states_has_no_reader(numba_device: KernelDevice) -> None:
    built = model("ebt", numba_device)
    assert reader_of(built) is None
    with pytest.raises(ConfigError, match="EnergyTransformer keeps no state of a text"):
        place_texts(built, TOKENIZER, TEXTS, CONTEXT)
