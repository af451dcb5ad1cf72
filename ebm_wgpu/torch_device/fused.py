"""What models compute in one kernel where torch composes it, or has no word for it.

Their derivatives are kernels too, the second ones included; of SwiGLU, third and further ones are
made of torch's operators.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ebm_wgpu.kernels.products import multiply
from ebm_wgpu.torch_device import state
from ebm_wgpu.torch_device.matmul import operand
from ebm_wgpu.torch_device.tensors import as_array, empty, run_kernel

_NO_TARGET = -(2**31)
"""The kernels leave out targets of a number that may be chosen: one that none has."""


class _Heads(torch.autograd.Function):
    """The kernel `attention_heads`, which is linear."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        (batch, length, width), dimension = x.shape, 2 * cos.shape[-1]
        shape = (batch, width // (3 * dimension), length, dimension)
        q, k, v = (empty(shape, x.dtype) for _ in range(3))
        if x.numel():
            run_kernel("attention_heads", x=x, cos=cos, sin=sin, q=q, k=k, v=v)
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _HeadsGradient.apply(*gradients, *ctx.saved_tensors), None, None


class _HeadsGradient(torch.autograd.Function):
    """The kernel `attention_heads_backward`, which is linear and whose gradient is `_Heads`."""

    @staticmethod
    def forward(
        ctx: Any,
        grad_q: torch.Tensor,
        grad_k: torch.Tensor,
        grad_v: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        batch, heads, length, dimension = grad_q.shape
        out = empty((batch, length, 3 * heads * dimension), grad_q.dtype)
        if out.numel():
            given = {"grad_q": grad_q, "grad_k": grad_k, "grad_v": grad_v, "cos": cos, "sin": sin}
            run_kernel("attention_heads_backward", **given, grad_x=out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*_Heads.apply(*gradients, *ctx.saved_tensors), None, None)


def attention_heads(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values (B, H, T, D) of x (B, T, 3 H D); see `models.rotary`.

    Args:
        x: float32 or float16.
        cos: (T, D/2) or, with tables of each text, (B, 1, T, D/2); no gradient reaches it.
        sin: the same.
    """
    tables = (table[None] if table.dim() == 2 else table[:, 0] for table in (cos, sin))
    heads: tuple[torch.Tensor, ...] = _Heads.apply(x, *tables)
    return heads


class _Swiglu(torch.autograd.Function):
    """silu(gate) up of rows [gate | up]."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        out = empty((len(x), x.shape[1] // 2), x.dtype)
        if out.numel():
            run_kernel("swiglu", x=x, out=out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        result: torch.Tensor = _SwigluGradient.apply(x, *gradients)
        return result


class _SwigluGradient(torch.autograd.Function):
    """The gradient of `_Swiglu`, itself a function of x and of the gradient that comes in."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, grad)
        out = empty(x.shape, x.dtype)
        if out.numel():
            run_kernel("swiglu_backward", x=x, grad_out=grad, grad_x=out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (x, grad), (pull,) = ctx.saved_tensors, gradients
        if not torch.is_grad_enabled():
            out = empty(x.shape, x.dtype), empty(grad.shape, grad.dtype)
            if x.numel():
                given = {"x": x, "grad_out": grad, "pull": pull}
                run_kernel("swiglu_double_backward", **given, grad_x=out[0], grad_grad=out[1])
            return out
        (gate, up), (to_gate, to_up) = x.chunk(2, -1), pull.chunk(2, -1)
        share = gate.sigmoid()
        slope = share * (1 + gate * (1 - share))
        bend = share * (1 - share) * (2 + gate * (1 - 2 * share))
        through_up = to_gate * slope
        grad_gate = grad * (to_gate * up * bend + to_up * slope)
        grad_grad = through_up * up + to_up * gate * share
        return torch.cat((grad_gate, grad * through_up), -1), grad_grad


def swiglu(x: torch.Tensor) -> torch.Tensor:
    """silu(gate) up of x = [gate | up]: (..., 2 N) gives (..., N)."""
    out: torch.Tensor = _Swiglu.apply(x.reshape(-1, x.shape[-1]))
    return out.view(*x.shape[:-1], out.shape[-1])


def log_peak(a: torch.Tensor, dimension: int) -> tuple[torch.Tensor, torch.Tensor]:
    """a - log Z0(a) and its derivative, each of the shape of a; see the kernel `vmf_log_peak`."""
    out, slope = (empty(a.shape, a.dtype) for _ in range(2))
    if a.numel():
        flat = {"k": a.reshape(-1), "out": out.view(-1), "slope": slope.view(-1)}
        run_kernel("vmf_log_peak", **flat, dimension=dimension)
    return out, slope


def _product(
    left: torch.Tensor, right: torch.Tensor, out: torch.Tensor, **ending: Any
) -> torch.Tensor:
    """left right in `out`, a tensor made by `empty` or `zeros`; types may differ."""
    if out.numel():
        (a, trans_a), (b, trans_b) = operand(left), operand(right)
        ending |= {"trans_a": trans_a, "trans_b": trans_b, "out": as_array(out)}
        multiply(state.device(), a, b, **ending)
    return out


def linear_gelu(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """gelu(x weight^T), GELU by tanh: (..., I) and (O, I) give (..., O).

    Where no gradient is wanted, which needs what GELU is applied to, the product applies it itself.
    """
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return F.gelu(F.linear(x, weight), approximate="tanh")
    if torch.is_autocast_enabled("wgpu"):
        lower = torch.get_autocast_dtype("wgpu")
        x, weight = x.to(lower), weight.to(lower)
    rows = x.reshape(-1, x.shape[-1])
    out = empty((len(rows), len(weight)), x.dtype)
    _product(rows, weight.mT, out, activation="gelu_tanh")
    return out.view(*x.shape[:-1], len(weight))


def linear_cross_entropy(
    h: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    targets: torch.Tensor,
    smoothing: float,
    sums: tuple[torch.Tensor, torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Sum of the cross-entropies of logits h weight^T + bias, which become their own gradient.

    Args:
        h: (R, D).
        weight: (V, D), of the type of h.
        bias: (V,).
        targets: (R,), in [0, V); others give NaN.
        smoothing: share of a target that is spread over all tokens.
        sums: what the gradients of weight and bias are added to, (V, D) and (V,); none if no
            gradient is wanted.

    Returns:
        The sum, float32, and the gradient of h if one is wanted.
    """
    logits = _product(
        h, weight.mT, empty((len(h), len(weight)), torch.float32), bias=as_array(bias)
    )
    loss, lse = (empty((len(h),), torch.float32) for _ in range(2))
    options = {"targets": targets, "ignore_index": _NO_TARGET, "smoothing": smoothing}
    run_kernel("cross_entropy", logits=logits, loss=loss, lse=lse, **options)
    if sums is None:
        return loss.sum(), None
    run_kernel(
        "cross_entropy_backward", logits=logits, lse=lse, grad_loss=torch.ones_like(lse), **options
    )
    _product(logits.mT, h, sums[0], accumulate=True)
    sums[1].add_(logits.sum(0))
    return loss.sum(), _product(logits, weight, empty(h.shape, h.dtype))
