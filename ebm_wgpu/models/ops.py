"""Differentiable torch operations on tensors in main memory, computed by the kernels of a device.

On Numba no tensor is copied; on wgpu inputs go up and results come down once a call. Gradients are
kernels too, and can be taken once (no second derivatives). All tensors are float32 but indices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ebm_wgpu.kernels import DeviceArray, KernelDevice


def upload(device: KernelDevice, tensor: Tensor) -> DeviceArray:
    """A float32 tensor on the device, to be used by several kernels; not to be written to.

    On Numba this is the tensor's own memory.
    """
    host = host_array(tensor)
    if device.name == "numba":
        return DeviceArray(device, host.shape, "f32", host)
    return device.array(host)


def host_array(tensor: Tensor) -> Any:
    """The NumPy array of a tensor, contiguous; shares its memory where it can."""
    return tensor.detach().contiguous().numpy()


def as_tensor(array: DeviceArray) -> Tensor:
    """The tensor of a device array; on Numba it shares its memory."""
    return torch.from_numpy(array.numpy())


def _operand(tensor: Tensor) -> tuple[Any, int]:
    """The array of a matrix or of its transpose, whichever is contiguous; 1 for the latter."""
    if not tensor.is_contiguous() and tensor.T.is_contiguous():
        return host_array(tensor.T), 1
    return host_array(tensor), 0


def _product(device: KernelDevice, a: Tensor, b: Tensor) -> Tensor:
    (left, trans_a), (right, trans_b) = _operand(a), _operand(b)
    result = device.run("matmul", a=left, b=right, trans_a=trans_a, trans_b=trans_b)
    return as_tensor(result["out"])


class _Matmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, device: KernelDevice, a: Tensor, b: Tensor) -> Tensor:
        ctx.device = device
        ctx.save_for_backward(a, b)
        return _product(device, a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        grad_a = _product(ctx.device, grad, b.T) if ctx.needs_input_grad[1] else None
        grad_b = _product(ctx.device, a.T, grad) if ctx.needs_input_grad[2] else None
        return None, grad_a, grad_b


def matmul(device: KernelDevice, a: Tensor, b: Tensor) -> Tensor:
    """The product a b of matrices (M, K) and (K, N); a transposed view is not copied.

    Raises:
        KernelError: the shapes do not fit together.
    """
    return _Matmul.apply(device, a, b)


def linear(device: KernelDevice, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias for rows x (..., I), weight (O, I) and bias (O,): (..., O).

    Raises:
        KernelError: the shapes do not fit together.
    """
    out = matmul(device, x.reshape(-1, x.shape[-1]), weight.T)
    if bias is not None:
        out = out + bias
    return out.reshape(*x.shape[:-1], len(weight))


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, device: KernelDevice, x: Tensor) -> Tensor:
        ctx.device = device
        ctx.save_for_backward(x)
        return as_tensor(device.run("sphere_normalize", x=host_array(x))["out"])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        result = ctx.device.run(
            "sphere_normalize_backward", x=host_array(x), grad_out=host_array(grad)
        )
        return None, as_tensor(result["grad_x"])


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
        inputs = {"x": host_array(x), "q": host_array(q), "k": host_array(k)}
        result = device.run("hierarchical_context", **inputs, **params)
        out, lse = as_tensor(result["out"]), as_tensor(result["lse"])
        ctx.device, ctx.params = device, params
        ctx.save_for_backward(x, q, k, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        names = ("x", "q", "k", "out", "lse")
        saved = {n: host_array(t) for n, t in zip(names, ctx.saved_tensors, strict=True)}
        result = ctx.device.run(
            "hierarchical_context_backward", **saved, grad_out=host_array(grad), **ctx.params
        )
        return (
            None,
            as_tensor(result["grad_x"]),
            as_tensor(result["grad_q"]),
            as_tensor(result["grad_k"]),
            None,
            None,
        )


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
        result = device.run("expert_gate", logits=host_array(logits), A=n_active)
        index, weight = as_tensor(result["index"]), as_tensor(result["weight"])
        load, importance = as_tensor(result["load"]), as_tensor(result["importance"])
        ctx.device = device
        ctx.save_for_backward(logits, index, weight)
        ctx.mark_non_differentiable(index, load)
        return index, weight, load, importance

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, _index: Tensor, grad_weight: Tensor, _load: Tensor, grad_importance: Tensor
    ) -> tuple[Tensor | None, ...]:
        logits, index, weight = ctx.saved_tensors
        result = ctx.device.run(
            "expert_gate_backward",
            logits=host_array(logits),
            index=host_array(index),
            weight=host_array(weight),
            grad_weight=host_array(grad_weight),
            grad_importance=host_array(grad_importance),
        )
        return None, as_tensor(result["grad_logits"]), None


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
        names = ("x", "w1", "b1", "w2", "b2", "index", "weight")
        tensors = (x, w1, b1, w2, b2, index, weight)
        arrays = {n: host_array(t) for n, t in zip(names, tensors, strict=True)}
        result = device.run("expert_ffn", **arrays)
        ctx.device = device
        ctx.save_for_backward(x, w1, w2, b2, index, weight, as_tensor(result["pre"]))
        return as_tensor(result["out"])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        names = ("x", "w1", "w2", "b2", "index", "weight", "pre")
        saved = {n: host_array(t) for n, t in zip(names, ctx.saved_tensors, strict=True)}
        x, n_experts = saved.pop("x"), len(saved["w1"])
        shared = {n: saved[n] for n in ("index", "weight", "pre")} | {"grad_out": host_array(grad)}
        matrices = {n: saved[n] for n in ("w1", "w2", "b2")}
        rows = ctx.device.run("expert_ffn_backward", **shared, **matrices)
        sums = ctx.device.run(
            "expert_ffn_weight_backward",
            **shared,
            x=x,
            grad_pre=rows["grad_pre"],
            E=n_experts,
        )
        return (
            None,
            as_tensor(rows["grad_x"]),
            *(as_tensor(sums[f"grad_{name}"]) for name in ("w1", "b1", "w2", "b2")),
            None,
            as_tensor(rows["grad_weight"]),
        )


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
    index = torch.zeros(len(rows), 1, dtype=torch.int32)
    weight = torch.ones(len(rows), 1)
    out = expert_ffn(device, rows, network, index, weight)
    return out.reshape(*x.shape[:-1], out.shape[-1])


def chunks(rows: int, columns: int, entries: int) -> list[slice]:
    """Consecutive parts of `rows` rows whose matrices of `columns` columns hold about `entries`."""
    step = max(1, entries // max(1, columns))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
