"""Nothing aborts the process: exceptions in backward passes, threads, the interpreter's end."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import ebm_wgpu.torch_device as torch_device
from ebm_wgpu.torch_device import UnsupportedOperatorError

PROGRAM = """
import torch, ebm_wgpu.torch_device
x = torch.ones(300, device="wgpu", requires_grad=True)
(x * x).exp().backward(torch.ones(300, device="wgpu"))
print("%.4f" % x.grad[0].item())
"""
AFTER_BACKWARD = """
import torch
y = torch.ones(3, requires_grad=True)
y.sum().backward()
import ebm_wgpu.torch_device
assert not ebm_wgpu.torch_device.backward_threads
""" + PROGRAM.split("\n", 2)[2]


class Raises(torch.autograd.Function):
    """Raises in backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        raise ValueError("raised in backward")


class Unsupported(torch.autograd.Function):
    """Uses an operator without a kernel in backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(grad)


def _leaf() -> torch.Tensor:
    return torch.ones(3, device="wgpu", requires_grad=True)


def test_exceptions_in_backward_surface() -> None:
    ones = torch.ones(3, device="wgpu")
    with pytest.raises(ValueError, match="raised in backward"):
        Raises.apply(_leaf().exp()).backward(ones)
    with pytest.raises(UnsupportedOperatorError, match="bessel"):
        Unsupported.apply(_leaf().exp()).backward(ones)


def test_an_exception_in_backward_leaves_nothing_behind() -> None:
    ones = torch.ones(3, device="wgpu")
    runtime = torch_device.device().runtime
    gc.collect()
    before = runtime.pool.live_bytes
    x = torch.ones(70_000, device="wgpu", requires_grad=True)
    with pytest.raises(ValueError, match="raised in backward"):
        Raises.apply((x * x).exp())[:3].backward(ones)
    assert x.grad is None
    (x * x)[:3].backward(ones)
    assert x.grad is not None
    assert x.grad[:4].tolist() == [2.0, 2.0, 2.0, 0.0]
    del x
    gc.collect()
    assert runtime.pool.live_bytes == before


def test_exceptions_in_hooks_surface() -> None:
    assert torch_device.hooks_may_raise

    def hook(grad: torch.Tensor) -> None:
        raise ValueError("raised in a hook")

    y = _leaf().exp()
    y.register_hook(hook)
    with pytest.raises(ValueError, match="raised in a hook"):
        (y * 2).backward(torch.ones(3, device="wgpu"))
    x = _leaf()
    (x * 2).backward(torch.ones(3, device="wgpu"))
    assert x.grad is not None
    assert x.grad.tolist() == [2.0] * 3


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant: bool) -> None:
    x = _leaf()
    y = checkpoint(lambda t: (t * t).exp(), x, use_reentrant=reentrant)
    y.backward(torch.ones(3, device="wgpu"))
    assert x.grad is not None
    torch.testing.assert_close(x.grad.cpu(), torch.full((3,), 2 * torch.e))


def test_threads_do_not_disturb_each_other() -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            x = torch.randn(50, generator=torch.Generator().manual_seed(seed))
            for _ in range(20):
                host = x.clone().requires_grad_()
                leaf = x.to("wgpu").requires_grad_()
                for tensor in (host, leaf):
                    y = (tensor * seed).tanh() * tensor
                    y.backward(torch.ones(50, device=tensor.device))
                assert host.grad is not None
                assert leaf.grad is not None
                torch.testing.assert_close(leaf.grad.cpu(), host.grad)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def _exit(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "5.4366\n"), done.stderr


def test_the_interpreter_ends_in_order() -> None:
    _exit(PROGRAM)


def test_a_backward_pass_before_the_import_does_no_harm() -> None:
    _exit(AFTER_BACKWARD)


@pytest.mark.slow
def test_a_hundred_exits() -> None:
    """Run with `pytest -m slow tests/torch_device/test_guard.py`."""
    for _ in range(100):
        _exit(PROGRAM)
