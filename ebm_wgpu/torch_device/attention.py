"""Scaled dot-product attention by the fused kernels, which hold no matrix of scores.

The gradient is fused too. A gradient that is to be differentiated again (`create_graph=True`) is
made of matrix products and softmax instead, and so is attention that the kernels do not cover:
heads wider than `MAX_HEAD_DIM`, values of another width than keys, masks that learn.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.gpu.replay import Drawn
from ebm_wgpu.kernels._attention import HIDDEN, MAX_HEAD_DIM, attention_params
from ebm_wgpu.kernels.spec import Scalar
from ebm_wgpu.torch_device.generator import next_draw
from ebm_wgpu.torch_device.registration import claim, implements_with_gradient
from ebm_wgpu.torch_device.tensors import empty, is_device_tensor, run_kernel

_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio, odd: multiples of it do not repeat in 2^64."""


class _Attention(torch.autograd.Function):
    """Attention of heads q (G, T, D) over k and v (KV, S, D) under a mask (M, 1 or T, 1 or S)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor,
        params: dict[str, Scalar],
    ) -> torch.Tensor:
        out, lse = empty(q.shape, q.dtype), empty(q.shape[:2], torch.float32)
        run_kernel("attention", q=q, k=k, v=v, mask=mask, out=out, lse=lse, **params)
        ctx.params = params
        ctx.save_for_backward(q, k, v, mask, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, mask, out, lse = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (*_gradient_by_products(grad, q, k, v, mask, ctx.params), None, None)
        grad_q, delta = empty(q.shape, q.dtype), empty(lse.shape, torch.float32)
        shared = {"q": q, "k": k, "v": v, "mask": mask, "lse": lse, "grad_out": grad.contiguous()}
        run_kernel(
            "attention_query_backward", **shared, out=out, grad_q=grad_q, delta=delta, **ctx.params
        )
        if not any(ctx.needs_input_grad[1:3]):
            return grad_q, None, None, None, None
        grad_k, grad_v = empty(k.shape, k.dtype), empty(v.shape, v.dtype)
        run_kernel(
            "attention_key_backward",
            **shared,
            delta=delta,
            grad_k=grad_k,
            grad_v=grad_v,
            **ctx.params,
        )
        return grad_q, grad_k, grad_v, None, None


def _gradient_by_products(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
    params: dict[str, Scalar],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of `_Attention` for q, k and v, in operators that can be differentiated.

    Raises:
        DeviceError: dropout, whose choice the kernels keep to themselves.
    """
    if params["dropout"]:
        raise DeviceError(
            "attention with dropout has no second derivative on the device: use dropout_p=0 where "
            "gradients are differentiated"
        )
    heads = (len(k), len(q) // len(k), *q.shape[1:])
    queries, pull, scale = q.view(heads), grad.reshape(heads), float(params["scale"])
    keys, values = k[:, None], v[:, None]
    scores = scale * (queries @ keys.mT)
    if params["masked"]:
        lead = (*heads[:2], *mask.shape[1:])
        mask = mask.repeat_interleave(len(q) // len(mask), 0) if len(mask) > 1 else mask
        mask = mask.expand(len(q), *mask.shape[1:]).reshape(lead)
        unseen = (mask <= HIDDEN).expand(scores.shape)
        scores = (scores + mask).masked_fill(unseen, HIDDEN)
    elif params["causal"]:
        last = torch.arange(q.shape[1], device=q.device)[:, None] + int(params["offset"])
        unseen = (torch.arange(k.shape[1], device=q.device) > last).expand(scores.shape)
        scores = scores.masked_fill(unseen, HIDDEN)
    share = scores.softmax(-1)
    if params["masked"] or params["causal"]:
        share = share.masked_fill(unseen, 0.0)
    grad_share = pull @ values.mT
    grad_scores = scale * share * (grad_share - (grad_share * share).sum(-1, keepdim=True))
    return (
        (grad_scores @ keys).view(q.shape),
        (grad_scores.mT @ queries).sum(1),
        (share.mT @ pull).sum(1),
    )


def _heads_mask(
    mask: torch.Tensor | None, lead: torch.Size, device: torch.device
) -> tuple[torch.Tensor, bool]:
    """A mask that broadcasts to (*lead, T, S) as the kernels take it, and whether there is one."""
    if mask is None:
        return empty((1, 1, 1), torch.float32), False
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, device=device).masked_fill_(~mask, -math.inf)
    mask = mask.float()
    mask = mask.view((1,) * (len(lead) + 2 - mask.dim()) + mask.shape)
    own = len(lead)
    while own and mask.shape[own - 1] == 1:
        own -= 1
    full = (*lead[:own], *mask.shape[own:])
    return mask.expand(full).reshape(-1, *mask.shape[-2:]).contiguous(), True


def _is_fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> bool:
    """Whether the kernels cover a call."""
    width = query.shape[-1]
    tensors = (query, key, value)
    return (
        query.dim() > 2
        and all(is_device_tensor(t) and t.is_floating_point() for t in tensors)
        and query.dtype == key.dtype == value.dtype
        and key.shape == value.shape
        and key.shape[-1] == width <= MAX_HEAD_DIM
        and min(t.numel() for t in tensors) > 0
        and (mask is None or not mask.requires_grad)
    )


def _seed() -> int:
    """A seed of its own for each call, from the device's generator."""
    seed, draw = next_draw()
    return Drawn((seed + draw * _GOLDEN) % 2**64, per_draw=_GOLDEN)


@implements_with_gradient("scaled_dot_product_attention")
def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """softmax(scale query key^T + mask) value, as `torch.nn.functional` has it.

    Args:
        query: (..., T, D).
        key: (..., S, D).
        value: (..., S, D).
        attn_mask: added to the scores, or truth values of the keys that are seen.
        dropout_p: probability with which a share is dropped.
        is_causal: query t sees keys 0 to t.
        scale: of the scores; 1/sqrt(D) by default.
        enable_gqa: several heads of queries may share one of keys.

    Raises:
        RuntimeError: a mask beside `is_causal`.
    """
    if is_causal and attn_mask is not None:
        raise RuntimeError(
            "scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True"
        )
    if not _is_fused(query, key, value, attn_mask):
        result: torch.Tensor = torch.ops.aten._scaled_dot_product_attention_math(
            query,
            key,
            value,
            attn_mask,
            dropout_p,
            is_causal,
            None,
            scale=scale,
            enable_gqa=enable_gqa,
        )[0]
        return result
    lead = query.shape[:-2]
    key_lead = key.shape[:-2]
    if lead != key_lead and not (enable_gqa and lead[:-1] == key_lead[:-1]):
        lead = key_lead = torch.broadcast_shapes(lead, key_lead)
    length, width = query.shape[-2:]
    mask, masked = _heads_mask(attn_mask, lead, query.device)
    params = attention_params(
        1 / math.sqrt(width) if scale is None else scale,
        causal=is_causal,
        masked=masked,
        dropout=dropout_p,
        seed=_seed() if dropout_p else 0,
    )
    heads = [
        tensor.expand(*shape, *tensor.shape[-2:]).reshape(-1, *tensor.shape[-2:]).contiguous()
        for tensor, shape in ((query, lead), (key, key_lead), (value, key_lead))
    ]
    return _Attention.apply(*heads, mask, params).view(*lead, length, width)


claim("nn.functional.scaled_dot_product_attention")
