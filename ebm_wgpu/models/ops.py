"""Differentiable torch operations computed by the kernels of a device (`kernel_tensors`).

Tensors are in main memory, where Numba copies none, or on torch.device("wgpu"). Gradients are
kernels too, and can be taken once (no second derivatives). All tensors are float32 but indices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models.kernel_tensors import Kernels


class _Matmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, device: KernelDevice, halve: bool, a: Tensor, b: Tensor) -> Tensor:
        ctx.kernels = kernels = Kernels(device, a)
        if halve:
            a, b = kernels.halved(a), kernels.halved(b)
        ctx.save_for_backward(a, b)
        return kernels.tensor(kernels.product(a, b))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        kernels, wanted = ctx.kernels, ctx.needs_input_grad
        grad_a = kernels.tensor(kernels.product(grad, b.T)) if wanted[2] else None
        grad_b = kernels.tensor(kernels.product(a.T, grad)) if wanted[3] else None
        return None, None, grad_a, grad_b


def matmul(device: KernelDevice, a: Tensor, b: Tensor) -> Tensor:
    """The product a b of matrices (M, K) and (K, N); a transposed view is not copied.

    Raises:
        KernelError: the shapes do not fit together.
    """
    return _Matmul.apply(device, False, a, b)


def linear(device: KernelDevice, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias for rows x (..., I), weight (O, I) and bias (O,): (..., O).

    Within `kernel_tensors.half_operands` rows and weight are read, and kept, as float16.

    Raises:
        KernelError: the shapes do not fit together.
    """
    out = _Matmul.apply(device, True, x.reshape(-1, x.shape[-1]), weight.T)
    if bias is not None:
        out = out + bias
    return out.reshape(*x.shape[:-1], len(weight))


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, device: KernelDevice, x: Tensor) -> Tensor:
        ctx.kernels = Kernels(device, x)
        ctx.save_for_backward(x)
        (out,) = ctx.kernels.outputs("sphere_normalize", "out", x=x)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return None, *ctx.kernels.outputs("sphere_normalize_backward", "grad_x", x=x, grad_out=grad)


def normalize(device: KernelDevice, x: Tensor) -> Tensor:
    """x/|x| for rows x (..., d); zero rows stay zero."""
    return _Normalize.apply(device, x.reshape(-1, x.shape[-1])).reshape(x.shape)


class Windows(NamedTuple):
    """How far back the three summaries of a context see, in tokens."""

    recent: int
    decay: int
    attention: int


class _HierarchicalContext(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        device: KernelDevice,
        x: Tensor,
        q: Tensor,
        k: Tensor,
        windows: Windows,
        scale: float,
    ) -> Tensor:
        params = {
            "recent_window": windows.recent,
            "decay_window": windows.decay,
            "attention_window": windows.attention,
            "scale": scale,
        }
        ctx.kernels, ctx.params = Kernels(device, x), params
        out, lse = ctx.kernels.outputs(
            "hierarchical_context", "out", "lse", x=x, q=q, k=k, **params
        )
        ctx.save_for_backward(x, q, k, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, q, k, out, lse = ctx.saved_tensors
        gradients = ctx.kernels.outputs(
            "hierarchical_context_backward",
            *("grad_x", "grad_q", "grad_k"),
            x=x,
            q=q,
            k=k,
            out=out,
            lse=lse,
            grad_out=grad,
            **ctx.params,
        )
        return None, *gradients, None, None


def hierarchical_context(
    device: KernelDevice, x: Tensor, q: Tensor, k: Tensor, windows: Windows, scale: float = 1.0
) -> Tensor:
    """Recent mean, exponential mean and attention of x at every position: (B, T, 3, d).

    Position t sees itself and what came before it; see `kernels.hierarchical_context`.

    Args:
        device: runs the kernels.
        x: values, (B, T, d).
        q: queries, (B, T, d).
        k: keys, (B, T, d).
        windows: how far each summary sees.
        scale: factor of the scores q.k.

    Raises:
        KernelError: shapes that differ, or windows the kernel cannot hold.
    """
    return _HierarchicalContext.apply(device, x, q, k, windows, scale)


class _GatedLogP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, device: KernelDevice, a: Tensor, b: Tensor, gate: Tensor) -> Tensor:
        ctx.kernels = Kernels(device, a)
        ctx.save_for_backward(a, b, gate)
        (out,) = ctx.kernels.outputs("gated_log_p", "out", a=a, b=b, gate=gate)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, gate = ctx.saved_tensors
        names = ("grad_a", "grad_b", "grad_gate")
        found = ctx.kernels.outputs(
            "gated_log_p_backward", *names, a=a, b=b, gate=gate, grad_out=grad
        )
        return None, *found


def gated_log_p(device: KernelDevice, a: Tensor, b: Tensor, gate: Tensor) -> Tensor:
    """log((1 - s) exp(a) + s exp(b)) with s = sigmoid(gate), all (P,); b may be -inf."""
    return _GatedLogP.apply(device, a, b, gate)


class Gate(NamedTuple):
    """Choice of experts: choice and weight (B, A); load and importance (E,)."""

    choice: Tensor
    weight: Tensor
    load: Tensor
    importance: Tensor


class _ExpertGate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, device: KernelDevice, logits: Tensor, n_active: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.kernels = Kernels(device, logits)
        index, weight, load, importance = ctx.kernels.outputs(
            "expert_gate", "index", "weight", "load", "importance", logits=logits, A=n_active
        )
        ctx.save_for_backward(logits, index, weight)
        ctx.mark_non_differentiable(index, load)
        return index, weight, load, importance

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, _index: Tensor, grad_weight: Tensor, _load: Tensor, grad_importance: Tensor
    ) -> tuple[Tensor | None, ...]:
        logits, index, weight = ctx.saved_tensors
        (grad_logits,) = ctx.kernels.outputs(
            "expert_gate_backward",
            "grad_logits",
            logits=logits,
            index=index,
            weight=weight,
            grad_weight=grad_weight,
            grad_importance=grad_importance,
        )
        return None, grad_logits, None


def expert_gate(device: KernelDevice, logits: Tensor, n_active: int) -> Gate:
    """The `n_active` best experts of each row of logits (B, E), weighted by their softmax.

    Weights and importance are differentiable; see `kernels.expert_gate`.

    Raises:
        KernelError: more active experts than there are.
    """
    return Gate(*_ExpertGate.apply(device, logits, n_active))


class Experts(NamedTuple):
    """Parameters of E feed-forward networks: (E, I, H), (E, H), (E, H, O) and (E, O)."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor


class _ExpertFfn(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        device: KernelDevice,
        x: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        index: Tensor,
        weight: Tensor,
    ) -> Tensor:
        ctx.kernels = Kernels(device, x)
        networks = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
        out, pre = ctx.kernels.outputs(
            "expert_ffn", "out", "pre", x=x, **networks, index=index, weight=weight
        )
        ctx.save_for_backward(x, w1, w2, b2, index, weight, pre)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, w2, b2, index, weight, pre = ctx.saved_tensors
        kernels: Kernels = ctx.kernels
        shared = {"index": index, "weight": weight, "pre": pre, "grad_out": grad}
        shared = {name: kernels.array(tensor) for name, tensor in shared.items()}
        rows = kernels.run("expert_ffn_backward", **shared, w1=w1, w2=w2, b2=b2)
        sums = kernels.outputs(
            "expert_ffn_weight_backward",
            *("grad_w1", "grad_b1", "grad_w2", "grad_b2"),
            **shared,
            x=x,
            grad_pre=rows["grad_pre"],
            E=len(w1),
        )
        grad_x, grad_weight = (kernels.tensor(rows[f"grad_{name}"]) for name in ("x", "weight"))
        return None, grad_x, *sums, None, grad_weight


def expert_ffn(
    device: KernelDevice, x: Tensor, experts: Experts, index: Tensor, weight: Tensor
) -> Tensor:
    """sum_a weight_a (W2 gelu(W1 x + b1) + b2) with the experts of each row: (B, O).

    GELU is the tanh form; see `kernels.expert_ffn`.

    Args:
        device: runs the kernels.
        x: (B, I).
        experts: their parameters.
        index: (B, A) int32, different experts in each row.
        weight: (B, A).

    Raises:
        KernelError: shapes that do not fit together.
    """
    return _ExpertFfn.apply(device, x, *experts, index, weight)


def feed_forward(device: KernelDevice, x: Tensor, network: Experts) -> Tensor:
    """W2 gelu(W1 x + b1) + b2 for rows x (..., I) and a single network (E = 1): (..., O)."""
    rows = x.reshape(-1, x.shape[-1])
    index = torch.zeros(len(rows), 1, dtype=torch.int32, device=x.device)
    weight = torch.ones(len(rows), 1, device=x.device)
    out = expert_ffn(device, rows, network, index, weight)
    return out.reshape(*x.shape[:-1], out.shape[-1])


def chunks(rows: int, columns: int, entries: int) -> list[slice]:
    """Consecutive parts of `rows` rows whose matrices of `columns` columns hold at most `entries`.

    A part has at least one row, even where one row alone is longer than that.
    """
    step = max(1, entries // max(1, columns))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
