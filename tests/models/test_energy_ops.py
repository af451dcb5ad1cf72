"""The torch terms against those in NumPy: values, gradients, derivatives by their parameters."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ebm_wgpu.config import EnergyConfig, ModelConfig
from ebm_wgpu.energy import Energy, terms_of
from ebm_wgpu.energy_terms import CompositionTerm, EntropyTerm, GeometryTerm
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.energy_ops import EnergyTerms, latent_loss_weights, latent_losses
from ebm_wgpu.models.mixture_ops import Splats
from ebm_wgpu.models.splat_mixture import SplatMixture
from ebm_wgpu.sphere import projx, random_uniform
from ebm_wgpu.splats import SplatStore

OFF = EnergyConfig(
    lambda_spread=0.7, lambda_cover=1.3, rho_min=0.9, sharpness=3.0, term_neighbours=6,
    pair_coefficients=(0.5, -1.0, 2.0), pair_bias=0.3,
)  # fmt: skip
TERMS = {
    "geometry": dataclasses.replace(OFF, lambda_geom=2.0),
    "composition": dataclasses.replace(OFF, lambda_comp=1.7),
    "entropy": dataclasses.replace(OFF, lambda_entropy=0.8),
}
ALL = dataclasses.replace(OFF, lambda_geom=2.0, lambda_comp=1.7, lambda_entropy=0.8)


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, SplatStore, Splats]:
    rng = np.random.default_rng(0)
    mu = random_uniform(rng, 25, 12)
    store = SplatStore.from_directions(
        mu, alpha=rng.uniform(0.5, 2, 25), kappa=rng.uniform(1, 3, 25)
    )
    x = projx(store.mu[:5].astype(float) + 0.2 * rng.standard_normal((5, 12)))
    arrays = (store.mu, store.concentration, store.log_pi)
    return x, store, Splats(*(torch.from_numpy(np.asarray(a, np.float64)) for a in arrays))


def numpy_term(config: EnergyConfig, name: str) -> GeometryTerm | CompositionTerm | EntropyTerm:
    term = terms_of(config)[name]  # type: ignore[literal-required]
    assert term is not None
    return term


@pytest.mark.parametrize("name", TERMS)
def test_values_and_gradients_are_those_of_numpy(name: str, scene) -> None:
    x, store, splats = scene
    near = np.argsort(-(x @ store.mu.T), axis=1)[:, :6]
    value, gradient = numpy_term(TERMS[name], name).value_and_gradient(x, store, near)
    terms = EnergyTerms(TERMS[name]).double()
    points = torch.from_numpy(x)
    # log_peak is a Debye expansion: 3e-5 at d = 8, and cancels to first order in shares.
    tolerance = 1e-4 if name == "entropy" else 1e-6
    np.testing.assert_allclose(terms(points, splats).detach(), value, rtol=tolerance)
    found = terms.gradient(points, splats).detach().numpy()
    np.testing.assert_allclose(found, gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("form", ["normalized", "published"])
@pytest.mark.parametrize("name", TERMS)
def test_sampling_follows_what_training_teaches_at_any_temperature(
    form: str, name: str, scene, numba_device: KernelDevice
) -> None:
    """At T = 2: the terms of `Energy`, which moves latents, are those of the model's mixture."""
    x, store, _ = scene
    config = dataclasses.replace(TERMS[name], form=form, temperature=2.0, n_neighbours=25)
    plain = dataclasses.replace(OFF, form=form, temperature=2.0, n_neighbours=25)
    model = SplatMixture(ModelConfig(dim=12, n_splats=25), config, 25)
    model.load_store(store)
    with torch.no_grad():
        expected = EnergyTerms(config)(torch.from_numpy(x).float(), model.splats()).numpy()
    whole, bare = (
        Energy.from_config(model.to_store(), numba_device, c).value_and_gradient(
            x.astype(np.float32)
        )
        for c in (config, plain)
    )
    np.testing.assert_allclose(whole[0] - bare[0], expected, rtol=2e-4, atol=2e-5)
    points = torch.from_numpy(x).float()
    slope = EnergyTerms(config).gradient(points, model.splats()).detach().numpy()
    np.testing.assert_allclose(whole[1] - bare[1], slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", TERMS)
def test_derivatives_by_parameters_are_those_of_numpy(name: str, scene) -> None:
    x, store, splats = scene
    near = np.argsort(-(x @ store.mu.T), axis=1)[:, :6]
    expected = numpy_term(TERMS[name], name).parameter_gradients(x, store, near)
    terms = EnergyTerms(TERMS[name]).double()
    terms(torch.from_numpy(x), splats).sum().backward()
    renamed = {"lambda_comp": "weight", "lambda_entropy": "weight"}
    for key, log in terms.logs.items():
        assert log.grad is not None
        slope = float(log.grad) / float(log.detach().exp())
        assert slope == pytest.approx(float(expected[renamed.get(key, key)]), rel=1e-4), key
    if name == "composition":
        np.testing.assert_allclose(terms.coefficients.grad, expected["coefficients"], rtol=1e-6)
        assert float(terms.bias.grad) == pytest.approx(float(expected["bias"]), rel=1e-6)


def test_the_gradient_can_be_differentiated_by_the_parameters(scene) -> None:
    x, _, splats = scene
    terms, points = EnergyTerms(ALL).double(), torch.from_numpy(x)

    def loss() -> torch.Tensor:
        return terms.gradient(points, splats).square().sum()

    loss().backward()
    for name, parameter in terms.named_parameters():
        flat, grad = parameter.data.view(-1), parameter.grad.view(-1)
        for i in range(len(flat)):
            middle, step = float(flat[i]), 1e-5
            flat[i] = middle + step
            ahead = float(loss().detach())
            flat[i] = middle - step
            behind = float(loss().detach())
            flat[i] = middle
            slope = (ahead - behind) / (2 * step)
            assert float(grad[i]) == pytest.approx(slope, rel=1e-5, abs=1e-7), name


def test_terms_of_weight_zero_stay_out(scene) -> None:
    x, _, splats = scene
    nothing = EnergyTerms(OFF)
    assert not list(nothing.parameters())
    points = torch.from_numpy(x)
    assert not nothing.double()(points, splats).any()
    assert not nothing.gradient(points, splats).any()
    part = EnergyTerms(dataclasses.replace(OFF, lambda_geom=1.0, lambda_cover=0.0))
    assert "lambda_cover" not in part.logs and "lambda_spread" in part.logs
    everything = EnergyTerms(ALL).double()
    parts = sum(EnergyTerms(config).double()(points, splats) for config in TERMS.values())
    torch.testing.assert_close(everything(points, splats), parts)


def test_learned_values_become_a_configuration() -> None:
    terms = EnergyTerms(ALL)
    same = dataclasses.asdict(terms.configuration())
    for key, value in dataclasses.asdict(ALL).items():
        assert same[key] == (value if key == "form" else pytest.approx(value, rel=1e-6)), key
    with torch.no_grad():
        terms.logs["lambda_comp"].fill_(np.log(0.25))
        terms.coefficients[1] = 9.0
    learned = terms.configuration()
    assert learned.lambda_comp == pytest.approx(0.25)
    assert learned.pair_coefficients[1] == 9.0


LOSSES = {
    "spread": dataclasses.replace(OFF, spread_loss=0.2),
    "coverage": dataclasses.replace(OFF, coverage_loss=0.3),
    "pairs": dataclasses.replace(OFF, pair_loss=0.4),
    "negative_entropy": dataclasses.replace(OFF, entropy_loss=0.5),
}


def test_losses_of_latents_are_the_terms_at_weight_one(scene) -> None:
    """Of a batch: the geometric term with one part alone, the others a row; entropy as a whole."""
    x, store, splats = scene
    near = np.argsort(-(x @ store.mu.T), axis=1)[:, :6]
    alone = {
        "spread": dataclasses.replace(OFF, lambda_geom=1.0, lambda_spread=1.0, lambda_cover=0.0),
        "coverage": dataclasses.replace(OFF, lambda_geom=1.0, lambda_spread=0.0, lambda_cover=1.0),
        "pairs": dataclasses.replace(OFF, lambda_comp=1.0),
        "negative_entropy": dataclasses.replace(OFF, lambda_entropy=1.0),
    }
    terms = dict(zip(LOSSES, ("geometry", "geometry", "composition", "entropy"), strict=True))
    for name, config in LOSSES.items():
        found = latent_losses(torch.from_numpy(x), splats, config)
        assert list(found) == [name] == list(latent_loss_weights(config))
        value, _ = numpy_term(alone[name], terms[name]).value_and_gradient(x, store, near)
        a_row = name in ("coverage", "pairs")
        expected = value.mean() if a_row else value.sum()
        assert float(found[name]) == pytest.approx(float(expected), rel=1e-4), name
    assert latent_loss_weights(LOSSES["pairs"]) == {"pairs": 0.4}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_the_losses_are_their_differences(name: str, scene) -> None:
    """By latents, directions, concentrations and weights, central differences in float64."""
    x, _, splats = scene
    inputs = [value.clone().requires_grad_() for value in (torch.from_numpy(x), *splats)]

    def loss(x: torch.Tensor, mu: torch.Tensor, a: torch.Tensor, pi: torch.Tensor) -> torch.Tensor:
        return latent_losses(x, Splats(mu, a, pi), LOSSES[name])[name]

    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-6, rtol=1e-5)
    loss(*inputs).backward()
    reached = {
        "spread": [True, False, False, False],
        "coverage": [True, True, False, False],
        "pairs": [True, True, False, True],
        "negative_entropy": [True, True, True, True],
    }[name]
    assert [value.grad is not None and bool(value.grad.any()) for value in inputs] == reached


def test_one_latent_has_nothing_to_be_apart_from(scene) -> None:
    x, _, splats = scene
    one = torch.from_numpy(x[:1]).requires_grad_()
    loss = latent_losses(one, splats, LOSSES["spread"])["spread"]
    loss.backward()
    assert float(loss.detach()) == 0 and not one.grad.any()


def test_evenly_used_splats_have_the_least_negative_entropy() -> None:
    mu = torch.eye(12, dtype=torch.float64)
    splats = Splats(mu, torch.full((12,), 200.0).double(), torch.full((12,), -np.log(12)).double())
    config = LOSSES["negative_entropy"]
    everywhere = latent_losses(mu, splats, config)["negative_entropy"]
    assert float(everywhere) == pytest.approx(-np.log(12), abs=1e-6)
    together = latent_losses(mu[:1].expand(12, -1), splats, config)["negative_entropy"]
    assert float(together) == pytest.approx(0, abs=1e-6)
