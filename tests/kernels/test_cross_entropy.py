"""Cross-entropy against torch, and of a linear layer by chunks of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ebm_wgpu.kernels import KernelDevice

ROWS, VOCABULARY, WIDTH = 22, 37, 9


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [5, ROWS])
def test_a_linear_layer_by_chunks_is_that_of_torch(
    any_device: KernelDevice, smoothing: float, chunk: int
) -> None:
    rng = np.random.default_rng(3)
    hidden = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    weight = rng.standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
    targets = rng.integers(0, VOCABULARY, ROWS).astype(np.int32)
    targets[4] = -100
    options = {"ignore_index": -100, "smoothing": smoothing}

    exact = [torch.from_numpy(x).double().requires_grad_() for x in (hidden, weight)]
    expected = F.cross_entropy(
        exact[0] @ exact[1].T,
        torch.from_numpy(targets).long(),
        reduction="sum",
        label_smoothing=smoothing,
    )
    expected.backward()

    loss, grad_hidden = 0.0, np.zeros_like(hidden)
    grad_weight = np.zeros_like(weight)
    on_device = any_device.array(weight)
    for start in range(0, ROWS, chunk):
        rows = slice(start, min(start + chunk, ROWS))
        part = any_device.array(hidden[rows])
        logits = any_device.run("matmul", a=part, b=on_device, trans_a=0, trans_b=1)["out"]
        of_chunk = {"logits": logits, "targets": targets[rows], **options}
        forward = any_device.run("cross_entropy", **of_chunk)
        gradient = any_device.run(
            "cross_entropy_backward",
            **of_chunk,
            lse=forward["lse"],
            grad_loss=np.ones(rows.stop - start),
        )["logits"]
        assert gradient is logits
        loss += float(forward["loss"].numpy().sum())
        product = any_device.run("matmul", a=gradient, b=on_device, trans_a=0, trans_b=0)
        grad_hidden[rows] = product["out"].numpy()
        product = any_device.run("matmul", a=gradient, b=part, trans_a=1, trans_b=0)
        grad_weight += product["out"].numpy()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    for result, right in zip((grad_hidden, grad_weight), exact, strict=True):
        assert right.grad is not None
        np.testing.assert_allclose(result, right.grad.numpy(), atol=1e-5)
