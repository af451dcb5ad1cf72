import dataclasses

import numpy as np
import pytest
import torch

from ebm_wgpu.errors import CheckpointError
from ebm_wgpu.models.registry import build_model
from ebm_wgpu.training.checkpoints import Checkpoint
from ebm_wgpu.training.model_state import model_weights, restore_model, splat_statistics

VOCAB = 30


@pytest.fixture
def model(tiny, numba_device):
    model = build_model(tiny, VOCAB, numba_device)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.log_alpha.normal_(generator=generator)
        model.kappa_logit.normal_(generator=generator)
        model.age += 3
    return model


def checkpoint(model, tmp_path):
    store, weights = model_weights(model)
    return Checkpoint(tmp_path, 1, store, weights)


def test_every_tensor_comes_back_bit_for_bit(tiny, model, tmp_path, numba_device):
    other = build_model(tiny, VOCAB, numba_device)
    restore_model(other, checkpoint(model, tmp_path))
    state = other.state_dict()
    for name, tensor in model.state_dict().items():
        assert state[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def test_no_large_tensor_is_written_twice(model):
    store, weights = model_weights(model)
    assert "mu" not in weights
    assert np.array_equal(store.mu, model.mu.detach().numpy())
    assert {"token_directions", "log_alpha", "kappa_logit"} <= weights.keys()


def test_restoring_keeps_the_parameters_that_optimisers_hold(model, tmp_path):
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    restore_model(model, checkpoint(model, tmp_path))
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before


def test_another_shape_is_refused_before_anything_is_changed(tiny, model, tmp_path, numba_device):
    config = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, n_splats=41))
    other = build_model(config, VOCAB, numba_device)
    before = other.mu.detach().clone()
    message = r"tensor mu is float32 \(40, 16\) and the model's is float32 \(41, 16\)"
    with pytest.raises(CheckpointError, match=message):
        restore_model(other, checkpoint(model, tmp_path))
    assert torch.equal(other.mu, before)


def test_even_splats_are_all_effective_and_at_no_limit(tiny, numba_device):
    model = build_model(tiny, VOCAB, numba_device)
    with torch.no_grad():
        model.log_alpha.zero_()
    figures = splat_statistics(model, (1.0, 50.0), np.ones(VOCAB, np.int64))
    assert figures["effective"] == pytest.approx(tiny.model.n_splats, rel=1e-5)
    shares = model.frequency.numpy()
    entropy = -(shares * np.log(shares)).sum() / shares.sum() + np.log(shares.sum())
    assert figures["effective_use"] == pytest.approx(np.exp(entropy), rel=1e-9)
    assert figures["kappa_min"] == pytest.approx(tiny.model.kappa_init, rel=1e-5)
    assert figures["kappa_max"] == pytest.approx(tiny.model.kappa_init, rel=1e-5)
    assert (figures["at_kappa_min"], figures["at_kappa_max"]) == (0, 0)
    # The range may end where they are.
    assert splat_statistics(model, (1.0, 5.0), np.ones(VOCAB, np.int64))["at_kappa_max"] == 1
    assert splat_statistics(model, (5.0, 9.0), np.ones(VOCAB, np.int64))["at_kappa_min"] == 1


def test_dead_splats_cover_nothing(tiny, model):
    counts = np.arange(VOCAB)
    with torch.no_grad():
        model.frequency.fill_(1 / tiny.model.n_splats)
        model.frequency[model.sid == 7] = 0.009 / tiny.model.n_splats
        # Of two splats of token 8, one is enough.
        (first, *_) = (model.sid == 8).nonzero()[0]
        model.frequency[first] = 0
    figures = splat_statistics(model, (1.0, 50.0), counts)
    of_seven, of_eight = int((model.sid == 7).sum()), int((model.sid == 8).sum())
    assert of_seven >= 1 and of_eight >= 2
    assert figures["count"] == tiny.model.n_splats
    assert figures["active"] == tiny.model.n_splats - of_seven - 1
    assert figures["coverage"] == pytest.approx(1 - 7 / counts.sum())
