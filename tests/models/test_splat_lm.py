"""The splat language model: probabilities by enumeration, causality, gradients, stores, devices."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ebm_wgpu.config import EnergyConfig, ModelConfig, SamplerConfig
from ebm_wgpu.energy import Energy
from ebm_wgpu.errors import ConfigError, StoreError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.distinct import Distinct
from ebm_wgpu.models.splat_lm import USAGE_RATE, SplatLM
from ebm_wgpu.splats.store import SplatStore

V, N, D, T = 29, 41, 8, 11
CONFIG = ModelConfig(
    dim=D,
    n_splats=N,
    n_experts=3,
    n_active=2,
    expert_hidden=12,
    recent_window=3,
    decay_window=5,
    attention_window=7,
    context_scale_init=6.0,
)


def corpus() -> np.ndarray:
    """A text with order: runs along the alphabet, with jumps."""
    rng = np.random.default_rng(0)
    steps = np.where(rng.random(3000) < 0.8, 1, rng.integers(0, V, 3000))
    return np.cumsum(steps) % V


def build(device: KernelDevice, *, energy: EnergyConfig | None = None, **changes: Any) -> SplatLM:
    config = dataclasses.replace(CONFIG, **changes)
    sampler = SamplerConfig(n_steps=4, list_size=16, published_steps=3)
    model = SplatLM(config, energy or EnergyConfig(), V, device, sampler)
    ids = corpus()
    model.initialize(ids, np.bincount(ids, minlength=V), seed=1)
    # Away from the symmetric start, where many gradients vanish.
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "mu":
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def batch(rows: int = 2, length: int = T) -> Tensor:
    return torch.from_numpy(corpus()[: rows * length].reshape(rows, length))


def test_probabilities_sum_to_one_and_agree(any_device: KernelDevice) -> None:
    """The scores of every possible last token: a distribution, and the one that generation sees."""
    model = build(any_device)
    tokens = batch(1)
    every = torch.arange(V)[:, None]
    targets = torch.cat([tokens[:, 1:].expand(V, -1), every], 1)
    last = model.token_log_probs(tokens.expand(V, -1), targets)[:, -1]
    assert abs(float(last.double().exp().sum()) - 1) < 1e-5
    torch.testing.assert_close(model.next_token_log_probs(tokens)[0], last, atol=1e-5, rtol=0)


def test_tokens_without_a_splat_keep_the_probability_of_the_decoder(
    numba_device: KernelDevice,
) -> None:
    model = build(numba_device, n_splats=5)
    log_p = model.next_token_log_probs(batch())
    assert torch.isfinite(log_p).all()
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(2), atol=1e-5, rtol=0)
    losses = model.losses(batch())
    losses["token"].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_room_for_more_distinct_targets_changes_nothing(any_device: KernelDevice) -> None:
    model = build(any_device)
    tokens = batch()
    (prepared,) = model.prepare([tokens])
    distinct = Distinct(*prepared)
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = []
    for ready in (distinct, distinct.padded(len(distinct.tokens) + 7)):
        losses = model.prepared_losses(tokens, ready, "mean", 0)
        total = losses["latent"] + losses["token"]
        found.append([total, *torch.autograd.grad(total, parameters, allow_unused=True)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mixing", ["learned", "fixed"])
def test_later_tokens_move_no_earlier_probability(any_device: KernelDevice, mixing: str) -> None:
    model = build(any_device, context_mixing=mixing)
    tokens, targets = batch()[:, :-1], batch()[:, 1:]
    before = model.token_log_probs(tokens, targets)
    for position in (3, 8):
        changed = tokens.clone()
        changed[:, position:] = (changed[:, position:] + 5) % V
        after = model.token_log_probs(changed, targets)
        torch.testing.assert_close(after[:, :position], before[:, :position], atol=2e-6, rtol=0)
        assert not torch.allclose(after[:, position:], before[:, position:], atol=1e-3)


def test_later_tokens_move_no_earlier_latent(numba_device: KernelDevice) -> None:
    """With every term on: spread and entropy, which are of a batch, leave the text's latents be."""
    energy = EnergyConfig(
        lambda_geom=20.0, lambda_comp=20.0, lambda_entropy=20.0, rho_min=0.9, sharpness=3.0
    )
    model = build(numba_device, energy=energy)
    tokens, targets = batch()[:, :-1], batch()[:, 1:]
    before = model.token_log_probs(tokens, targets, "langevin", 5)
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 3) % V
    after = model.token_log_probs(changed, targets, "langevin", 5)
    torch.testing.assert_close(after[:, :6], before[:, :6], atol=2e-5, rtol=0)
    # Nor does it matter which texts are scored beside this one.
    alone = model.token_log_probs(tokens[:1], targets[:1], "langevin", 5)
    torch.testing.assert_close(alone, before[:1], atol=2e-5, rtol=0)
    with torch.no_grad():
        model.terms.logs["lambda_comp"].fill_(-20.0)
    other = model.token_log_probs(tokens, targets, "langevin", 5)
    assert not torch.allclose(other, before, atol=1e-3)


def objective(model: SplatLM, tokens: Tensor) -> Tensor:
    losses = model.losses(tokens)
    weighted = [weight * losses[name] for name, weight in model.loss_weights.items()]
    return sum(weighted, losses["latent"] + 0.1 * losses["balance"])


ENERGIES = {
    "normalized": EnergyConfig(),
    "published": EnergyConfig(form="published", tau=0.1),
    # All splats are near: where a choice of them changes, the loss jumps.
    "terms": EnergyConfig(
        term_neighbours=N, rho_min=0.6, spread_loss=0.3, coverage_loss=2.0, pair_loss=2.0,
        entropy_loss=0.5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", ENERGIES)
def test_gradients_of_the_losses_are_their_slopes(numba_device: KernelDevice, form: str) -> None:
    """Central differences along random directions, step 1e-2.

    A float32 loss of size 3 has differences exact to 3e-7 / 2e-2 = 2e-5, times ten for sums of
    rounding errors; a third derivative of order ten adds 2e-4. All experts are active: where a
    choice changes, the loss jumps.
    """
    model, tokens = build(numba_device, energy=ENERGIES[form], n_active=3), batch()
    objective(model, tokens).backward()
    generator = torch.Generator().manual_seed(7)
    step = 1e-2
    for name, parameter in model.named_parameters():
        if form == "published" and name == "kappa_logit":
            assert parameter.grad is None
            continue
        assert parameter.grad is not None, name
        direction = torch.randn(parameter.shape, generator=generator)
        direction /= direction.norm()
        start = parameter.detach().clone()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.copy_(start + sign * step * direction)
                values.append(float(_free_objective(model, tokens, start, name)))
        with torch.no_grad():
            parameter.copy_(start)
        slope = (values[0] - values[1]) / (2 * step)
        gradient = float((parameter.grad * direction).sum())
        assert abs(slope - gradient) < 5e-4 + 0.01 * abs(slope), name


def _free_objective(model: SplatLM, tokens: Tensor, start: Tensor, name: str) -> Tensor:
    """The objective, with the targets of the latent loss held where they are differentiated."""
    if name != "token_directions":
        return objective(model, tokens)
    moved = model.losses(tokens)
    with torch.no_grad():
        here = model.token_directions.clone()
        model.token_directions.copy_(start)
        targets = model.directions().clone()
        model.token_directions.copy_(here)
        inputs, wanted = tokens[:, :-1], tokens[:, 1:].reshape(-1)
        from ebm_wgpu.models.mixture_ops import mixture_energy, mixture_readout

        h = model.features(inputs).h.flatten(0, 1)
        e = targets[wanted]
        log_z = mixture_readout(model.device, h, model.splats(), *model.groups(wanted)).log_z
        energy = mixture_energy(model.device, e, model.splats()) - (h * e).sum(1)
        latent = (energy + log_z).mean() / (D - 1)
    weighted = [weight * moved[name] for name, weight in model.loss_weights.items()]
    return sum(weighted, latent + 0.1 * moved["balance"])


def test_latent_loss_is_the_exact_conditional_density(numba_device: KernelDevice) -> None:
    model, tokens = build(numba_device), batch()
    with torch.no_grad():
        measured = model.losses(tokens)
        h = model.features(tokens[:, :-1]).h.flatten(0, 1)
        e = model.token_latents(tokens[:, 1:].flatten())
    energy = Energy(model.to_store(), numba_device)
    density = energy.log_density(e.numpy(), h.numpy())
    assert float(measured["latent"]) == pytest.approx(-np.mean(density) / (D - 1), abs=2e-5)
    assert float(measured["energy"]) == pytest.approx(
        float(np.mean(energy.value(e.numpy(), h.numpy()))), abs=1e-4
    )


def test_temperature_divides_concentrations_and_tilts(numba_device: KernelDevice) -> None:
    cold, hot = (build(numba_device, energy=EnergyConfig(temperature=t)) for t in (1.0, 2.5))
    torch.testing.assert_close(hot.concentration(), cold.concentration() / 2.5)
    torch.testing.assert_close(hot.features(batch()).h, cold.features(batch()).h / 2.5)


def trajectory(device: KernelDevice) -> list[list[float]]:
    """Losses of three steps of gradient descent."""
    model, tokens = build(device), batch()
    history = []
    for _ in range(3):
        losses = model.losses(tokens)
        model.zero_grad()
        (losses["token"] + losses["latent"] + 0.1 * losses["balance"]).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(0.05 * parameter.grad)  # type: ignore[operator]
            model.mu.div_(model.mu.norm(dim=1, keepdim=True))
        history.append([float(value.detach()) for value in losses.values()])
    return history


def test_devices_learn_alike(numba_device: KernelDevice, wgpu_device: KernelDevice) -> None:
    np.testing.assert_allclose(
        trajectory(wgpu_device), trajectory(numba_device), rtol=2e-4, atol=1e-5
    )


def test_learning_from_text_lowers_every_loss(numba_device: KernelDevice) -> None:
    model = build(numba_device)
    ids = torch.from_numpy(corpus())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    history = []
    for step in range(40):
        start = 70 * step % 2800
        tokens = ids[start : start + 128].reshape(4, 32)
        losses = model.losses(tokens)
        optimizer.zero_grad()
        (losses["token"] + 0.1 * losses["latent"]).backward()
        optimizer.step()
        with torch.no_grad():
            model.mu.div_(model.mu.norm(dim=1, keepdim=True))
        history.append({name: float(value.detach()) for name, value in losses.items()})
    # The text's own entropy is 1.2 nats.
    assert history[-1]["token"] < 2.2 < 2.8 < history[0]["token"]
    assert history[-1]["latent"] < history[0]["latent"]


@pytest.mark.parametrize("latent", ["exact", "langevin"])
def test_random_latents_repeat_with_their_seed(numba_device: KernelDevice, latent: Any) -> None:
    model, tokens = build(numba_device), batch()
    scores = [
        model.token_log_probs(tokens[:, :-1], tokens[:, 1:], latent, seed) for seed in (3, 3, 4)
    ]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])
    model.losses(tokens, latent, 3)["token"].backward()
    following = model.next_token_log_probs(tokens, latent, 3)
    torch.testing.assert_close(following.exp().sum(1), torch.ones(2), atol=1e-5, rtol=0)


def test_dropout_acts_on_losses_in_training_mode_alone(numba_device: KernelDevice) -> None:
    model, plain, tokens = build(numba_device, dropout=0.5), build(numba_device), batch()
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    def token(model: SplatLM) -> Tensor:
        return model.losses(tokens)["token"].detach()

    assert model.training and torch.equal(token(plain), token(plain))
    assert not torch.equal(token(model), token(model))
    assert torch.equal(
        model.token_log_probs(inputs, targets), plain.token_log_probs(inputs, targets)
    )
    assert torch.equal(model.features(inputs).h, plain.features(inputs).h)
    assert torch.equal(token(model.eval()), token(plain))


def test_dropout_follows_the_state_of_torch(numba_device: KernelDevice) -> None:
    model, tokens = build(numba_device, dropout=0.2), batch()
    torch.manual_seed(5)
    first = model.losses(tokens)
    torch.manual_seed(5)
    again = model.losses(tokens)
    assert all(torch.equal(first[name], again[name]) for name in first)
    first["token"].backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_draws_follow_the_splats_as_they_learn(numba_device: KernelDevice) -> None:
    model, tokens = build(numba_device), batch()
    before = model.next_token_log_probs(tokens, "exact", 3)
    with torch.no_grad():
        model.kappa_logit.add_(3.0)
    assert not torch.equal(model.next_token_log_probs(tokens, "exact", 3), before)


def test_usage_moves_toward_the_mean_posterior(numba_device: KernelDevice) -> None:
    model = build(numba_device)
    tokens = batch()
    before, age = model.frequency.clone(), model.age.clone()
    model.record_usage(tokens, steps=10)
    h = model.features(tokens).h.detach().flatten(0, 1).numpy()
    use = Energy(model.to_store(), numba_device).posterior(h).mean(0)
    expected = (1 - USAGE_RATE) * before.numpy() + USAGE_RATE * use
    np.testing.assert_allclose(model.frequency.numpy(), expected, rtol=1e-4, atol=1e-7)
    assert (model.age - age).unique().tolist() == [10]


def test_store_round_trip_gives_the_same_model(numba_device: KernelDevice, tmp_path: Path) -> None:
    model = build(numba_device)
    model.to_store().save(tmp_path / "splats.h5")
    other = build(numba_device)
    with torch.no_grad():
        other.mu.copy_(other.mu.flip(0))
        other.log_alpha.add_(1)
        other.kappa_logit.zero_()
    other.load_store(SplatStore.load(tmp_path / "splats.h5"))
    assert torch.equal(other.mu, model.mu)
    tokens = batch()
    torch.testing.assert_close(
        other.next_token_log_probs(tokens), model.next_token_log_probs(tokens), atol=1e-5, rtol=0
    )


def test_stores_are_sorted_by_token_and_may_change_size(numba_device: KernelDevice) -> None:
    model = build(numba_device)
    rng = np.random.default_rng(4)
    sid = rng.permutation(60) % V
    store = SplatStore.from_directions(rng.standard_normal((60, D)), sid=sid, kappa=2.0)
    model.load_store(store)
    assert torch.all(model.sid.diff() >= 0)
    taken = model.to_store()
    order = np.argsort(sid, kind="stable")
    np.testing.assert_array_equal(taken.mu, store.mu[order])
    np.testing.assert_allclose(taken.kappa, 2.0, rtol=1e-5)
    assert model.mu.spherical  # type: ignore[attr-defined]
    assert float(model.token_log_probs(batch(), batch()).sum()) < 0


def test_stores_that_do_not_fit_are_refused(numba_device: KernelDevice) -> None:
    model = build(numba_device)
    with pytest.raises(StoreError, match="dimension 9"):
        model.load_store(SplatStore.from_directions(np.eye(9)))
    with pytest.raises(StoreError, match=f"token id {V}"):
        model.load_store(SplatStore.from_directions(np.eye(D), sid=np.arange(D) + V - D + 1))


def test_state_returns_bit_for_bit(numba_device: KernelDevice) -> None:
    model, other = build(numba_device), build(numba_device, splat_init="uniform")
    other.load_state_dict(model.state_dict())
    tokens = batch()
    assert torch.equal(other.next_token_log_probs(tokens), model.next_token_log_probs(tokens))


def test_initialization_is_fixed_by_the_seed(numba_device: KernelDevice) -> None:
    def state(seed: int) -> dict[str, Tensor]:
        model = SplatLM(CONFIG, EnergyConfig(), V, numba_device)
        ids = corpus()
        model.initialize(ids, np.bincount(ids, minlength=V), seed)
        return model.state_dict()

    first, again, other = state(1), state(1), state(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["decoder.router"], other["decoder.router"])


def test_unigram_start(numba_device: KernelDevice) -> None:
    ids = np.repeat(np.arange(V), np.arange(1, V + 1))
    model = SplatLM(CONFIG, EnergyConfig(), V, numba_device)
    counts = np.bincount(ids, minlength=V)
    model.initialize(ids, counts, 0)
    expected = (counts + 1) / (counts + 1).sum()
    np.testing.assert_allclose(model.bias.detach().exp(), expected, rtol=1e-5)


def test_embeddings_that_do_not_fit_are_refused(numba_device: KernelDevice, tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("a 1 2 3\nb 3 2 1\n")
    config = dataclasses.replace(CONFIG, splat_init="embedding", embedding_path=str(path))
    model = SplatLM(config, EnergyConfig(), V, numba_device)
    ids = corpus()
    counts = np.bincount(ids, minlength=V)
    with pytest.raises(ConfigError, match="text of each"):
        model.initialize(ids, counts, 0)
    model.initialize(ids, counts, 0, vocabulary=[chr(ord("a") + i) for i in range(V)])
    similarity = model.directions() @ model.directions().T
    assert float(similarity[0, 1].detach()) == pytest.approx(-1, abs=1e-5)


def test_parameter_count(numba_device: KernelDevice) -> None:
    model = build(numba_device)
    assert model.n_parameters() == sum(p.numel() for p in model.parameters())
    assert model.n_parameters() > V * D + N * D
