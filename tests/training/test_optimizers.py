import math

import numpy as np
import pytest
import torch
from torch import nn

from ebm_wgpu.config import TrainConfig
from ebm_wgpu.kernels import open_device
from ebm_wgpu.sphere import expmap, proju, random_uniform, transp
from ebm_wgpu.training.optimizers import ADAM_EPS, Optimizers, RiemannianAdam


@pytest.fixture(scope="module", params=["numba", "wgpu"])
def device(request):
    return open_device(request.param)


def unit_rows(n, d, seed=0):
    return nn.Parameter(
        torch.from_numpy(random_uniform(np.random.default_rng(seed), n, d).astype(np.float32))
    )


def reference_steps(mu, gradients, lr, betas):
    """The update in float64 with the geometry of `ebm_wgpu.sphere`."""
    momentum, square = np.zeros_like(mu), np.zeros(len(mu))
    for t, gradient in enumerate(gradients, start=1):
        tangent = proju(mu, gradient)
        momentum = betas[0] * momentum + (1 - betas[0]) * tangent
        square = betas[1] * square + (1 - betas[1]) * (tangent**2).sum(1)
        length = np.sqrt(square / (1 - betas[1] ** t)) + ADAM_EPS
        moved = expmap(mu, -lr / (1 - betas[0] ** t) * momentum / length[:, None])
        momentum, mu = transp(mu, moved, momentum), moved
    return mu, momentum, square


@pytest.mark.parametrize("d", [8, 65])
def test_steps_equal_the_float64_reference(device, d):
    rng = np.random.default_rng(1)
    mu = unit_rows(7, d)
    start = mu.detach().double().numpy()
    gradients = rng.standard_normal((6, 7, d)).astype(np.float32)
    optimizer = RiemannianAdam([mu], device, lr=0.1, betas=(0.8, 0.9))
    for gradient in gradients:
        mu.grad = torch.from_numpy(gradient)
        optimizer.step()
    expected, momentum, square = reference_steps(
        start, gradients.astype(np.float64), 0.1, (0.8, 0.9)
    )
    state = optimizer.state[mu]
    # Six steps of a dozen float32 roundings each on numbers of order 1; sqrt(d) for the momentum.
    np.testing.assert_allclose(mu.detach().numpy(), expected, rtol=0, atol=4e-6)
    np.testing.assert_allclose(state["momentum"].numpy(), momentum, rtol=0, atol=2e-5)
    np.testing.assert_allclose(state["square"].numpy(), square, rtol=1e-5)


def test_rows_stay_on_the_sphere_and_momenta_tangent(device):
    rng = np.random.default_rng(2)
    mu = unit_rows(20, 40)
    optimizer = RiemannianAdam([mu], device, lr=0.3)
    for _ in range(150):
        mu.grad = torch.from_numpy(rng.standard_normal((20, 40)).astype(np.float32)) * 1e3
        optimizer.step()
    rows = mu.detach().double()
    momentum = optimizer.state[mu]["momentum"].double()
    assert rows.norm(dim=1).sub(1).abs().max() < 1e-6
    assert ((rows * momentum).sum(1).abs() / momentum.norm(dim=1)).max() < 2e-6


def test_a_quadratic_on_the_sphere_falls_to_its_closed_form_minimum(device):
    # min over |x| = 1 of x' A x is the least eigenvalue of A, at its eigenvector.
    rng = np.random.default_rng(3)
    basis, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    eigenvalues = np.linspace(1, 5, 12)
    matrix = torch.from_numpy((basis * eigenvalues) @ basis.T).float()
    mu = unit_rows(5, 12, seed=4)
    optimizer = RiemannianAdam([mu], device, lr=0.05)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / 300)) / 2
        optimizer.zero_grad()
        ((mu @ matrix) * mu).sum().backward()
        optimizer.step()
    values = ((mu @ matrix) * mu).sum(1).detach().numpy()
    np.testing.assert_allclose(values, 1.0, atol=1e-4)
    np.testing.assert_allclose(np.abs(mu.detach().numpy() @ basis[:, 0]), 1.0, atol=1e-4)


def test_rows_without_gradient_do_not_move(device):
    mu = unit_rows(4, 16)
    start = mu.detach().clone()
    optimizer = RiemannianAdam([mu], device, lr=0.1)
    mu.grad = torch.zeros(4, 16)
    mu.grad[1, 2] = 1.0
    optimizer.step()
    still = torch.tensor([0, 2, 3])
    # Renormalising may round the last bit.
    torch.testing.assert_close(mu.detach()[still], start[still], rtol=0, atol=1e-7)
    angle = torch.arccos((mu.detach()[1] * start[1]).sum()).item()
    assert angle == pytest.approx(0.1, rel=1e-3)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = unit_rows(3, 8)
        self.mu.spherical = True
        self.log_alpha = nn.Parameter(torch.zeros(3))
        self.log_alpha.splat_rate = True
        self.matrix = nn.Parameter(torch.ones(2, 2))
        self.bias = nn.Parameter(torch.ones(2))
        self.table = nn.Parameter(torch.ones(2, 2))
        self.table.no_decay = True
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


TRAIN = TrainConfig(lr=0.01, lr_splats=0.5, weight_decay=0.1, betas=(0.9, 0.95))


def test_parameters_get_their_rates_and_only_matrices_decay():
    model = Model()
    optimizers = Optimizers(model, TRAIN, open_device("numba"))
    start = model.mu.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model.log_alpha.grad += 1.0
    model.bias.grad += 1.0
    model.mu.grad[0, 0] = 1.0
    optimizers.step(0.5)
    # Adam's first step moves by the rate, here half of what is configured.
    assert model.log_alpha.detach().numpy() == pytest.approx([-0.25] * 3, rel=1e-5)
    assert model.bias.detach().numpy() == pytest.approx([1 - 0.005] * 2, rel=1e-5)
    assert model.matrix.detach().numpy() == pytest.approx(np.full((2, 2), 1 - 0.005 * 0.1))
    assert torch.equal(model.table, torch.ones(2, 2))
    assert torch.equal(model.frozen, torch.ones(2, 2))
    angle = torch.arccos((model.mu.detach()[0] * start[0]).sum()).item()
    assert angle == pytest.approx(0.25, rel=1e-3)


def test_clip_bounds_the_common_norm():
    model = Model()
    optimizers = Optimizers(model, TRAIN, open_device("numba"))
    model.bias.grad = torch.tensor([3.0, 0.0])
    model.mu.grad = torch.zeros(3, 8)
    model.mu.grad[0, 0] = 4.0
    length = optimizers.gradient_norm().item()
    assert length == pytest.approx(5.0)
    optimizers.clip(length, 1.0)
    assert model.bias.grad[0].item() == pytest.approx(0.6, rel=1e-5)
    assert model.mu.grad[0, 0].item() == pytest.approx(0.8, rel=1e-5)
    assert optimizers.gradient_norm().item() == pytest.approx(1.0, rel=1e-5)
    optimizers.zero_grad()
    assert model.bias.grad is None


def test_a_saved_state_continues_bit_for_bit(tmp_path):
    def steps(model, optimizers, seeds):
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizers.step(1.0)

    device = open_device("numba")
    model = Model()
    optimizers = Optimizers(model, TRAIN, device)
    steps(model, optimizers, range(4))
    torch.save({"m": model.state_dict(), "o": optimizers.state_dict()}, tmp_path / "s.pt")
    steps(model, optimizers, range(4, 8))

    saved = torch.load(tmp_path / "s.pt", weights_only=True)
    other = Model()
    other.load_state_dict(saved["m"])
    resumed = Optimizers(other, TRAIN, device)
    resumed.load_state_dict(saved["o"])
    steps(other, resumed, range(4, 8))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
