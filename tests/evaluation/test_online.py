"""Online perplexity: exact against a loop, blind to the future, and worth something on repeats."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ebm_wgpu.config import (
    Config,
    DataConfig,
    EnergyConfig,
    ModelConfig,
    TrainConfig,
    apply_overrides,
)
from ebm_wgpu.errors import DataError
from ebm_wgpu.evaluation.online import evaluate_online, online_log_probs
from ebm_wgpu.evaluation.perplexity import evaluate_perplexity
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.models.causal_transformer import CausalTransformer
from ebm_wgpu.models.memory_config import MemoryConfig
from ebm_wgpu.models.nano_ebm import NanoEBM
from ebm_wgpu.models.nano_ebm_config import NanoEBMConfig
from ebm_wgpu.models.recall import Reader, RecallGate
from ebm_wgpu.models.splat_lm import SplatLM
from ebm_wgpu.models.splat_transformer import SplatTransformer
from ebm_wgpu.models.transformer_config import TransformerConfig
from ebm_wgpu.online_memory import OnlineSettings, fit_online, memory_text
from ebm_wgpu.readers import reader_of
from ebm_wgpu.splats.store import SplatStore
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.text.tokenizers import make_tokenizer
from ebm_wgpu.vmf import log_z0_ratio

V, D = 31, 16
CONFIG = Config(
    data=DataConfig(block_size=16, eval_context=16, eval_stride=8), train=TrainConfig(batch_size=3)
)

SEARCHED = ["memory.compared=8", "memory.n_neighbours=12", "memory.search=brute"]
"""A memory that is searched, however small it is."""

each_memory = pytest.mark.parametrize(
    ("name", "supersede", "overrides"),
    [
        ("transformer", False, []),
        ("transformer", False, SEARCHED),
        ("splat transformer", False, []),
        ("splat transformer", True, SEARCHED),
        ("splat transformer", True, []),
        ("nano", False, []),
        ("splat", False, []),
    ],
)
"""Families that keep states, compared and searched, beside and instead of their own splats."""


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


def splat_transformer(stored: int = 0) -> SplatTransformer:
    """Over a transformer, its gates open; with so many stored splats."""
    shape = TransformerConfig(dim=D, n_layers=1, n_heads=2, max_length=16)
    splat = SplatTransformer(ModelConfig(kappa_init=5.0), shape, MemoryConfig(n_neighbours=4), V)
    splat.initialize(np.arange(V), np.ones(V), seed=0)
    rng = np.random.default_rng(1)
    with torch.no_grad():
        splat.context.gate.bias.fill_(0.5)
        splat.recall.offset.fill_(0.5)
    if stored:
        mu = rng.standard_normal((stored, D))
        mu /= np.linalg.norm(mu, axis=1, keepdims=True)
        sid = rng.integers(V, size=stored)
        splat.store_splats(SplatStore.from_directions(mu, kappa=5.0, sid=sid))
    return splat.eval()


def family(name: str, device: KernelDevice) -> Reader:
    """A small model of a family, as what a memory reads."""
    shape = TransformerConfig(dim=D, n_layers=1, n_heads=2, max_length=16)
    built: LanguageModel
    if name == "splat transformer":
        return splat_transformer(stored=40)
    if name == "transformer":
        built = CausalTransformer(shape, V)
    elif name == "nano":
        built = NanoEBM(shape, NanoEBMConfig(think_steps=2), V)
    else:
        config = ModelConfig(
            dim=D, n_splats=V, n_experts=2, n_active=1, expert_hidden=8, recent_window=2,
            decay_window=3, attention_window=4,
        )  # fmt: skip
        built = SplatLM(config, EnergyConfig(), V, device)
    built.initialize(np.arange(V), np.ones(V), seed=0)
    reader = reader_of(built.eval())
    assert reader is not None
    return reader


def test_a_memory_that_searches_scores_as_one_that_compares(model: CausalTransformer) -> None:
    text, searching = stream(random_text(90, 6)), MemoryConfig(compared=8, n_neighbours=40)
    config = replace(CONFIG, memory=searching)
    parts = online_log_probs(model, text, config, fixed(30), start_id=0)
    found = torch.cat([online for _, online in parts])
    torch.testing.assert_close(found, scores(model, text, 30), atol=1e-5, rtol=0)
    heldout = stream(random_text(600, 7))
    fitted = [fit_online(model, heldout, c, start_id=0, capacity=30) for c in (CONFIG, config)]
    assert fitted[0].gain == pytest.approx(fitted[1].gain, abs=1e-4)


@each_memory
def test_later_tokens_change_no_earlier_probability(
    name: str, supersede: bool, overrides: list[str], numba_device: KernelDevice
) -> None:
    reader = family(name, numba_device)
    settings = replace(fixed(40), supersede=supersede)
    config = apply_overrides(CONFIG, overrides)
    tokens = random_text(300, 1)

    def read(text: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        parts = online_log_probs(reader, stream(text), config, settings, start_id=0)
        static, online = zip(*parts, strict=True)
        return torch.cat(static), torch.cat(online)

    static, online = read(tokens)
    assert not torch.allclose(static, online)
    # Inside a window, and at the end of a block of positions that are compared together.
    for cut in (37, 256):
        changed = tokens.copy()
        changed[cut:] = (tokens[cut:] + 3) % V
        after = read(changed)
        torch.testing.assert_close(after[0][:cut], static[:cut], atol=1e-5, rtol=0)
        torch.testing.assert_close(after[1][:cut], online[:cut], atol=1e-5, rtol=0)
        assert not torch.allclose(after[1][cut:], online[cut:], atol=1e-3)


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
    splat = splat_transformer()
    # Splats that are believed wholly, and are wrong on text without repeats, do only harm.
    with torch.no_grad():
        splat.context.gate.bias.fill_(8.0)
    heldout, text = (stream(random_text(400, seed)) for seed in (7, 8))
    settings = fit_online(splat, heldout, CONFIG, start_id=0, capacity=32)
    assert settings.supersede
    report = evaluate_online(splat, text, CONFIG, settings, start_id=0)
    assert report.online.token_perplexity < 1.2 * V < report.static.token_perplexity
    assert report.settings["supersede"]


def test_a_summary_names_both_figures_and_what_the_memory_is(model: CausalTransformer) -> None:
    heldout = TokenStream(random_text(200, 9).astype(np.int32), V, 100, "a held-out text")
    settings = fit_online(model, heldout, CONFIG, start_id=0, capacity=8)
    text = stream(random_text(40, 10))
    report = evaluate_online(model, text, CONFIG, settings, start_id=0, n_bytes=99)
    summary = json.loads(json.dumps(report.summary(), allow_nan=False))
    assert (summary["static"]["memory"], summary["online"]["memory"]) == ("static", "online")
    assert summary["online"]["nll_sum"] == report.online.nll_sum
    assert (summary["settings"]["capacity"], summary["settings"]["search"]) == (8, "none")
    assert summary["settings"]["fitted_on"] == "a held-out text"
    assert summary["settings"]["fitted_tokens"] == 200
    searching = apply_overrides(CONFIG, SEARCHED)
    wide = replace(settings, capacity=9)
    assert evaluate_online(model, text, searching, wide, start_id=0).settings["search"] == "brute"


def test_a_memory_is_fitted_on_what_training_did_not_see(tmp_path: Path) -> None:
    text = "abc abd acd\n" * 30
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text(text + split[0] * 5 + "\n", encoding="utf-8")
    tokenizer = make_tokenizer("char", text)
    config = apply_overrides(CONFIG, [f"data.dataset={tmp_path}"])
    assert memory_text(config, tokenizer, "valid") is None
    valid = memory_text(config, tokenizer, "test")
    assert valid is not None
    unknown = tokenizer.decode(tokenizer.encode("v"))
    assert tokenizer.decode(valid.tokens) == f"{text}{5 * unknown}\n"
    config = apply_overrides(config, ["data.heldout_tokens=20"])
    for split in ("valid", "test"):
        kept = memory_text(config, tokenizer, split)
        assert kept is not None
        assert tokenizer.decode(kept.tokens) == (text + 5 * unknown + "\n")[-20:]
        assert kept.name.startswith("held-out training text")
