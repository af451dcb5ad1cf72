"""Rows of a table by token, and their gradient summed in a fixed order."""

from __future__ import annotations

import torch

from ebm_wgpu.torch_device.indexing import accumulate
from ebm_wgpu.torch_device.ordering import stable_order
from ebm_wgpu.torch_device.registration import claim, implements
from ebm_wgpu.torch_device.tensors import empty, run_kernel


@implements("embedding")
def embedding(
    weight: torch.Tensor,
    indices: torch.Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> torch.Tensor:
    """The row of the table for each index; a row of NaN for one outside the table."""
    if indices.dtype not in (torch.int64, torch.int32):
        raise RuntimeError("embedding(): indices must be of type int64 or int32")
    out = empty((indices.numel(), weight.shape[1]), weight.dtype)
    if out.numel():
        run_kernel("embedding", weight=weight, ids=indices.reshape(-1), out=out)
    return out.view(*indices.shape, weight.shape[1])


@implements("embedding_dense_backward")
def embedding_dense_backward(
    grad_output: torch.Tensor,
    indices: torch.Tensor,
    num_weights: int,
    padding_idx: int,
    scale_grad_by_freq: bool,
) -> torch.Tensor:
    """For each row of the table the sum (or the mean) of the gradients of its tokens, in order."""
    width = grad_output.shape[-1]
    grad_weight = empty((num_weights, width), grad_output.dtype)
    ids = indices.reshape(-1)
    if not ids.numel() or not grad_weight.numel():
        return grad_weight.zero_()
    order, sorted_ids = stable_order(ids)
    run_kernel(
        "embedding_backward",
        order=order,
        sorted_ids=sorted_ids,
        grad_out=grad_output.reshape(-1, width),
        padding_index=padding_idx,
        grad_weight=grad_weight,
    )
    if scale_grad_by_freq:
        counts = torch.zeros((num_weights, 1), dtype=torch.float32, device=indices.device)
        accumulate(counts, ids, torch.ones((len(ids), 1), device=indices.device))
        grad_weight.div_(counts.clamp_(min=1))
    return grad_weight


claim("nn.functional.embedding")
