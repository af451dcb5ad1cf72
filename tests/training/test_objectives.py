import dataclasses
import math
import shutil

import numpy as np
import pytest
import torch

import ebm_wgpu.torch_device as torch_device
from ebm_wgpu.config import apply_overrides
from ebm_wgpu.models.registry import build_model
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.training.loading import load_run
from ebm_wgpu.training.objectives import (
    REPORT_ROWS,
    Objective,
    evaluate_score_matching,
    score_matching_loss,
    term_matching_loss,
)
from ebm_wgpu.training.placement import place_of
from ebm_wgpu.training.run_folder import RunFolder
from ebm_wgpu.training.trainer import Trainer
from ebm_wgpu.vmf import sample_vmf

VOCAB = 30


@pytest.fixture(scope="module")
def model(tiny, numba_device):
    return build_model(tiny, VOCAB, numba_device)


def batch(seed=0, rows=2, length=13):
    return torch.from_numpy(np.random.default_rng(seed).integers(VOCAB, size=(rows, length)))


def measured(train, model, seed):
    """The loss of a batch, and its parts as numbers."""
    total, parts = Objective(train)(model, batch().to(place_of(model)), seed)
    return total, {name: part.item() for name, part in parts.items()}


def test_the_loss_is_the_weighted_sum_of_its_parts(tiny, model):
    train = dataclasses.replace(tiny.train, latent_weight=0.7, dsm_weight=0.3, balance_weight=0.05)
    total, parts = measured(train, model, 1)
    expected = (
        parts["token"]
        + 0.7 * parts["latent"]
        + 0.3 * parts["score_matching"]
        + 0.05 * parts["balance"]
    )
    assert total.item() == pytest.approx(expected, rel=1e-6)
    assert parts["loss"] == total.item()
    assert {"gate", "energy"} <= parts.keys()


def test_score_matching_is_left_out_where_it_has_no_weight(tiny, model):
    train = dataclasses.replace(tiny.train, dsm_weight=0.0)
    _, parts = measured(train, model, 1)
    assert "score_matching" not in parts


def test_the_noise_depends_on_the_seed_alone(tiny, model):
    def loss(seed):
        rng = np.random.default_rng(seed)
        return score_matching_loss(model, batch(), (1.0, 5.0), rng).item()

    first, second, other = (measured(tiny.train, model, seed)[1] for seed in (4, 4, 5))
    assert first == second
    assert other["score_matching"] != first["score_matching"]
    assert loss(1) == loss(1) != loss(2)


def test_score_matching_trains_the_splats_and_the_context(model):
    model.zero_grad()
    score_matching_loss(model, batch(), (1.0, 5.0), np.random.default_rng(3)).backward()
    for name in ("mu", "log_alpha", "kappa_logit", "token_directions"):
        gradient = getattr(model, name).grad
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0, name
    model.zero_grad()


def test_the_report_has_every_level_and_needs_a_window(tiny, model):
    text = batch(seed=5, rows=1, length=200)[0].numpy().astype(np.int32)
    levels = evaluate_score_matching(model, TokenStream(text, VOCAB, 50), tiny)
    assert [level.kappa for level in levels] == list(tiny.train.dsm_levels)
    for level in levels:
        assert 0 <= level.floor < 1
        assert level.explained == pytest.approx((1 - level.loss) / (1 - level.floor), rel=1e-9)
    again = evaluate_score_matching(model, TokenStream(text, VOCAB, 50), tiny)
    assert again == levels
    assert evaluate_score_matching(model, TokenStream(text[:12], VOCAB, 3), tiny) == ()


def test_a_model_that_is_the_source_of_the_latents_explains_them(tiny, numba_device):
    # Token directions drawn from the model's own splats, without context: what is left
    # unexplained is noise. 8 splats in 64 dimensions stay apart at each of its levels.
    vocab, d = 200, 64
    overrides = [f"model.dim={d}", "model.n_splats=8", "data.block_size=66"]
    config = apply_overrides(tiny, overrides)
    model = build_model(config, vocab, numba_device)
    rng = np.random.default_rng(6)
    with torch.no_grad():
        chosen = rng.integers(len(model.mu), size=vocab)
        a = model.concentration().numpy().astype(np.float64)[chosen]
        directions = sample_vmf(a[:, None] * model.mu.numpy()[chosen].astype(np.float64), rng)
        model.token_directions.copy_(torch.from_numpy(directions))
        model.log_alpha.zero_()
        for parameter in model.context.parameters():
            parameter.zero_()
    tokens = rng.permutation(vocab).astype(np.int32)
    levels = evaluate_score_matching(model, TokenStream(tokens, vocab, 1), config)
    assert len(tokens) > REPORT_ROWS
    for level in levels:
        # The spread of a mean of 128 losses of d-1 degrees of freedom, over what is explainable.
        error = math.sqrt(2 / (d - 1) / REPORT_ROWS) / (1 - level.floor)
        assert level.explained == pytest.approx(1, abs=4 * error)


TERMS = [
    "energy.lambda_geom=0.5", "energy.lambda_comp=0.3", "energy.lambda_entropy=0.2",
    "energy.rho_min=0.9", "energy.term_neighbours=6", "energy.spread_loss=0.01",
    "energy.coverage_loss=0.1", "energy.pair_loss=0.1", "energy.entropy_loss=0.02",
]  # fmt: skip
LATENT_LOSSES = {"spread": 0.01, "coverage": 0.1, "pairs": 0.1, "negative_entropy": 0.02}
LEARNED = ("lambda_spread", "lambda_cover", "rho_min", "sharpness", "lambda_comp", "lambda_entropy")


@pytest.fixture(scope="module")
def with_terms(tiny):
    return apply_overrides(tiny, TERMS)


def test_latents_shape_the_model_and_score_matching_teaches_the_terms(with_terms, numba_device):
    model = build_model(with_terms, VOCAB, numba_device)
    total, parts = measured(with_terms.train, model, 1)
    shaping = sum(weight * parts[name] for name, weight in LATENT_LOSSES.items())
    train = dataclasses.replace(with_terms.train, terms_weight=0.0)
    expected = (
        parts["token"] + train.latent_weight * parts["latent"] + shaping
        + train.dsm_weight * parts["score_matching"] + train.balance_weight * parts["balance"]
        + 0.1 * parts["term_matching"]
    )  # fmt: skip
    assert total.item() == pytest.approx(expected, rel=1e-6)
    for name in LEARNED:
        start = getattr(with_terms.energy, name)
        assert parts[name] == pytest.approx(start, rel=1e-6)
    model.zero_grad()
    Objective(train)(model, batch(), seed=1)[0].backward()
    assert all(parameter.grad is None for parameter in model.terms.parameters())
    model.zero_grad()
    term_matching_loss(model, batch(), (1.0, 5.0), np.random.default_rng(3)).backward()
    taught = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert taught == {f"terms.{name}" for name, _ in model.terms.named_parameters()}


def test_the_gradient_of_term_matching_is_its_slope(with_terms, numba_device):
    """Central differences of step 1e-2 of a float32 loss near 1 are exact to 1e-5 or so."""
    model = build_model(with_terms, VOCAB, numba_device)
    with torch.no_grad():
        model.terms.logs["sharpness"].fill_(math.log(2))

    def loss():
        return term_matching_loss(model, batch(), (1.0, 5.0), np.random.default_rng(3))

    loss().backward()
    for name, parameter in model.terms.named_parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for i in range(len(flat)):
            start, values = float(flat[i]), []
            for step in (1e-2, -1e-2):
                flat[i] = start + step
                values.append(loss().item())
            flat[i] = start
            slope = (values[0] - values[1]) / 2e-2
            assert gradient[i].item() == pytest.approx(slope, rel=0.01, abs=5e-5), name


def test_the_report_is_of_the_whole_energy(with_terms, numba_device):
    model = build_model(with_terms, VOCAB, numba_device)
    text = batch(seed=5, rows=1, length=200)[0].numpy().astype(np.int32)
    stream = TokenStream(text, VOCAB, 50)
    with torch.no_grad():
        model.terms.logs["lambda_comp"].fill_(math.log(20.0))
    pulled = evaluate_score_matching(model, stream, with_terms)
    with torch.no_grad():
        for log in model.terms.logs.values():
            log.fill_(-50.0)
    faded = evaluate_score_matching(model, stream, with_terms)
    off = [f"energy.{name}=0" for name in ("lambda_geom", "lambda_comp", "lambda_entropy")]
    plain = build_model(apply_overrides(with_terms, off), VOCAB, numba_device)
    plain.load_state_dict(model.state_dict(), strict=False)
    for level, other in zip(faded, evaluate_score_matching(plain, stream, with_terms), strict=True):
        assert level.loss == pytest.approx(other.loss, rel=1e-5)
    assert all(a.loss != b.loss and a.floor == b.floor for a, b in zip(pulled, faded, strict=True))


def test_terms_learn_in_a_run_and_resume_to_the_same_bits(
    with_terms, tmp_path, numba_device, model_files
):
    config = apply_overrides(
        with_terms,
        ["train.steps=8", "train.checkpoint_every=3", "train.eval_every=8", "train.log_every=2",
         "train.warmup_steps=0", "train.keep_last=9"],
    )  # fmt: skip
    Trainer(config, tmp_path / "whole", numba_device).train()
    whole = RunFolder(tmp_path / "whole")
    shutil.copytree(whole.path, tmp_path / "cut")
    cut = RunFolder(tmp_path / "cut")
    cut.commit(3, None)
    torch.manual_seed(99)
    Trainer(config, cut.path, numba_device, resume=True).train()
    assert model_files(cut) == model_files(whole)
    lines = [line for line in whole.read_metrics() if "loss" in line]
    assert all({*LATENT_LOSSES, *LEARNED, "term_matching"} <= line.keys() for line in lines)
    loaded = load_run(whole.path, numba_device, "last").model
    learned = loaded.terms.configuration()
    assert learned == loaded.energy_config
    for name in LEARNED:
        assert getattr(learned, name) != getattr(config.energy, name), name
    assert learned.pair_coefficients != config.energy.pair_coefficients


def test_langevin_latents_feel_what_the_terms_have_learned(with_terms, numba_device):
    config = apply_overrides(with_terms, ["sampler.n_steps=3"])
    model = build_model(config, VOCAB, numba_device)
    tokens = batch()[:, :12]
    before = model.next_token_log_probs(tokens, "langevin", 3)
    assert torch.equal(model.next_token_log_probs(tokens, "langevin", 3), before)
    with torch.no_grad():
        model.terms.logs["lambda_comp"].fill_(math.log(50.0))
    assert not torch.equal(model.next_token_log_probs(tokens, "langevin", 3), before)


@pytest.mark.usefixtures("no_fallbacks")
def test_terms_are_the_same_on_a_gpu(with_terms, numba_device, wgpu_device):
    gpu = torch_device.device()
    host, there = (build_model(with_terms, VOCAB, device) for device in (numba_device, gpu))
    there.load_state_dict(host.state_dict())
    there.to("wgpu")
    found = []
    for model in (host, there):
        total, parts = measured(with_terms.train, model, 2)
        total.backward()
        gradients = [p.grad.cpu().flatten() for p in model.terms.parameters()]
        found.append((parts, torch.cat([*gradients, model.mu.grad.cpu().flatten()])))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-4, abs=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-5)
