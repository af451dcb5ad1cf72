"""Tensors of the device: memory that dies with the last view, types that are refused, kernels."""

import gc

import pytest
import torch

import ebm_wgpu.torch_device as torch_device
from ebm_wgpu.errors import DeviceError, KernelError
from ebm_wgpu.gpu.runtime import GpuRuntime
from ebm_wgpu.torch_device.tensors import as_array, empty, memory, run_kernel


def test_memory_is_freed_with_the_last_view() -> None:
    gc.collect()
    pool = torch_device.device().runtime.pool
    before = pool.live_bytes
    whole = torch.zeros(1 << 18, device="wgpu")
    assert pool.live_bytes - before == 1 << 20
    view = whole[5:].view(-1, 1)
    del whole
    assert pool.live_bytes - before == 1 << 20
    del view
    assert pool.live_bytes == before


def test_memory_that_only_autograd_holds_is_kept_and_then_freed() -> None:
    gc.collect()
    pool = torch_device.device().runtime.pool
    x = torch.ones(5000, device="wgpu", requires_grad=True)
    before = pool.live_bytes
    y = (x * 2).exp()
    held = pool.live_bytes
    for _ in range(5):
        torch.zeros(5000, device="wgpu")
    y.backward(torch.ones(5000, device="wgpu"))
    assert x.grad is not None
    assert x.grad[0].item() == pytest.approx(2 * torch.e**2, rel=1e-6)
    x.grad = None
    del y
    assert held > before == pool.live_bytes


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64, torch.uint8])
def test_types_without_a_stored_form_are_refused_by_name(dtype: torch.dtype) -> None:
    with pytest.raises(DeviceError, match=f"not {dtype}: convert first"):
        torch.zeros(3, dtype=dtype).to("wgpu")
    with pytest.raises(DeviceError, match=f"not {dtype}: convert first"):
        torch.empty(3, dtype=dtype, device="wgpu")


def test_kernels_take_tensors_and_make_views_contiguous() -> None:
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    on_device = x.to("wgpu")
    for view, expected in ((on_device.t(), x.t()), (on_device[1:], x[1:])):
        out = empty(view.shape, torch.float32)
        run_kernel("sphere_normalize", x=view, out=out)
        torch.testing.assert_close(out.cpu(), torch.nn.functional.normalize(expected))


def test_an_output_that_would_be_copied_is_an_error() -> None:
    x = torch.ones(8, 8, device="wgpu")
    with pytest.raises(KernelError, match="'out' must be contiguous"):
        run_kernel("sphere_normalize", x=x, out=torch.empty(8, 8, device="wgpu").t())


def test_aligned_views_are_bound_in_place() -> None:
    x = torch.arange(256, device="wgpu")
    assert as_array(x[64:]).storage.block is memory(x).block
    assert as_array(x[1:]).storage.block is not memory(x).block


def test_a_model_too_large_for_the_card_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime: GpuRuntime = torch_device.device().runtime
    gc.collect()
    runtime.trim()
    monkeypatch.setattr(runtime, "memory_budget", runtime.pool.allocated_bytes + (4 << 20))
    kept = torch.zeros(1 << 19, device="wgpu")
    with pytest.raises(DeviceError, match="out of memory"):
        torch.zeros(1 << 20, device="wgpu")
    del kept
    assert torch.zeros(1 << 20, device="wgpu").numel() == 1 << 20


def test_torch_wgpu_counts_memory() -> None:
    before = torch.wgpu.memory_allocated()
    torch.wgpu.reset_peak_memory_stats()
    x = torch.zeros(1 << 18, device="wgpu")
    assert torch.wgpu.memory_allocated() - before == 1 << 20
    del x
    assert torch.wgpu.max_memory_allocated() - before >= 1 << 20
    assert torch.wgpu.memory_reserved() >= torch.wgpu.memory_allocated()
