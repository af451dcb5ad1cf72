import numpy as np
import pytest
import torch
from torch import nn

from ebm_wgpu.training.averaging import WARMUP, WeightAverage, learning, load_learning


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.tied = self.weight
        self.mu = nn.Parameter(torch.eye(4)[:2].clone())
        self.mu.spherical = True
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("count", torch.zeros(1))


def walk(seed, steps=30):
    """A model that walks at random, its average, and the weights it had."""
    rng = np.random.default_rng(seed)
    model = Model()
    average = WeightAverage(model, 0.8)
    seen = [model.weight.detach().numpy().astype(np.float64)]
    for _ in range(steps):
        with torch.no_grad():
            model.weight += torch.from_numpy(rng.standard_normal(3)).float()
            model.mu.copy_(nn.functional.normalize(torch.randn(2, 4), dim=1))
        average.update(model)
        seen.append(model.weight.detach().numpy().astype(np.float64))
    return model, average, seen


def test_the_average_is_the_recursion_in_float64():
    torch.manual_seed(0)
    model, average, seen = walk(1)
    expected = seen[0]
    for n, weight in enumerate(seen[1:], 1):
        decay = min(0.8, (1 + n) / (WARMUP + n))
        expected = decay * expected + (1 - decay) * weight
    with average.applied(model):
        # 30 steps of three roundings each, of numbers up to about 20.
        np.testing.assert_allclose(model.weight.detach().numpy(), expected, atol=90 * 20 * 6e-8)


def test_spherical_rows_stay_on_the_sphere():
    model, average, _ = walk(2)
    with average.applied(model):
        lengths = model.mu.detach().double().norm(dim=1).numpy()
    np.testing.assert_allclose(lengths, 1, atol=4 * 6e-8)


def test_the_live_weights_come_back_to_the_bit_also_after_an_error():
    model, average, _ = walk(3)
    before = {name: weight.detach().clone() for name, weight in learning(model).items()}
    with pytest.raises(RuntimeError, match="x"), average.applied(model):
        assert not torch.equal(model.weight, before["weight"])
        raise RuntimeError("x")
    for name, weight in learning(model).items():
        assert torch.equal(weight, before[name])


def test_only_what_learns_is_averaged_and_each_once():
    assert set(learning(Model())) == {"weight", "mu"}


def test_missing_weights_are_an_error():
    with pytest.raises(KeyError, match="mu"):
        load_learning(Model(), {"weight": torch.ones(3)})


def test_weights_that_stay_are_their_own_average():
    model = Model()
    average = WeightAverage(model, 0.999)
    for _ in range(5):
        average.update(model)
    assert average.updates == 5
    with average.applied(model):
        assert torch.equal(model.weight, torch.zeros(3))
        assert torch.equal(model.mu, torch.eye(4)[:2])
