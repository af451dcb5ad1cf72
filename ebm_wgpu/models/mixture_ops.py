"""Differentiable operations over all splats or all tokens, in parts that bound their memory.

A matrix of rows x splats or rows x tokens is never held for more than `CHUNK_ENTRIES` entries at a
time, unless all of it fits in `KEPT_ENTRIES`: then the products of the forward pass are kept, and
the backward pass need not repeat them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ebm_wgpu.kernels import DeviceArray, KernelDevice
from ebm_wgpu.models.ops import as_tensor, chunks, host_array, upload
from ebm_wgpu.vmf import log_z0, mean_cosine

CHUNK_ENTRIES = 2**22
KEPT_ENTRIES = 2**26


class Splats(NamedTuple):
    """A mixture: directions mu (N, d), concentrations a (N,), log weights log_pi (N,)."""

    mu: Tensor
    a: Tensor
    log_pi: Tensor


class Readout(NamedTuple):
    """What a mixture says of each row: log_z (B,), log_mass (B,) of its group, mean (B, d)."""

    log_z: Tensor
    log_mass: Tensor
    mean: Tensor


class _Kept:
    """Products of the forward pass by chunk, if a backward pass follows and they are few enough."""

    def __init__(self, rows: int, columns: int, differentiate: bool) -> None:
        self._keep = differentiate and rows * columns <= KEPT_ENTRIES
        self._products: list[DeviceArray] = []

    def put(self, product: DeviceArray) -> None:
        if self._keep:
            self._products.append(product)

    def get(
        self, number: int, device: KernelDevice, rows: DeviceArray, table: DeviceArray
    ) -> DeviceArray:
        """The product of a chunk, computed again if it was not kept."""
        if self._keep:
            return self._products[number]
        return _rows_by_table(device, rows, table)


def _rows_by_table(device: KernelDevice, rows: DeviceArray, table: DeviceArray) -> DeviceArray:
    """rows (B, d) times table (N, d), transposed: (B, N)."""
    return device.run("matmul", a=rows, b=table, trans_a=0, trans_b=1)["out"]


def _back_to_rows(device: KernelDevice, grad: DeviceArray, table: DeviceArray) -> Tensor:
    """grad (B, N) times table (N, d): (B, d)."""
    return as_tensor(device.run("matmul", a=grad, b=table, trans_a=0, trans_b=0)["out"])


def _back_to_table(device: KernelDevice, grad: DeviceArray, rows: DeviceArray) -> Tensor:
    """grad (B, N), transposed, times rows (B, d): (N, d)."""
    return as_tensor(device.run("matmul", a=grad, b=rows, trans_a=1, trans_b=0)["out"])


def _indices(tensor: Tensor) -> Any:
    return host_array(tensor).astype(np.int32)


class _MixtureReadout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        device: KernelDevice,
        differentiate: bool,
        h: Tensor,
        mu: Tensor,
        a: Tensor,
        log_pi: Tensor,
        first: Tensor,
        last: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        table, width = upload(device, mu), mu.shape[1]
        square = h.detach().square().sum(1)
        parts, kept = chunks(len(h), len(mu), CHUNK_ENTRIES), _Kept(len(h), len(mu), differentiate)
        groups = {"first": _indices(first), "last": _indices(last)}
        splats = {"a": upload(device, a), "log_pi": upload(device, log_pi)}
        log_z, log_mass = torch.empty(len(h)), torch.empty(len(h))
        tilt, mean = torch.empty(len(h)), torch.empty_like(h, memory_format=torch.contiguous_format)
        for rows in parts:
            s = _rows_by_table(device, upload(device, h[rows]), table)
            kept.put(s)
            result = device.run(
                "mixture_readout",
                s=s,
                h2=host_array(square[rows]),
                **splats,
                **{name: bound[rows] for name, bound in groups.items()},
                dimension=width,
            )
            log_z[rows] = as_tensor(result["log_z"])
            log_mass[rows] = as_tensor(result["log_mass"])
            tilt[rows] = as_tensor(result["tilt"])
            mean[rows] = _back_to_rows(device, result["pull"], table)
        mean += tilt[:, None] * h.detach()
        ctx.device, ctx.kept, ctx.groups = device, kept, groups
        ctx.save_for_backward(h, mu, a, log_pi, square, log_z, log_mass, tilt, mean)
        return log_z, log_mass, mean

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_log_z: Tensor, grad_log_mass: Tensor, grad_mean: Tensor
    ) -> tuple[Tensor | None, ...]:
        h, mu, a, log_pi, square, log_z, log_mass, tilt, mean = ctx.saved_tensors
        device, table, width = ctx.device, upload(ctx.device, mu), mu.shape[1]
        splats = {"a": upload(device, a), "log_pi": upload(device, log_pi)}
        inverse = upload(device, a.reciprocal()[:, None])
        upstream = {
            "h2": square,
            "log_z": log_z,
            "log_mass": log_mass,
            "grad_log_z": grad_log_z,
            "grad_log_mass": grad_log_mass,
            "grad_tilt": (grad_mean * h).sum(1),
            "carried": (grad_mean * mean).sum(1),
        }
        grad_h = tilt[:, None] * grad_mean
        grad_mu, grad_a, grad_log_pi = (torch.zeros_like(t) for t in (mu, a, log_pi))
        for number, rows in enumerate(chunks(len(h), len(mu), CHUNK_ENTRIES)):
            part, pulled = upload(device, h[rows]), upload(device, grad_mean[rows])
            result = device.run(
                "mixture_readout_backward",
                s=ctx.kept.get(number, device, part, table),
                grad_pull=_rows_by_table(device, pulled, table),
                **splats,
                **{name: host_array(value[rows]) for name, value in upstream.items()},
                **{name: bound[rows] for name, bound in ctx.groups.items()},
                dimension=width,
            )
            grad_s = result["grad_s"]
            grad_h[rows] += _back_to_rows(device, grad_s, table)
            grad_h[rows] += _back_to_rows(device, grad_s, inverse) * h[rows]
            grad_mu += _back_to_table(device, grad_s, part)
            grad_mu += _back_to_table(device, result["pull"], pulled)
            grad_a += as_tensor(result["grad_a"])
            grad_log_pi += as_tensor(result["grad_log_pi"])
        return None, None, grad_h, grad_mu, grad_a, grad_log_pi, None, None


def mixture_readout(
    device: KernelDevice, h: Tensor, splats: Splats, first: Tensor, last: Tensor
) -> Readout:
    """log Z(h), the log posterior mass of splats first..last-1, and the mean E[x|h], by rows.

    See `kernels.mixture_readout` for the formulas. The mass of an empty group is -inf, and its
    gradient must then be 0.

    Args:
        device: runs the kernels.
        h: tilts, (B, d).
        splats: the mixture.
        first: (B,) integers, first splat of the row's group.
        last: (B,) integers, one past the last.
    """
    return Readout(*_MixtureReadout.apply(device, torch.is_grad_enabled(), h, *splats, first, last))


class _MixtureEnergy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        device: KernelDevice,
        differentiate: bool,
        x: Tensor,
        mu: Tensor,
        a: Tensor,
        log_w: Tensor,
    ) -> Tensor:
        table, kept = upload(device, mu), _Kept(len(x), len(mu), differentiate)
        splats = {"a": upload(device, a), "log_w": upload(device, log_w)}
        energy = torch.empty(len(x))
        for rows in chunks(len(x), len(mu), CHUNK_ENTRIES):
            s = _rows_by_table(device, upload(device, x[rows]), table)
            kept.put(s)
            energy[rows] = as_tensor(device.run("mixture_energy", s=s, **splats)["energy"])
        ctx.device, ctx.kept = device, kept
        ctx.save_for_backward(x, mu, a, log_w, energy)
        return energy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mu, a, log_w, energy = ctx.saved_tensors
        device, table = ctx.device, upload(ctx.device, mu)
        splats = {"a": upload(device, a), "log_w": upload(device, log_w)}
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[2] else None
        grad_mu, grad_a, grad_log_w = (torch.zeros_like(t) for t in (mu, a, log_w))
        for number, rows in enumerate(chunks(len(x), len(mu), CHUNK_ENTRIES)):
            part = upload(device, x[rows])
            result = device.run(
                "mixture_energy_backward",
                s=ctx.kept.get(number, device, part, table),
                **splats,
                energy=host_array(energy[rows]),
                grad_energy=host_array(grad[rows]),
            )
            grad_mu += _back_to_table(device, result["grad_s"], part)
            grad_a += as_tensor(result["grad_a"])
            grad_log_w += as_tensor(result["grad_log_w"])
            if grad_x is not None:
                grad_x[rows] = _back_to_rows(device, result["grad_s"], table)
        return None, None, grad_x, grad_mu, grad_a, grad_log_w


class _Peak(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, dimension: int) -> Tensor:
        exact = a.detach().double().numpy()
        ctx.slope = torch.from_numpy(1 - mean_cosine(exact, dimension)).to(a.dtype)
        return torch.from_numpy(exact - log_z0(exact, dimension)).to(a.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.slope, None


def log_peak(a: Tensor, dimension: int) -> Tensor:
    """a - log Z0(a): log density of a vMF distribution at its mode, relative to the uniform one.

    a: concentrations, any shape, natural units. Computed in float64.
    """
    return _Peak.apply(a, dimension)


def mixture_energy(device: KernelDevice, x: Tensor, splats: Splats) -> Tensor:
    """E_splats(x) = -log sum_k w_k exp(a_k (mu_k.x - 1)) for unit rows x (B, d): (B,) nats."""
    log_w = splats.log_pi + log_peak(splats.a, splats.mu.shape[1])
    return _MixtureEnergy.apply(device, torch.is_grad_enabled(), x, splats.mu, splats.a, log_w)


class _TargetLogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        device: KernelDevice,
        differentiate: bool,
        x: Tensor,
        table: Tensor,
        bias: Tensor,
        target: Tensor,
    ) -> Tensor:
        weights, shift = upload(device, table), upload(device, bias)
        kept, index = _Kept(len(x), len(table), differentiate), _indices(target)
        log_p, lse = torch.empty(len(x)), torch.empty(len(x))
        for rows in chunks(len(x), len(table), CHUNK_ENTRIES):
            logits = _rows_by_table(device, upload(device, x[rows]), weights)
            kept.put(logits)
            result = device.run(
                "target_log_softmax", logits=logits, bias=shift, target_index=index[rows]
            )
            log_p[rows] = as_tensor(result["log_p"])
            lse[rows] = as_tensor(result["lse"])
        ctx.device, ctx.kept, ctx.index = device, kept, index
        ctx.save_for_backward(x, table, bias, lse)
        return log_p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, table, bias, lse = ctx.saved_tensors
        device, weights, shift = ctx.device, upload(ctx.device, table), upload(ctx.device, bias)
        grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        grad_table, grad_bias = torch.zeros_like(table), torch.zeros_like(bias)
        for number, rows in enumerate(chunks(len(x), len(table), CHUNK_ENTRIES)):
            part = upload(device, x[rows])
            result = device.run(
                "target_log_softmax_backward",
                logits=ctx.kept.get(number, device, part, weights),
                bias=shift,
                target_index=ctx.index[rows],
                lse=host_array(lse[rows]),
                grad_log_p=host_array(grad[rows]),
            )
            grad_x[rows] = _back_to_rows(device, result["grad_logits"], weights)
            grad_table += _back_to_table(device, result["grad_logits"], part)
            grad_bias += as_tensor(result["grad_bias"])
        return None, None, grad_x, grad_table, grad_bias, None


def target_log_softmax(
    device: KernelDevice, x: Tensor, table: Tensor, bias: Tensor, target: Tensor
) -> Tensor:
    """log softmax(x table^T + bias) at one target a row: (B,) nats.

    Args:
        device: runs the kernels.
        x: (B, d).
        table: (V, d).
        bias: (V,).
        target: (B,) integers in [0, V).
    """
    return _TargetLogSoftmax.apply(device, torch.is_grad_enabled(), x, table, bias, target)


class _LogWeights(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        device: KernelDevice,
        s: Tensor,
        a: Tensor,
        log_pi: Tensor,
        h2: Tensor,
        dimension: int,
    ) -> Tensor:
        ctx.device, ctx.dimension = device, dimension
        ctx.save_for_backward(s, a, h2)
        result = device.run(
            "mixture_log_weights",
            s=host_array(s),
            a=host_array(a),
            log_pi=host_array(log_pi),
            h2=host_array(h2),
            dimension=dimension,
        )
        return as_tensor(result["log_W"])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        s, a, h2 = (host_array(t) for t in ctx.saved_tensors)
        result = ctx.device.run(
            "mixture_log_weights_backward",
            s=s,
            a=a,
            h2=h2,
            grad_log_W=host_array(grad),
            dimension=ctx.dimension,
        )
        names = ("s", "a", "log_pi", "h2")
        return (None, *(as_tensor(result[f"grad_{name}"]) for name in names), None)


def mixture_log_weights(device: KernelDevice, s: Tensor, splats: Splats, h2: Tensor) -> Tensor:
    """log W_k = log pi_k + log Z0(|eta_k|) - log Z0(a_k): (B, N) from s = h mu^T and h2 = |h|^2."""
    return _LogWeights.apply(device, s, splats.a, splats.log_pi, h2, splats.mu.shape[1])


class _Posterior(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, device: KernelDevice, log_weights: Tensor) -> tuple[Tensor, Tensor]:
        result = device.run("mixture_posterior", log_W=host_array(log_weights))
        p = as_tensor(result["p"])
        ctx.device = device
        ctx.save_for_backward(p)
        return p, as_tensor(result["log_z"])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_p: Tensor, grad_log_z: Tensor) -> tuple[Tensor | None, ...]:
        (p,) = ctx.saved_tensors
        result = ctx.device.run(
            "mixture_posterior_backward",
            p=host_array(p),
            grad_p=host_array(grad_p),
            grad_log_z=host_array(grad_log_z),
        )
        return None, as_tensor(result["grad_log_W"])


def mixture_posterior(device: KernelDevice, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """softmax (B, N) and logsumexp (B,) of log W (B, N): component posterior and log Z."""
    return _Posterior.apply(device, log_weights)
