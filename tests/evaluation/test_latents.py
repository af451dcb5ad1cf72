"""Energies of latents against float64 closed forms, and coverage against planted splats."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from ebm_wgpu.config import EnergyConfig, ModelConfig
from ebm_wgpu.evaluation.latents import (
    contexts,
    evaluate_coverage,
    latent_energies,
    spread_windows,
)
from ebm_wgpu.evaluation.parts import EvaluationSettings, evaluate_parts
from ebm_wgpu.models.splat_lm import SplatLM
from ebm_wgpu.splats.store import SplatStore
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.vmf import log_z0

from .test_parts import TEXT, loaded

V, D = 10, 64


def model(device, **changes) -> SplatLM:
    config = {
        "dim": D, "n_splats": V, "n_experts": 2, "n_active": 1, "expert_hidden": 8,
        "recent_window": 2, "decay_window": 3, "attention_window": 4,
    }  # fmt: skip
    built = SplatLM(ModelConfig(**(config | changes)), EnergyConfig(), V, device)
    ids = np.arange(400) * 7 % V
    built.initialize(ids, np.bincount(ids, minlength=V), seed=1)
    return built


def text(n=300, seed=0) -> TokenStream:
    tokens = np.random.default_rng(seed).integers(V, size=n)
    return TokenStream(tokens.astype(np.int32), V, n)


def test_energies_are_those_of_the_closed_form(numba_device):
    splats = model(numba_device, kappa_init=3.0)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((7, D))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    h = 20 * rng.standard_normal((7, D))
    found = latent_energies(splats, torch.from_numpy(h), torch.from_numpy(x))
    mu, a, log_pi = (value.detach().double().numpy() for value in splats.splats())
    log_p = logsumexp(log_pi + a * (x @ mu.T) - log_z0(a, D), axis=1)
    eta = np.linalg.norm(a[:, None] * mu + h[:, None], axis=2)
    log_z = logsumexp(log_pi - log_z0(a, D) + log_z0(eta, D), axis=1)
    np.testing.assert_allclose(found.alone, -log_p, rtol=0, atol=1e-6)
    in_context = -log_p - (h * x).sum(1) + log_z
    np.testing.assert_allclose(found.in_context, in_context, rtol=0, atol=1e-5)


def test_without_a_context_the_energies_are_the_same(numba_device):
    splats = model(numba_device)
    x = splats.directions().detach()
    found = latent_energies(splats, torch.zeros(V, D), x)
    # Weights in float32 sum to one within rounding, which log Z takes into account.
    np.testing.assert_allclose(found.in_context, found.alone, rtol=0, atol=2e-7)


def store_of(splats: SplatLM, **values) -> SplatStore:
    store = splats.to_store()
    for name, value in values.items():
        getattr(store, name)[:] = value
    return store


def test_coverage_counts_tokens_that_have_a_splat_in_use(numba_device):
    splats, stream = model(numba_device), text()
    use = np.where(np.arange(V) < 6, 1.0, 0.0)
    splats.load_store(store_of(splats, frequency=use))
    report = evaluate_coverage(splats, stream, length=20, n_positions=50)
    assert report.coverage == np.mean(stream.tokens < 6)
    assert report.n_positions == 50
    assert 1 <= report.splats_a_context <= V


def test_latents_on_splats_are_reached_and_those_far_away_are_not(numba_device):
    splats, stream = model(numba_device, kappa_init=20.0), text()
    near = evaluate_coverage(splats, stream, length=20, n_positions=80)
    assert near.reached_alone == 1
    directions = splats.directions().detach().numpy()
    splats.load_store(store_of(splats, mu=-np.roll(directions, 1, axis=0)))
    far = evaluate_coverage(splats, stream, length=20, n_positions=80)
    assert far.reached_alone == 0
    assert far.reached < near.reached


def test_a_context_that_is_sure_chooses_among_few_splats(numba_device):
    splats, stream = model(numba_device, context_scale_init=1e-3), text()
    store = store_of(splats, alpha=1.0)
    splats.load_store(store)
    unsure = evaluate_coverage(splats, stream, length=20, n_positions=40)
    assert unsure.splats_a_context == pytest.approx(V, rel=1e-3)
    store.alpha[:] = np.where(np.arange(V) == 2, 1.0, 1e-9)
    splats.load_store(store)
    sure = evaluate_coverage(splats, stream, length=20, n_positions=40)
    assert sure.splats_a_context == pytest.approx(1, abs=1e-3)


def test_there_is_no_coverage_without_splats_or_text(numba_device):
    class Plain:
        splat_model = None

    assert evaluate_coverage(Plain(), text(), 20, 50) is None
    assert evaluate_coverage(model(numba_device), text(1), 20, 50) is None


@given(st.integers(1, 300), st.integers(1, 50), st.integers(1, 40))
def test_windows_are_spread_and_do_not_overlap(n, length, count):
    stream = TokenStream(np.arange(n, dtype=np.int32), n, n)
    windows = spread_windows(stream, length, count).numpy()
    length = min(length, n)
    assert windows.shape == (min(count, n // length), length)
    assert (np.diff(windows, axis=1) == 1).all()
    assert np.unique(windows).size == windows.size
    assert windows[0, 0] == 0
    assert len(windows) == 1 or windows[-1, -1] == n - 1


def test_contexts_are_those_before_their_tokens(numba_device):
    splats = model(numba_device)
    tokens = spread_windows(text(), 12, 4)
    with torch.no_grad():
        h, targets = contexts(splats, tokens, 1000, np.random.default_rng(0))
        full = splats.features(tokens[:, :-1]).h.flatten(0, 1)
    assert h.shape == (44, D)
    place = int(torch.cdist(h[:1], full).argmin())
    torch.testing.assert_close(h[0], full[place])
    assert targets[0] == tokens[:, 1:].flatten()[place]
    few, _ = contexts(splats, tokens, 7, np.random.default_rng(0))
    assert len(few) == 7


@pytest.fixture(scope="module")
def over_a_transformer(numba_device):
    """A run whose splats are states, blunt and with an open gate."""
    run = loaded(
        numba_device, "model.context=transformer", "model.kappa_init=2", "transformer.dim=16",
        "transformer.n_layers=1", "transformer.n_heads=2", "transformer.max_length=16",
        "sampler.dt_omega=0.1",
    )  # fmt: skip
    with torch.no_grad():
        run.model.context.gate.bias.fill_(0.5)
    return run


def perplexities(run, draws):
    """By kind of latent, on the first 96 tokens."""
    settings = EvaluationSettings(n_tokens=96, draws=draws, seed=4)
    part = evaluate_parts(run, TokenStream.from_text(TEXT, run.tokenizer), 0, ["latents"], settings)
    return {report.latent: report for report in part.latents}


def test_latents_over_a_transformer_agree_within_their_error(over_a_transformer):
    found = perplexities(over_a_transformer, draws=32)
    mean = found["mean"]
    assert mean.standard_error == 0
    for latent in ("exact", "langevin"):
        report = found[latent]
        assert 0 < report.standard_error < 0.025 * mean.token_perplexity
        gap = abs(report.extrapolated_perplexity - mean.token_perplexity)
        assert gap < 3 * report.standard_error
    few = perplexities(over_a_transformer, draws=8)["exact"]
    assert few.standard_error == pytest.approx(2 * found["exact"].standard_error, rel=0.25)
