"""Writing with a memory: the probabilities of the evaluation, whatever is written side by side."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.evaluation.online import online_log_probs
from ebm_wgpu.generation.batch import model_energies
from ebm_wgpu.generation.memory import ENDLESS, RememberingModel
from ebm_wgpu.generation.sampling import SamplingSettings
from ebm_wgpu.generation.writer import TokenWriter
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.recall import Neighbours, Reading, mix
from ebm_wgpu.online_memory import fit_online
from ebm_wgpu.readers import StateReader
from tests.evaluation.test_online import CONFIG, V, each_memory, family, fixed, random_text, stream

CAPACITY = 9


def remembering(
    name: str, device: KernelDevice, supersede: bool = False, config: Config = CONFIG
) -> RememberingModel:
    """A small model that remembers its last nine states."""
    reader = family(name, device)
    model = reader.model if isinstance(reader, StateReader) else reader
    assert isinstance(model, LanguageModel)
    settings = replace(fixed(CAPACITY), supersede=supersede)
    return RememberingModel(model, reader, settings, config)


@each_memory
def test_probabilities_are_those_of_the_online_evaluation(
    name: str, supersede: bool, overrides: list[str], numba_device: KernelDevice
) -> None:
    config = apply_overrides(CONFIG, overrides)
    model = remembering(name, numba_device, supersede, config)
    # As long as a window: further on, the evaluation moves it by the stride and writing by one.
    text = random_text(16, 2)
    settings = replace(fixed(CAPACITY), supersede=supersede)
    parts = online_log_probs(model._reader, stream(text), config, settings, start_id=0)
    static, online = (torch.cat(values) for values in zip(*parts, strict=True))
    prompt = np.append(0, text)
    cache = model.start_cache(1)
    for t in range(16):
        log_probs = model.step(torch.tensor([[int(prompt[t])]]), cache)[0]
        assert float(log_probs.double().exp().sum()) == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(log_probs[prompt[t + 1]], online[t], atol=1e-5, rtol=0)
        at_once = model.next_token_log_probs(torch.from_numpy(prompt[None, : t + 1]))[0]
        torch.testing.assert_close(at_once, log_probs, atol=1e-5, rtol=0)
    assert not torch.allclose(static, online, atol=1e-2)


@torch.no_grad()
def test_what_was_read_is_remembered_before_what_is_written(numba_device: KernelDevice) -> None:
    model = remembering("transformer", numba_device)
    transformer, settings = model._model, fixed(CAPACITY)
    assert isinstance(transformer, CausalTransformer)
    text, prompt = random_text(16, 3), torch.from_numpy(random_text(3, 4))
    model.read(stream(text), start_id=0)
    found = model.next_token_log_probs(prompt[None])
    read = transformer.backbone(torch.from_numpy(np.append(0, text[:-1]))[None])[0]
    own = transformer.backbone(prompt[None])[0]
    mu = F.normalize(torch.cat([read, own]) - settings.centre, dim=1)
    # The last seven states of the text, and the two of the prompt that a token follows.
    neighbours = Neighbours(
        (mu[-1 - CAPACITY : -1] @ mu[-1])[None],
        torch.arange(CAPACITY, 0, -1).float().log()[None],
        torch.cat([torch.from_numpy(text[-7:]), prompt[1:]]),
    )
    static = transformer.next_token_log_probs(prompt[None])
    expected = mix(static, settings.gate.every_token(neighbours, V))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(found, static, atol=1e-2)


def test_texts_do_not_see_each_other(numba_device: KernelDevice) -> None:
    model = remembering("splat transformer", numba_device)
    model.read(stream(random_text(30, 5)), start_id=0)
    prompts = [random_text(count, count) for count in (1, 5, 23)]
    settings = SamplingSettings(max_tokens=25, seed=1)

    def written(texts: list[np.ndarray]) -> list[list[int]]:
        writer = TokenWriter(model, texts, settings, ENDLESS)
        tokens: list[list[int]] = [[] for _ in texts]
        while writer.going:
            for token in writer.write():
                tokens[token.text].append(token.token)
        return tokens

    together = written(prompts)
    assert together == [written([prompt])[0] for prompt in prompts]
    # One that ends early takes its memory with it.
    cache = model.start_cache(2)
    model.step(torch.tensor([[1, 2, 3], [4, 5, 6]]), cache)
    kept = cache.select(torch.tensor([1]))
    changed = model.step(torch.tensor([[7], [8]]), cache)[1]
    torch.testing.assert_close(model.step(torch.tensor([[8]]), kept)[0], changed)


def test_what_was_read_is_likelier_to_be_written(numba_device: KernelDevice) -> None:
    model = remembering("transformer", numba_device)
    heldout = stream(np.tile(random_text(40, 3), 8))
    settings = fit_online(model._reader, heldout, CONFIG, start_id=0, capacity=64)
    model = RememberingModel(model._model, model._reader, settings, CONFIG)
    known = random_text(40, 6)

    def perplexity() -> float:
        cache, nats = model.start_cache(1), 0.0
        for token, following in itertools.pairwise(known.tolist()):
            nats -= float(model.step(torch.tensor([[token]]), cache)[0, following])
        return math.exp(nats / (len(known) - 1))

    before = perplexity()
    model.read(stream(known), start_id=0)
    assert perplexity() < 0.6 * before


def test_of_a_long_text_the_end_is_read(
    numba_device: KernelDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = remembering("transformer", numba_device)
    read, sizes = model._reader.read, []

    def watched(tokens: torch.Tensor, *rest: torch.Tensor) -> Reading:
        sizes.append(tokens.numel())
        return read(tokens, *rest)

    monkeypatch.setattr(model._reader, "read", watched)
    model.read(stream(random_text(5000, 7)), start_id=0)
    assert sum(sizes) < 4 * (CAPACITY + CONFIG.data.eval_context)
    assert len(model._memory) == CAPACITY


def test_energies_are_the_models_own(numba_device: KernelDevice) -> None:
    model = remembering("splat", numba_device)
    text = random_text(40, 8)
    tokens, targets = torch.from_numpy(text[None, :-1]), torch.from_numpy(text[None, 1:])
    own = model_energies(model._model, text.tolist(), 1, CONFIG.data.eval_context)
    assert own is not None
    torch.testing.assert_close(model.target_energies(tokens, targets), torch.tensor([own]))
    assert remembering("transformer", numba_device).target_energies(tokens, targets) is None


def test_latents_cannot_be_drawn(numba_device: KernelDevice) -> None:
    model = remembering("splat", numba_device)
    with pytest.raises(ConfigError, match=r"latent=exact .* use --latent mean"):
        model.next_token_log_probs(torch.tensor([[1]]), latent="exact")
