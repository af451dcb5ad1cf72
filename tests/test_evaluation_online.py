"""Online perplexity: exact against a loop, blind to the future, and worth something on repeats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ebm_wgpu.config import Config, DataConfig, ModelConfig, TrainConfig
from ebm_wgpu.errors import DataError
from ebm_wgpu.evaluation import evaluate_perplexity
from ebm_wgpu.evaluation_online import (
    OnlineSettings,
    evaluate_online,
    fit_online,
    online_log_probs,
)
from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.memory_config import MemoryConfig
from ebm_wgpu.models.recall import RecallGate
from ebm_wgpu.models.splat_transformer import SplatTransformer
from ebm_wgpu.models.transformer_config import TransformerConfig
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.vmf import log_z0_ratio

V, D = 31, 16
CONFIG = Config(
    data=DataConfig(block_size=16, eval_context=16, eval_stride=8), train=TrainConfig(batch_size=3)
)


@pytest.fixture(scope="module")
def model() -> CausalTransformer:
    shape = TransformerConfig(dim=D, n_layers=1, n_heads=2, max_length=16)
    transformer = CausalTransformer(shape, V)
    transformer.initialize(np.arange(V), np.ones(V), seed=0)
    return transformer.eval()


def stream(tokens: np.ndarray) -> TokenStream:
    return TokenStream(tokens.astype(np.int32), V, len(tokens))


def random_text(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(V, size=count)


def fixed(capacity: int) -> OnlineSettings:
    gate = RecallGate(D, 5.0, exponent=-0.5)
    with torch.no_grad():
        gate.evidence.fill_(0.2)
        gate.offset.fill_(0.4)
    return OnlineSettings(capacity, 0.1 * torch.arange(D).float(), gate, False, 0.0)


def scores(model: CausalTransformer, text: TokenStream, capacity: int) -> torch.Tensor:
    parts = online_log_probs(model, text, CONFIG, fixed(capacity), start_id=0)
    return torch.cat([online for _, online in parts])


@torch.no_grad()
def test_against_a_loop_over_the_definition(model: CausalTransformer) -> None:
    text, capacity = random_text(16, 0), 6
    settings = fixed(capacity)
    inputs = torch.from_numpy(np.append(0, text[:-1]))[None]
    states = F.normalize(model.backbone(inputs)[0] - settings.centre, dim=1).double().numpy()
    static = model.token_log_probs(inputs, torch.from_numpy(text)[None])[0].double().numpy()
    length, a = math.exp(float(settings.gate.log_length)), 5.0 * (D - 1)
    found = scores(model, stream(text), capacity)
    assert len(found) == len(text)
    for t in range(len(text)):
        total = mass = 0.0
        for j in range(max(0, t - capacity), t):
            cosine = float(states[j] @ states[t])
            tilt = float(log_z0_ratio(a, 2 * a * length * cosine + length**2, D))
            weight = math.exp(tilt) * (t - j) ** -0.5
            total += weight
            mass += weight * (text[j] == text[t])
        share = 1 / (1 + math.exp(-0.4 - 0.2 * (math.log(total) - length))) if total else 0.0
        expected = (1 - share) * math.exp(static[t]) + (share * mass / total if total else 0.0)
        assert found[t].item() == pytest.approx(math.log(expected), abs=1e-3)


def test_later_tokens_change_no_earlier_probability(model: CausalTransformer) -> None:
    tokens = random_text(90, 1)
    changed = tokens.copy()
    changed[50:] = (tokens[50:] + 3) % V
    before, after = (scores(model, stream(t), 40) for t in (tokens, changed))
    torch.testing.assert_close(before[:50], after[:50], atol=1e-6, rtol=0)
    assert not torch.allclose(before[50:], after[50:])


def test_static_figures_are_those_of_the_static_evaluation(model: CausalTransformer) -> None:
    text = stream(random_text(100, 2))
    report = evaluate_online(model, text, CONFIG, fixed(20), start_id=0, n_bytes=333)
    static = evaluate_perplexity(model, text, CONFIG, start_id=0, n_bytes=333)
    assert report.static.nll_sum == pytest.approx(static.nll_sum, rel=1e-6)
    assert report.static.n_tokens == report.online.n_tokens == 100
    assert (report.static.memory, report.online.memory) == ("static", "online")
    assert report.online.nll_sum != pytest.approx(report.static.nll_sum, rel=1e-4)
    assert report.settings["capacity"] == 20


def test_a_fitted_memory_predicts_repeated_text(model: CausalTransformer) -> None:
    settings = fit_online(
        model, stream(np.tile(random_text(40, 3), 8)), CONFIG, start_id=0, capacity=64
    )
    assert settings.gain > 0.5
    other = stream(np.tile(random_text(40, 4), 8))
    report = evaluate_online(model, other, CONFIG, settings, start_id=0)
    assert report.online.token_perplexity < 0.6 * report.static.token_perplexity


def test_a_memory_fitted_on_random_text_stays_out_of_the_way(model: CausalTransformer) -> None:
    settings = fit_online(model, stream(random_text(600, 5)), CONFIG, start_id=0, capacity=64)
    report = evaluate_online(model, stream(random_text(600, 6)), CONFIG, settings, start_id=0)
    gained = report.static.nll_per_token - report.online.nll_per_token
    assert abs(gained) < 0.05


def test_nothing_held_out_is_an_error(model: CausalTransformer) -> None:
    with pytest.raises(DataError, match=r"train with data\.heldout_tokens=32768"):
        fit_online(model, stream(np.zeros(0)), CONFIG, start_id=0, capacity=4)


def test_the_memory_supersedes_splats_of_the_context_where_that_is_better() -> None:
    shape = TransformerConfig(dim=D, n_layers=1, n_heads=2, max_length=16)
    splat = SplatTransformer(ModelConfig(kappa_init=5.0), shape, MemoryConfig(), V)
    splat.initialize(np.arange(V), np.ones(V), seed=0)
    splat.eval()
    # Splats that are believed wholly, and are wrong on text without repeats, do only harm.
    with torch.no_grad():
        splat.context.gate.bias.fill_(8.0)
    heldout, text = (stream(random_text(400, seed)) for seed in (7, 8))
    settings = fit_online(splat, heldout, CONFIG, start_id=0, capacity=32)
    assert settings.supersede
    report = evaluate_online(splat, text, CONFIG, settings, start_id=0)
    assert report.online.token_perplexity < 1.2 * V < report.static.token_perplexity
    assert report.settings["supersede"]
