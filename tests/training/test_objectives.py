import dataclasses
import math

import numpy as np
import pytest
import torch

from ebm_wgpu.config import apply_overrides
from ebm_wgpu.models.registry import build_model
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.training.objectives import (
    REPORT_ROWS,
    Objective,
    evaluate_score_matching,
    score_matching_loss,
)
from ebm_wgpu.vmf import sample_vmf

VOCAB = 30


@pytest.fixture(scope="module")
def model(tiny, numba_device):
    return build_model(tiny, VOCAB, numba_device)


def batch(seed=0, rows=2, length=13):
    return torch.from_numpy(np.random.default_rng(seed).integers(VOCAB, size=(rows, length)))


def test_the_loss_is_the_weighted_sum_of_its_parts(tiny, model):
    train = dataclasses.replace(tiny.train, latent_weight=0.7, dsm_weight=0.3, balance_weight=0.05)
    total, parts = Objective(train)(model, batch(), seed=1)
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
    _, parts = Objective(train)(model, batch(), seed=1)
    assert "score_matching" not in parts


def test_the_noise_depends_on_the_seed_alone(tiny, model):
    def loss(seed):
        rng = np.random.default_rng(seed)
        return score_matching_loss(model, batch(), (1.0, 5.0), rng).item()

    objective = Objective(tiny.train)
    first, second = (objective(model, batch(), seed=4)[1] for _ in range(2))
    assert first == second
    assert objective(model, batch(), seed=5)[1]["score_matching"] != first["score_matching"]
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
