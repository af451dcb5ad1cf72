"""Texts as latents: closed forms of the energy, batches, energies token by token, neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebm_wgpu.config import EnergyConfig, ModelConfig
from ebm_wgpu.embedding import TextEmbedder, corpus_lines, nearest_texts
from ebm_wgpu.energy import Energy
from ebm_wgpu.errors import ConfigError, DataError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.splat_lm import SplatLM
from ebm_wgpu.models.transformer_config import TransformerConfig
from ebm_wgpu.sphere import projx, random_uniform
from ebm_wgpu.text.tokenizers import BpeTokenizer

CONTEXT = 12
TEMPERATURE = 1.25
CORPUS = "the cat sat on the mat . the dog ran to the river naïve 漢字 . " * 30
TEXTS = ("the cat sat", "", "a dog", "the river ran to the mat on the cat . the dog sat", "漢")


@pytest.fixture(scope="module")
def embedder(numba_device: KernelDevice) -> TextEmbedder:
    """An untrained model away from its symmetric start, and a tokenizer that splits characters."""
    tokenizer = BpeTokenizer.train(CORPUS, 280)
    config = ModelConfig(dim=8, n_splats=300, n_experts=2, n_active=1, expert_hidden=8)
    energy = EnergyConfig(temperature=TEMPERATURE)
    model = SplatLM(config, energy, tokenizer.vocab_size, numba_device)
    ids = tokenizer.encode(CORPUS)
    model.initialize(ids, np.bincount(ids, minlength=tokenizer.vocab_size), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "mu":
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return TextEmbedder(model.eval(), tokenizer, numba_device, CONTEXT)


@pytest.fixture(scope="module")
def energy(embedder: TextEmbedder, numba_device: KernelDevice) -> Energy:
    config = EnergyConfig(temperature=TEMPERATURE)
    return Energy.from_config(embedder.model.to_store(), numba_device, config)


def test_latents_are_the_closed_forms_of_the_energy(embedder: TextEmbedder, energy: Energy) -> None:
    latents = embedder.embed(TEXTS)
    tilt = TEMPERATURE * latents.tilt
    assert np.allclose(latents.mean, energy.mean(tilt), atol=1e-5)
    assert np.allclose(latents.log_partition, energy.log_partition(tilt), atol=1e-4)
    assert (np.linalg.norm(latents.mean, axis=1) < 1).all()
    assert np.allclose(np.linalg.norm(latents.direction, axis=1), 1, atol=1e-6)
    p = embedder.posterior(latents.tilt[3])
    assert np.allclose(p, energy.posterior(tilt[3])[0], atol=1e-6)
    assert p.sum() == pytest.approx(1, abs=1e-5)
    assert np.allclose(embedder.base_point(), projx(energy.mean()[0]), atol=1e-5)


def test_batches_of_texts_are_the_texts_one_by_one(
    embedder: TextEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = np.concatenate([embedder.embed([text]).mean for text in TEXTS])
    monkeypatch.setattr("ebm_wgpu.embedding._BATCH_TOKENS", 20)
    told: list[int] = []
    assert np.allclose(embedder.embed(TEXTS, told.append).mean, alone, atol=1e-5)
    assert sum(told) == len(TEXTS)
    assert 1 < len(told) < len(TEXTS)
    assert len({tuple(np.round(row, 4)) for row in alone}) == len(TEXTS)


def test_the_end_of_a_long_text_counts_and_an_empty_one_starts_a_line(
    embedder: TextEmbedder,
) -> None:
    tokenizer = embedder.tokenizer
    latents = embedder.embed(TEXTS)
    ids = tokenizer.encode(TEXTS[3])
    assert len(ids) > CONTEXT
    assert latents.tokens[3] == len(ids)
    assert latents.tokens_read.tolist() == [*np.minimum(latents.tokens, CONTEXT)]
    end = tokenizer.decode(ids[-CONTEXT:])
    assert np.allclose(embedder.embed([end]).mean[0], latents.mean[3], atol=1e-5)
    start = torch.tensor([[tokenizer.start_id]])
    with torch.no_grad():
        tilt = embedder.model.features(start).h[0, 0]
    assert np.allclose(latents.tilt[1], tilt, atol=1e-6)


def test_nearest_tokens_are_those_of_highest_cosine(embedder: TextEmbedder) -> None:
    x = random_uniform(np.random.default_rng(0), 3, 8)
    found = embedder.nearest_tokens(5 * x, 4)
    with torch.no_grad():
        table = embedder.model.token_latents(torch.arange(embedder.model.vocab_size)).numpy()
    cosines = x @ table.T
    assert np.allclose(found.similarities, -np.sort(-cosines, axis=1)[:, :4], atol=1e-6)
    assert np.allclose(np.take_along_axis(cosines, found.indices, 1), found.similarities, atol=1e-6)


def test_energies_are_those_of_each_token_in_its_context(
    embedder: TextEmbedder, energy: Energy
) -> None:
    text = "the 漢 cat"
    found = embedder.energies(text)
    assert "".join(found.pieces) == text
    assert "" in found.pieces, "a character of several tokens shows only with its last"
    ids = [embedder.tokenizer.start_id, *found.tokens]
    for i, token in enumerate(found.tokens):
        read = torch.tensor([ids[: i + 1]])
        with torch.no_grad():
            tilt = TEMPERATURE * embedder.model.features(read).h[0, -1].numpy()
            x = embedder.model.token_latents(torch.tensor([token])).numpy()
            log_p = embedder.model.next_token_log_probs(read)[0, token]
        assert found.energy[i] == pytest.approx(float(energy.value(x, tilt)[0]), abs=1e-4)
        assert found.latent[i] == pytest.approx(-float(energy.log_density(x, tilt)[0]), abs=1e-4)
        assert found.surprise[i] == pytest.approx(-float(log_p), abs=1e-4)


@pytest.mark.parametrize("text", ["", "the cat " * 20])
def test_texts_of_no_or_too_many_tokens_have_no_energies(embedder: TextEmbedder, text: str) -> None:
    with pytest.raises(DataError, match=rf"tokens: give 1 to {CONTEXT}"):
        embedder.energies(text)


def test_models_without_splats_are_refused(
    embedder: TextEmbedder, numba_device: KernelDevice
) -> None:
    model = CausalTransformer(TransformerConfig(dim=16, n_layers=1, n_heads=2, max_length=8), 9)
    with pytest.raises(ConfigError, match=r"CausalTransformer has no splats.*model\.family=splat"):
        TextEmbedder(model, embedder.tokenizer, numba_device, CONTEXT)


def test_nearest_texts_are_exact_and_as_many_as_there_are() -> None:
    rng = np.random.default_rng(4)
    rows, queries = rng.standard_normal((7, 10)), rng.standard_normal((2, 10))
    found = nearest_texts(rows, queries, 99)
    cosines = projx(queries) @ projx(rows).T
    assert np.array_equal(found.indices, np.argsort(-cosines, axis=1))
    assert np.allclose(found.similarities, -np.sort(-cosines, axis=1), atol=1e-6)


def test_lines_of_a_corpus_are_joined_and_counted() -> None:
    pieces = ["one ", "line\n", None, "two\n", None, "three\n", None]
    assert corpus_lines(pieces, 2) == ["one line", "two"]
    assert corpus_lines(pieces, 9) == ["one line", "two", "three"]
    with pytest.raises(DataError, match="holds no text"):
        corpus_lines([], 5)
