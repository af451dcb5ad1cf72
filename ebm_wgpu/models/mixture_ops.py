"""Differentiable operations over all splats or all tokens, in parts that bound their memory.

A matrix of rows x splats or rows x tokens is never held for more than `CHUNK_ENTRIES` entries at a
time, unless all of it fits in `KEPT_ENTRIES`: then the products of the forward pass are kept, and
the backward pass need not repeat them. Within `kernel_tensors.half_operands` the directions of
readouts and the rows of decoded tables are read as float16; energies, which multiply cosines by
concentrations in the thousands, never are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ebm_wgpu.kernels import DeviceArray, KernelDevice
from ebm_wgpu.models.kernel_tensors import Kernels
from ebm_wgpu.models.ops import chunks
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

    def __init__(self, kernels: Kernels, rows: int, columns: int, differentiate: bool) -> None:
        self._kernels = kernels
        self._keep = differentiate and rows * columns <= KEPT_ENTRIES
        self._products: list[DeviceArray] = []

    def multiply(self, rows: DeviceArray, table: DeviceArray) -> DeviceArray:
        """rows (B, d) times table (N, d), transposed, (B, N): the product of the next chunk."""
        product = self._kernels.product(rows, table, trans_b=True)
        if self._keep:
            self._products.append(product)
        return product

    def get(self, number: int, rows: DeviceArray, table: DeviceArray) -> DeviceArray:
        """The product of a chunk, computed again if it was not kept."""
        if self._keep:
            return self._products[number]
        return self._kernels.product(rows, table, trans_b=True)


class _Parts:
    """A result (B, ...) whose rows come chunk by chunk: of a single chunk nothing is copied."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._parts: list[Tensor] = []

    def add(self, part: Tensor) -> None:
        """The rows of the next chunk."""
        self._parts.append(part)

    def tensor(self) -> Tensor:
        """All rows."""
        if not self._parts:
            return torch.empty_like(self._like, memory_format=torch.contiguous_format)
        return self._parts[0] if len(self._parts) == 1 else torch.cat(self._parts)


class _Total:
    """A gradient that chunks add to, of any shape."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._total: Tensor | None = None

    def add(self, part: Tensor) -> None:
        """Add what comes of a chunk."""
        self._total = part if self._total is None else self._total + part

    def tensor(self) -> Tensor:
        """The sum so far."""
        return torch.zeros_like(self._like) if self._total is None else self._total


class _Sum:
    """A gradient (N, d) that chunks add to: grad (B, N), transposed, times rows (B, d)."""

    def __init__(self, kernels: Kernels, like: Tensor) -> None:
        self._kernels, self._like = kernels, like
        self._total: DeviceArray | None = None

    def add(self, grad: DeviceArray, rows: DeviceArray) -> None:
        """Add the product of a chunk."""
        self._total = self._kernels.product(grad, rows, trans_a=True, add_to=self._total)

    def tensor(self) -> Tensor:
        """The sum so far."""
        return (
            torch.zeros_like(self._like)
            if self._total is None
            else self._kernels.tensor(self._total)
        )


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
        kernels, width = Kernels(device, h), mu.shape[1]
        table = kernels.array(kernels.halved(mu))
        square = h.detach().square().sum(1)
        kept = _Kept(kernels, len(h), len(mu), differentiate)
        splats = {"a": kernels.array(a), "log_pi": kernels.array(log_pi)}
        parts = {name: _Parts(square) for name in ("log_z", "log_mass", "tilt")}
        pulled = _Parts(h)
        for rows in chunks(len(h), len(mu), CHUNK_ENTRIES):
            result = kernels.run(
                "mixture_readout",
                s=kept.multiply(kernels.array(h[rows]), table),
                h2=square[rows],
                **splats,
                first=first[rows],
                last=last[rows],
                dimension=width,
            )
            for name, part in parts.items():
                part.add(kernels.tensor(result[name]))
            pulled.add(kernels.tensor(kernels.product(result["pull"], table)))
        log_z, log_mass, tilt = (part.tensor() for part in parts.values())
        mean = pulled.tensor().addcmul_(tilt[:, None], h.detach())
        ctx.kernels, ctx.kept, ctx.groups = kernels, kept, {"first": first, "last": last}
        ctx.save_for_backward(h, mu, a, log_pi, square, log_z, log_mass, tilt, mean)
        return log_z, log_mass, mean

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_log_z: Tensor, grad_log_mass: Tensor, grad_mean: Tensor
    ) -> tuple[Tensor | None, ...]:
        h, mu, a, log_pi, square, log_z, log_mass, tilt, mean = ctx.saved_tensors
        kernels, width = ctx.kernels, mu.shape[1]
        table = kernels.array(kernels.halved(mu))
        inverse = kernels.array(a.reciprocal()[:, None])
        splats = {"a": kernels.array(a), "log_pi": kernels.array(log_pi)}
        upstream = {
            "h2": square,
            "log_z": log_z,
            "log_mass": log_mass,
            "grad_log_z": grad_log_z,
            "grad_log_mass": grad_log_mass,
            "grad_tilt": (grad_mean * h).sum(1),
            "carried": (grad_mean * mean).sum(1),
        }
        grad_h, grad_mu = _Parts(h), _Sum(kernels, mu)
        grad_a, grad_log_pi = _Total(a), _Total(a)
        for number, rows in enumerate(chunks(len(h), len(mu), CHUNK_ENTRIES)):
            part, pulled = kernels.array(h[rows]), kernels.array(grad_mean[rows])
            result = kernels.run(
                "mixture_readout_backward",
                s=ctx.kept.get(number, part, table),
                grad_pull=kernels.product(pulled, table, trans_b=True),
                **splats,
                **{name: value[rows] for name, value in upstream.items()},
                **{name: bound[rows] for name, bound in ctx.groups.items()},
                dimension=width,
            )
            grad_s = result["grad_s"]
            along = kernels.tensor(kernels.product(grad_s, inverse))
            grad_h.add(kernels.tensor(kernels.product(grad_s, table)).addcmul_(along, h[rows]))
            grad_mu.add(grad_s, part)
            grad_mu.add(result["pull"], pulled)
            grad_a.add(kernels.tensor(result["grad_a"]))
            grad_log_pi.add(kernels.tensor(result["grad_log_pi"]))
        to_h = grad_h.tensor().addcmul_(tilt[:, None], grad_mean)
        return None, None, to_h, grad_mu.tensor(), grad_a.tensor(), grad_log_pi.tensor(), None, None


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
        kernels = Kernels(device, x)
        table, kept = kernels.array(mu), _Kept(kernels, len(x), len(mu), differentiate)
        splats = {"a": kernels.array(a), "log_w": kernels.array(log_w)}
        parts = _Parts(x[:, 0])
        for rows in chunks(len(x), len(mu), CHUNK_ENTRIES):
            s = kept.multiply(kernels.array(x[rows]), table)
            parts.add(*kernels.outputs("mixture_energy", "energy", s=s, **splats))
        energy = parts.tensor()
        ctx.kernels, ctx.kept = kernels, kept
        ctx.save_for_backward(x, mu, a, log_w, energy)
        return energy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mu, a, log_w, energy = ctx.saved_tensors
        kernels, table = ctx.kernels, ctx.kernels.array(mu)
        splats = {"a": kernels.array(a), "log_w": kernels.array(log_w)}
        grad_x, grad_mu = _Parts(x), _Sum(kernels, mu)
        grad_a, grad_log_w = _Total(a), _Total(a)
        for number, rows in enumerate(chunks(len(x), len(mu), CHUNK_ENTRIES)):
            part = kernels.array(x[rows])
            result = kernels.run(
                "mixture_energy_backward",
                s=ctx.kept.get(number, part, table),
                **splats,
                energy=energy[rows],
                grad_energy=grad[rows],
            )
            grad_mu.add(result["grad_s"], part)
            grad_a.add(kernels.tensor(result["grad_a"]))
            grad_log_w.add(kernels.tensor(result["grad_log_w"]))
            if ctx.needs_input_grad[2]:
                grad_x.add(kernels.tensor(kernels.product(result["grad_s"], table)))
        to_x = grad_x.tensor() if ctx.needs_input_grad[2] else None
        return None, None, to_x, grad_mu.tensor(), grad_a.tensor(), grad_log_w.tensor()


class _Peak(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, dimension: int) -> Tensor:
        if a.device.type == "wgpu":
            from ebm_wgpu.torch_device import fused

            peak, ctx.slope = fused.log_peak(a.detach(), dimension)
            return peak
        exact = a.detach().double().numpy()
        ctx.slope = torch.from_numpy(1 - mean_cosine(exact, dimension)).to(a.dtype)
        return torch.from_numpy(exact - log_z0(exact, dimension)).to(a.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.slope, None


def log_peak(a: Tensor, dimension: int) -> Tensor:
    """a - log Z0(a): log density of a vMF distribution at its mode, relative to the uniform one.

    a: concentrations, any shape, natural units. In float64 in main memory; on torch.device("wgpu")
    by the kernel `vmf_log_peak`, which waits for nothing.
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
        kernels = Kernels(device, x)
        weights, shift = kernels.array(kernels.halved(table)), kernels.array(bias)
        kept = _Kept(kernels, len(x), len(table), differentiate)
        parts = _Parts(x[:, 0]), _Parts(x[:, 0])
        for rows in chunks(len(x), len(table), CHUNK_ENTRIES):
            found = kernels.outputs(
                "target_log_softmax",
                *("log_p", "lse"),
                logits=kept.multiply(kernels.array(x[rows]), weights),
                bias=shift,
                target_index=target[rows],
            )
            for part, rows_of_it in zip(parts, found, strict=True):
                part.add(rows_of_it)
        log_p, lse = (part.tensor() for part in parts)
        ctx.kernels, ctx.kept, ctx.target = kernels, kept, target
        ctx.save_for_backward(x, table, bias, lse)
        return log_p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, table, bias, lse = ctx.saved_tensors
        kernels = ctx.kernels
        weights, shift = kernels.array(kernels.halved(table)), kernels.array(bias)
        grad_x, grad_table, grad_bias = _Parts(x), _Sum(kernels, table), _Total(bias)
        for number, rows in enumerate(chunks(len(x), len(table), CHUNK_ENTRIES)):
            part = kernels.array(x[rows])
            result = kernels.run(
                "target_log_softmax_backward",
                logits=ctx.kept.get(number, part, weights),
                bias=shift,
                target_index=ctx.target[rows],
                lse=lse[rows],
                grad_log_p=grad[rows],
            )
            grad_x.add(kernels.tensor(kernels.product(result["grad_logits"], weights)))
            grad_table.add(result["grad_logits"], part)
            grad_bias.add(kernels.tensor(result["grad_bias"]))
        return None, None, grad_x.tensor(), grad_table.tensor(), grad_bias.tensor(), None


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
        ctx.kernels, ctx.dimension = Kernels(device, s), dimension
        ctx.save_for_backward(s, a, h2)
        (log_w,) = ctx.kernels.outputs(
            "mixture_log_weights", "log_W", s=s, a=a, log_pi=log_pi, h2=h2, dimension=dimension
        )
        return log_w

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        s, a, h2 = ctx.saved_tensors
        gradients = ctx.kernels.outputs(
            "mixture_log_weights_backward",
            *("grad_s", "grad_a", "grad_log_pi", "grad_h2"),
            s=s,
            a=a,
            h2=h2,
            grad_log_W=grad,
            dimension=ctx.dimension,
        )
        return None, *gradients, None


def mixture_log_weights(device: KernelDevice, s: Tensor, splats: Splats, h2: Tensor) -> Tensor:
    """log W_k = log pi_k + log Z0(|eta_k|) - log Z0(a_k): (B, N) from s = h mu^T and h2 = |h|^2."""
    return _LogWeights.apply(device, s, splats.a, splats.log_pi, h2, splats.mu.shape[1])


class _Posterior(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, device: KernelDevice, log_weights: Tensor) -> tuple[Tensor, Tensor]:
        ctx.kernels = Kernels(device, log_weights)
        p, log_z = ctx.kernels.outputs("mixture_posterior", "p", "log_z", log_W=log_weights)
        ctx.save_for_backward(p)
        return p, log_z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_p: Tensor, grad_log_z: Tensor) -> tuple[Tensor | None, ...]:
        (p,) = ctx.saved_tensors
        (grad_log_w,) = ctx.kernels.outputs(
            "mixture_posterior_backward", "grad_log_W", p=p, grad_p=grad_p, grad_log_z=grad_log_z
        )
        return None, grad_log_w


def mixture_posterior(device: KernelDevice, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """softmax (B, N) and logsumexp (B,) of log W (B, N): component posterior and log Z."""
    return _Posterior.apply(device, log_weights)
