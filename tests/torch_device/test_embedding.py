"""Rows by token: repeated, padded, and none of the table."""

from __future__ import annotations

import torch

import ebm_wgpu.torch_device  # noqa: F401


def test_gradients_of_repeated_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(11, 4, generator=generator)
    ids = torch.randint(0, 11, (6, 9), generator=generator)
    grads = []
    for device in ("cpu", "wgpu"):
        w = weight.to(device).detach().requires_grad_()
        rows = torch.nn.functional.embedding(ids.to(device), w, padding_idx=3)
        rows.square().sum().backward()
        assert w.grad is not None
        grads.append(w.grad.cpu())
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-6, atol=1e-5)
    assert torch.equal(grads[1][3], torch.zeros(4))


def test_more_tokens_than_are_counted_are_sorted() -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 500, (9000,), generator=generator)
    rows = torch.randn(9000, 2, generator=generator)
    exact = torch.zeros(500, 2, dtype=torch.float64).index_add(0, ids, rows.double())
    for scaled in (False, True):
        weight = torch.zeros(500, 2, device="wgpu", requires_grad=True)
        out = torch.nn.functional.embedding(ids.to("wgpu"), weight, scale_grad_by_freq=scaled)
        (grad,) = torch.autograd.grad(out, weight, rows.to("wgpu"))
        counts = ids.bincount(minlength=500).clamp(min=1)[:, None] if scaled else 1
        torch.testing.assert_close(grad.cpu(), (exact / counts).float(), rtol=1e-5, atol=1e-5)


def test_tokens_outside_the_table_are_rows_of_nan() -> None:
    weight = torch.ones(3, 2, device="wgpu")
    rows = torch.nn.functional.embedding(torch.tensor([0, 3, -1]).to("wgpu"), weight)
    assert rows.isnan().all(1).cpu().tolist() == [False, True, True]
