"""Splats as parameters: whose they are, what age does to their weights, and limits of kappa."""

import numpy as np
import pytest
import torch

from ebm_wgpu.config import EnergyConfig, ModelConfig
from ebm_wgpu.models.splat_mixture import SplatMixture
from ebm_wgpu.splats.health import YOUNG
from ebm_wgpu.splats.store import SplatStore

CONFIG = ModelConfig(dim=8, n_splats=4, kappa_min=2.0, kappa_max=20.0)


def mixture(**columns):
    model = SplatMixture(CONFIG, EnergyConfig(), 4)
    columns = {"kappa": 5.0, "kappa_range": (2.0, 20.0)} | columns
    model.load_store(SplatStore.from_directions(np.eye(8)[:4], **columns))
    return model


def test_only_old_splats_in_disuse_lose_weight():
    model = mixture(alpha=[1, 2, 3, 4], frequency=[0.5, 0, 0, 0.5], age=[500, YOUNG, YOUNG - 1, 0])
    model.decay_weights(0.25)
    assert model.to_store().alpha == pytest.approx([1, 2 * np.exp(-0.25), 3, 4], rel=1e-6)
    model.frequency[1] = 0.5
    model.decay_weights(0.25)
    assert model.to_store().alpha[1] == pytest.approx(2 * np.exp(-0.25), rel=1e-6)


@pytest.mark.parametrize("push", [-1e3, 1e3])
def test_kappa_stays_within_its_limits_whatever_training_does(push):
    model = mixture()
    with torch.no_grad():
        model.kappa_logit.fill_(push)
    assert torch.equal(model.kappa(), torch.full((4,), 20.0 if push > 0 else 2.0))
    again = mixture()
    again.load_store(model.to_store())
    again.kappa().sum().backward()
    # From a limit there is a way back: the gradient of a reloaded splat is not zero.
    assert bool((again.kappa_logit.grad > 0).all())


def test_the_groups_of_tokens_follow_the_splats_there_are():
    model = mixture()
    asked = torch.tensor([[3, 0], [1, 2]])
    for sid in ([0, 1, 2, 3], [3, 1, 1, 0], [2, 2, 2, 2], [1, 3, 1, 3, 0, 3]):
        directions = np.eye(8)[: len(sid)]
        model.load_store(SplatStore.from_directions(directions, kappa=1.0, sid=sid))
        first, last = model.groups(asked)
        assert first.shape == last.shape == asked.shape
        for token, start, stop in zip(
            asked.flatten(), first.flatten(), last.flatten(), strict=True
        ):
            assert model.sid[start:stop].tolist() == [int(token)] * sid.count(int(token))
    assert model.groups(asked.flatten())[0].tolist() == first.flatten().tolist()
