"""Operations on tensors of torch.device("wgpu"): as in main memory, and nothing leaves it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ebm_wgpu.torch_device as torch_device
from ebm_wgpu.errors import KernelError
from ebm_wgpu.gpu.runtime import GpuRuntime
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models import mixture_ops, ops
from ebm_wgpu.models.kernel_tensors import Kernels

INDEX = torch.tensor([[0, 2], [1, 0], [2, 1]], dtype=torch.int32)
TARGET = torch.tensor([4, 0, 6])


def _readout(device: KernelDevice, *t: Tensor) -> Tensor:
    splats = mixture_ops.Splats(t[1], 20 + t[2].square(), t[3])
    first = TARGET.to(t[0].device) // 2
    parts = mixture_ops.mixture_readout(device, t[0], splats, first, first + 3)
    return torch.cat([parts.log_z, parts.log_mass, parts.mean.flatten()])


def _energy(device: KernelDevice, *t: Tensor) -> Tensor:
    return mixture_ops.mixture_energy(device, t[0], mixture_ops.Splats(t[1], t[2].exp(), t[3]))


def _experts(device: KernelDevice, *t: Tensor) -> Tensor:
    gate = ops.expert_gate(device, t[0] @ t[1].T, 2)
    return ops.expert_ffn(device, t[0], ops.Experts(*t[2:6]), INDEX.to(t[0].device), gate.weight)


CALLS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "matmul": (ops.matmul, ((5, 8), (8, 6))),
    "transposed": (lambda device, a, b: ops.matmul(device, a.T, b.T), ((8, 5), (6, 8))),
    "normalize": (ops.normalize, ((3, 8),)),
    "context": (
        lambda device, x, q, k: ops.hierarchical_context(device, x, q, k, ops.Windows(2, 5, 4)),
        ((2, 9, 8), (2, 9, 8), (2, 9, 8)),
    ),
    "experts": (_experts, ((3, 8), (3, 8), (3, 8, 7), (3, 7), (3, 7, 5), (3, 5))),
    "feed forward": (
        lambda device, x, *network: ops.feed_forward(device, x, ops.Experts(*network)),
        ((2, 3, 6), (1, 6, 10), (1, 10), (1, 10, 5), (1, 5)),
    ),
    "readout": (_readout, ((3, 8), (7, 8), (7,), (7,))),
    "energy": (_energy, ((3, 8), (7, 8), (7,), (7,))),
    "target": (
        lambda device, x, table, bias: mixture_ops.target_log_softmax(
            device, x, table, bias, TARGET.to(x.device)
        ),
        ((3, 8), (7, 8), (7,)),
    ),
    "log weights": (
        lambda device, s, a, log_pi, h2: mixture_ops.mixture_posterior(
            device,
            mixture_ops.mixture_log_weights(
                device, s, mixture_ops.Splats(s.new_zeros(7, 8), a.exp(), log_pi), h2.exp()
            ),
        )[0],
        ((3, 7), (7,), (7,), (3,)),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients_are_those_of_main_memory(
    name: str, numba_device: KernelDevice
) -> None:
    call, shapes = CALLS[name]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    results = []
    for device, place in ((numba_device, "cpu"), (torch_device.device(), "wgpu")):
        leaves = [t.to(place).requires_grad_() for t in inputs]
        out = call(device, *leaves)
        upstream = torch.linspace(-1, 1, out.numel()).view(out.shape).to(place)
        gradients = torch.autograd.grad(out, leaves, upstream, allow_unused=True)
        assert out.device.type == place
        results.append([out, *gradients])
    for expected, actual in zip(*results, strict=True):
        assert (expected is None) == (actual is None)
        if expected is not None:
            scale = float(expected.detach().abs().max())
            torch.testing.assert_close(
                actual.detach().cpu(), expected.detach(), rtol=0, atol=1e-4 * scale + 1e-6
            )


def test_nothing_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    call, shapes = CALLS["target"]
    leaves = [torch.ones(shape, device="wgpu", requires_grad=True) for shape in shapes]

    def refuse(*arguments: object) -> None:
        raise AssertionError("read back")

    monkeypatch.setattr(GpuRuntime, "read", refuse)
    call(torch_device.device(), *leaves).sum().backward()


def test_products_add_to_what_is_there(any_device: KernelDevice) -> None:
    a, b = torch.arange(6.0).view(2, 3), torch.ones(3, 2)
    kernels = Kernels(any_device, a)
    total = kernels.product(a, b)
    total = kernels.product(a.T.contiguous().T, b, add_to=total)
    assert kernels.tensor(total).tolist() == [[6, 6], [24, 24]]


def test_tensors_of_the_device_need_its_kernels(numba_device: KernelDevice) -> None:
    with pytest.raises(KernelError, match="another device"):
        ops.normalize(numba_device, torch.ones(2, 8, device="wgpu"))
