"""Tokens read off drawn latents against float64 enumeration of every splat and every token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from ebm_wgpu.config import Latent, SamplerConfig
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.context_splats import EMPTY, ContextSplats
from ebm_wgpu.models.recall import RecallGate
from ebm_wgpu.models.splat_latents import SplatLatents, TiltedRows, context_rows, stored_rows
from ebm_wgpu.vmf import log_z0_ratio

B, T, D, V = 2, 7, 16, 5
TOKEN = 1
A = 2.0 * (D - 1)
CAREFUL = SamplerConfig(n_steps=30, dt_omega=0.05)


def text(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys (B, T, d) that overlap, queries (B, T, d), and the tokens that follow (B, T)."""
    rng = np.random.default_rng(seed)
    keys = rng.standard_normal((1, 1, D)) + 0.7 * rng.standard_normal((B, T, D))
    queries = rng.standard_normal((B, T, D))
    keys, queries = (
        (v / np.linalg.norm(v, axis=-1, keepdims=True)).astype(np.float32) for v in (keys, queries)
    )
    return keys, queries, rng.integers(V, size=(B, T))


def context() -> ContextSplats:
    module = ContextSplats(D, 2.0)
    with torch.no_grad():
        module.decay.fill_(0.4)
        module.log_length.fill_(np.log(6.0))
    return module


def enumerated() -> np.ndarray:
    """p(w|c) of every token and position (B, T, V) by loops over the definition, float64."""
    keys, queries, following = text()
    p = np.zeros((B, T, V))
    for b in range(B):
        for t in range(1, T):
            cosine = keys[b, :t].astype(np.float64) @ queries[b, t].astype(np.float64)
            age = t - np.arange(t)
            log_w = -np.float64(np.float32(0.4)) * np.log(age)
            share = softmax(log_w + log_z0_ratio(A, 12 * A * cosine + 36, D))
            np.add.at(p[b, t], following[b, :t], share)
    return p


def rows_of_text() -> TiltedRows:
    keys, queries, _ = text()
    age = torch.arange(T)[:, None] - torch.arange(T)
    return context_rows(context(), torch.from_numpy(keys), torch.from_numpy(queries), age)


def copies(rows: TiltedRows, count: int) -> TiltedRows:
    """The same groups many times, each copy with draws of its own."""
    return TiltedRows(*(np.tile(values, (count, 1, 1)) for values in rows))


def drawn(device: KernelDevice, latent: Latent, count: int) -> np.ndarray:
    """Estimates of p(w|c) of every token, (count, B, T, V): each token is asked for in turn."""
    latents = SplatLatents(A, CAREFUL, device)
    rows, sids = copies(rows_of_text(), count), torch.from_numpy(text()[2])[:, None]
    found = np.empty((count, B, T, V))
    for w in range(V):
        hits = (sids == w).expand(B, T, T).repeat(count, 1, 1)
        mass = latents.target_mass(rows, hits, latent, w)
        found[..., w] = mass.exp().view(count, B, T)
    return found


def read_last(latents: SplatLatents, latent: Latent, count: int) -> np.ndarray:
    """p(w|x) of every token at the last position for as many latents, (count, B, V)."""
    keys, queries, following = (torch.from_numpy(v) for v in text())
    age = torch.arange(T - 1, 0, -1).expand(B, 1, -1)
    rows = copies(context_rows(context(), keys[:, :-1], queries[:, -1:], age), count)
    mass = latents.token_mass(rows, following[:, :-1].repeat(count, 1), V, latent, 3)
    return mass.exp().view(count, B, V).double().numpy()


@pytest.mark.parametrize("latent", ["exact", "langevin"])
def test_estimates_agree_with_enumeration_as_draws_grow(
    numba_device: KernelDevice, latent: Latent
) -> None:
    """Every p(w|c) within 4.5 standard errors, which fall as the root of the number of draws."""
    expected = enumerated()
    np.testing.assert_allclose(expected[:, 1:].sum(-1), 1, atol=1e-12)
    found = drawn(numba_device, latent, 400)
    assert (found[:, expected == 0] == 0).all()
    at = expected > 0
    mean, spread = found.mean(0)[at], found.std(0, ddof=1)[at]
    # A token whose splats alone are seen has p = 1 and no error but that of rounding.
    error = spread / np.sqrt(400) + 1e-6
    assert (np.abs(mean - expected[at]) < 4.5 * error).all()
    assert np.median(spread) > 0.005
    few, many = (np.abs(found[:n].mean(0) - expected)[at] for n in (20, 400))
    assert np.sqrt(np.mean(many**2)) < 0.5 * np.sqrt(np.mean(few**2))
    # The probabilities of all tokens have each their own draws, and sum to one on average.
    total = found.sum(-1)[:, :, 1:]
    assert np.abs(total.mean(0) - 1).max() < 5 * total.std(0).max() / np.sqrt(400)


@pytest.mark.parametrize("latent", ["exact", "langevin"])
def test_one_latent_gives_a_distribution_and_its_mean_is_enumerated(
    numba_device: KernelDevice, latent: Latent
) -> None:
    found = read_last(SplatLatents(A, CAREFUL, numba_device), latent, 1000)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    expected = enumerated()[:, -1]
    assert ((found == 0) == (expected == 0)).all()
    error = found.std(0, ddof=1) / np.sqrt(1000) + 1e-6
    assert (np.abs(found.mean(0) - expected) < 4.5 * error).all()
    assert found.std(0).max() > 0.05


def test_strata_have_far_less_error_than_plain_draws(numba_device: KernelDevice) -> None:
    """Sharp splats: a latent stands for one, and a plain readout is a lottery."""
    sharp = SplatLatents(60.0 * (D - 1), CAREFUL, numba_device)
    plain = read_last(sharp, "exact", 100)
    hits = torch.from_numpy(text()[2])[:, None, :] == TOKEN
    rows = copies(rows_of_text(), 100)
    mass = sharp.target_mass(rows, hits.expand(B, T, T).repeat(100, 1, 1), "exact", 3)
    strata = mass.exp().view(100, B, T)[:, :, -1]
    spread_plain, spread = float(plain[..., TOKEN].std(0).max()), float(strata.std(0).max())
    assert spread_plain > 0.3
    assert spread < 0.01 * spread_plain


@pytest.mark.parametrize("latent", ["exact", "langevin"])
def test_what_is_not_seen_changes_nothing(numba_device: KernelDevice, latent: Latent) -> None:
    keys, queries, following = text()
    sids = torch.from_numpy(following)
    hits = sids[:, None] == sids[:, :, None]
    latents = SplatLatents(A, SamplerConfig(n_steps=4), numba_device)
    before = latents.target_mass(rows_of_text(), hits, latent, 3)
    assert (before[:, 0] == EMPTY).all()
    keys[:, 4:] = -keys[:, 4:]
    age = torch.arange(T)[:, None] - torch.arange(T)
    rows = context_rows(context(), torch.from_numpy(keys), torch.from_numpy(queries), age)
    after = latents.target_mass(rows, hits, latent, 3)
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-5)
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_a_row_has_its_draws_whatever_is_beside_it(numba_device: KernelDevice) -> None:
    rows = rows_of_text()
    sids = torch.from_numpy(text()[2])
    hits = sids[:, None] == sids[:, :, None]
    latents = SplatLatents(A, SamplerConfig(n_steps=4), numba_device)
    whole = latents.target_mass(rows, hits, "langevin", 5)
    second = TiltedRows(*(values[1:] for values in rows))
    alone = latents.target_mass(second, hits[1:], "langevin", 5, first_chain=2 * T)
    torch.testing.assert_close(alone[0], whole[1], rtol=0, atol=1e-5)
    again = latents.target_mass(rows, hits, "langevin", 6)
    assert not torch.allclose(again, whole)


def test_texts_without_splats_have_no_mass(numba_device: KernelDevice) -> None:
    latents = SplatLatents(A, CAREFUL, numba_device)
    keys, queries, following = (torch.from_numpy(v) for v in text())
    age = torch.stack([torch.tensor([[2, 1]]), torch.tensor([[0, -1]])])
    rows = context_rows(context(), keys[:, :2], queries[:, -1:], age)
    mass = latents.token_mass(rows, following[:, :2], V, "exact", 0)
    assert mass[0].exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert (mass[1] == EMPTY).all()
    none = context_rows(context(), keys[:, :0], queries[:, -1:], age[..., :0])
    assert (latents.token_mass(none, following[:, :0], V, "exact", 0) == EMPTY).all()
    nothing = torch.zeros(B, 1, 2, dtype=torch.bool)
    assert (latents.target_mass(rows, nothing, "exact", 0) == EMPTY).all()


def test_stored_splats_weigh_by_their_counts(numba_device: KernelDevice) -> None:
    """Against the closed form in float64: prior counts to the power of the exponent, own tilt."""
    keys, queries, following = (torch.from_numpy(v) for v in text())
    gate = RecallGate(D, 2.0, exponent=0.5)
    gate.log_length.fill_(np.log(9.0))
    prior = torch.rand(B, T, generator=torch.Generator().manual_seed(0)).log()
    rows = stored_rows(gate, keys, queries[:, 0], prior)
    latents = SplatLatents(A, CAREFUL, numba_device)
    mass = latents.token_mass(copies(rows, 1000), following.repeat(1000, 1), V, "exact", 0)
    found = mass.exp().view(1000, B, V).double().numpy()
    cosine = (keys.double() * queries[:, :1].double()).sum(-1).numpy()
    log_w = 0.5 * prior.double().numpy() + log_z0_ratio(A, 18 * A * cosine + 81, D)
    expected = np.zeros((B, V))
    for b in range(B):
        np.add.at(expected[b], following[b].numpy(), softmax(log_w[b]))
    error = found.std(0, ddof=1) / np.sqrt(1000) + 1e-6
    assert (np.abs(found.mean(0) - expected) < 4.5 * error).all()
