"""Random numbers on the device: distributions, dropout, permutations, draws from weights.

All come from Philox by a seed and the number of the draw (`generator`), so that they repeat after
`torch.manual_seed`, and differ from the processor's.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch

from ebm_wgpu.kernels.dropout import dropout_params
from ebm_wgpu.kernels.spec import Scalar
from ebm_wgpu.torch_device.copies import copy_from, int_scalar
from ebm_wgpu.torch_device.generator import next_draw
from ebm_wgpu.torch_device.ordering import row_order
from ebm_wgpu.torch_device.reductions import deliver
from ebm_wgpu.torch_device.registration import claim, implements, implements_with_gradient
from ebm_wgpu.torch_device.statistics import running
from ebm_wgpu.torch_device.tensors import empty, run_kernel

_STREAM = 7
"""The Philox stream of these draws, after those of the samplers, of dropout and of attention."""

Generator = torch.Generator | None


@functools.cache
def _only_chain() -> torch.Tensor:
    return torch.zeros(1, dtype=torch.int32, device="wgpu")


def _drawn(
    count: int,
    kernel: str,
    generator: Generator,
    dtype: torch.dtype = torch.float32,
    **params: int,
) -> torch.Tensor:
    """`count` numbers in a row, by a kernel philox_<kernel>."""
    out = empty((count,), dtype)
    if count:
        seed, step = next_draw(generator)
        run_kernel(
            f"philox_{kernel}",
            chain=_only_chain(),
            step=step,
            stream=_STREAM,
            seed=seed,
            out=out.view(1, -1),
            **params,
        )
    return out


def uniforms(self: torch.Tensor, generator: Generator = None) -> torch.Tensor:
    """Uniform float32 numbers between 0 and 1, both excluded, in the shape of a tensor."""
    return _drawn(self.numel(), "uniform", generator).view(self.shape)


@implements("uniform_")
def uniform_(
    self: torch.Tensor, low: float = 0.0, high: float = 1.0, *, generator: Generator = None
) -> torch.Tensor:
    """Uniform numbers between two bounds.

    Raises:
        RuntimeError: the bounds are the wrong way round.
    """
    if low > high:
        raise RuntimeError(
            f"uniform_ expects to return a [from, to) range, but found from={low} > to={high}"
        )
    numbers = uniforms(self, generator)
    if (low, high) != (0.0, 1.0):
        numbers.mul_(high - low).add_(low)
    return copy_from(numbers, self)


@implements("normal_")
def normal_(
    self: torch.Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator = None
) -> torch.Tensor:
    """Normal numbers.

    Raises:
        RuntimeError: a negative deviation.
    """
    if std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std}")
    numbers = _drawn(self.numel(), "normal", generator).view(self.shape)
    if (mean, std) != (0.0, 1.0):
        numbers.mul_(std).add_(mean)
    return copy_from(numbers, self)


@implements("normal.Tensor_Tensor", "normal.Tensor_float", "normal.float_Tensor")
def normal(mean: Any, std: Any, *, generator: Generator = None) -> torch.Tensor:
    """Normal numbers, each with a mean and a deviation of its own."""
    like = mean + std
    return normal_(torch.empty_like(like), generator=generator).mul_(std).add_(mean)


@implements("exponential_")
def exponential_(
    self: torch.Tensor, lambd: float = 1.0, *, generator: Generator = None
) -> torch.Tensor:
    """Exponential numbers of mean 1 / lambd.

    Raises:
        RuntimeError: a rate that is not positive.
    """
    if lambd <= 0:
        raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={lambd}")
    return copy_from(uniforms(self, generator).log_().mul_(-1 / lambd), self)


@implements("bernoulli_.float")
def bernoulli_(self: torch.Tensor, p: float = 0.5, *, generator: Generator = None) -> torch.Tensor:
    """Ones with probability p, zeros else.

    Raises:
        RuntimeError: p is no probability.
    """
    if not 0 <= p <= 1:
        raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
    return copy_from(uniforms(self, generator).lt(p), self)


@implements("bernoulli_.Tensor")
def bernoulli_each_(
    self: torch.Tensor, p: torch.Tensor, *, generator: Generator = None
) -> torch.Tensor:
    """Ones, each with a probability of its own."""
    return copy_from(uniforms(self, generator).lt(p.to(self.device)), self)


@implements("bernoulli")
def bernoulli(self: torch.Tensor, *, generator: Generator = None) -> torch.Tensor:
    """Ones with the probabilities that the tensor holds."""
    return bernoulli_each_(torch.empty_like(self), self, generator=generator)


@implements("bernoulli.out")
def bernoulli_into(
    self: torch.Tensor, *, generator: Generator = None, out: torch.Tensor
) -> torch.Tensor:
    """The same into `out`."""
    return deliver(bernoulli(self, generator=generator), out)


def _integers(self: torch.Tensor, low: int, high: int, generator: Generator) -> torch.Tensor:
    """Whole numbers in [low, high), all equally likely but for 2^-64.

    Raises:
        RuntimeError: there is none.
        DeviceError: a bound beyond 32 bits.
    """
    if high <= low:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got {low} >= {high}")
    span = int_scalar(high - 1) - int_scalar(low) + 1
    numbers = _drawn(
        self.numel(), "integers", generator, torch.int32, span=span % 2**32, low=int(low)
    )
    return copy_from(numbers.view(self.shape), self)


def _values(dtype: torch.dtype) -> int:
    """How many whole numbers from 0 on a type holds exactly."""
    return {torch.bool: 2, torch.float16: 2**11 + 1, torch.float32: 2**24 + 1}.get(dtype, 2**31)


@implements("random_.from")
def random_between_(
    self: torch.Tensor, low: int, high: int | None, *, generator: Generator = None
) -> torch.Tensor:
    """Whole numbers in [low, high), or up to what the type holds exactly."""
    return _integers(self, low, _values(self.dtype) if high is None else high, generator)


@implements("random_.to")
def random_below_(self: torch.Tensor, high: int, *, generator: Generator = None) -> torch.Tensor:
    """Whole numbers in [0, high)."""
    return _integers(self, 0, high, generator)


@implements("random_")
def random_(self: torch.Tensor, *, generator: Generator = None) -> torch.Tensor:
    """Whole numbers from 0 to what the type holds exactly."""
    return _integers(self, 0, _values(self.dtype), generator)


@implements("randperm.generator_out")
def randperm(n: int, *, generator: Generator = None, out: torch.Tensor) -> torch.Tensor:
    """The numbers 0 to n - 1 in random order; numbers drawn equal stay in order."""
    if not n:
        return deliver(empty((0,), torch.int64), out)
    order = row_order(_drawn(n, "uniform", generator).view(1, -1), False)
    return deliver(order[0, :n], out)


class _Dropout(torch.autograd.Function):
    """The kernel `dropout`, whose gradient is the same kernel: no mask is kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, options: dict[str, Scalar]) -> torch.Tensor:
        ctx.options = options
        out = empty(x.shape, x.dtype)
        run_kernel("dropout", x=x.reshape(-1), out=out.view(-1), **options)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Dropout.apply(*gradients, ctx.options), None


@implements_with_gradient("dropout")
def dropout(input: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    """Entries kept with probability 1 - p and divided by it, others 0; all as they are, if not so.

    Raises:
        RuntimeError: p is no probability.
    """
    if not 0 <= p <= 1:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {p}")
    if p == 0 or not train or not input.numel():
        return input
    seed, step = next_draw()
    dropped: torch.Tensor = _Dropout.apply(input, dropout_params(p, seed, step, 0))
    return dropped


@implements("native_dropout")
def native_dropout(
    input: torch.Tensor, p: float, train: bool | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Entries kept with probability 1 - p, divided by it, others 0; and which were kept."""
    if train is False or p == 0:
        return input.clone(), torch.ones(input.shape, dtype=torch.bool, device=input.device)
    keep = torch.ones(input.shape, dtype=torch.float32, device=input.device)
    result = empty(input.shape, torch.float32)
    if input.numel():
        seed, step = next_draw()
        options = dropout_params(p, seed, step, 0)
        run_kernel("dropout", x=keep.view(-1), out=result.view(-1), **options)
    kept = result.ne(0)
    return result.mul_(input).to(input.dtype), kept


@implements("native_dropout_backward")
def native_dropout_backward(
    grad_output: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """The gradient where entries were kept, times the scale."""
    return grad_output * mask * scale


def _check_weights(rows: torch.Tensor) -> None:
    """Nothing, for rows (R, N) of weights that can be drawn from; waits for the device.

    Raises:
        RuntimeError: a weight is negative, infinite or not a number, or a row has none above 0.
    """
    if not rows.numel():
        return
    bounds = torch.stack([rows.amin(), rows.amax(), rows.amax(1).amin()])
    least, greatest, best = bounds.tolist()
    if not (least >= 0 and greatest < math.inf):
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
    if best == 0:
        raise RuntimeError("invalid multinomial distribution (sum of probabilities <= 0)")


@implements("multinomial")
def multinomial(
    self: torch.Tensor,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: Generator = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Places drawn in proportion to the weights of each row, once each or with replacement.

    With replacement by bisection of the running sums; else the places with the greatest
    weight / exponential number (Efraimidis and Spirakis 2006). Waits for the device, to check the
    weights.

    Raises:
        RuntimeError: more places are wanted than there are, or none; the weights are no vector or
            matrix, or cannot be drawn from.
    """
    if self.dim() not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    if num_samples <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    weights = self.float()
    rows = weights.reshape(-1, weights.shape[-1])
    if not replacement and num_samples > rows.shape[1]:
        raise RuntimeError(
            "cannot sample n_sample > prob_dist.size(-1) samples without replacement"
        )
    _check_weights(rows)
    shape = (*self.shape[:-1], num_samples)
    if num_samples == 1 or not replacement:
        race = rows / exponential_(torch.empty_like(rows), generator=generator)
        drawn = race.argmax(1, True) if num_samples == 1 else race.topk(num_samples).indices
    else:
        sums = running("sum", rows)
        wanted = uniforms(empty((len(rows), num_samples), torch.float32), generator)
        drawn = torch.searchsorted(sums, wanted * sums[:, -1:], right=True)
        drawn = drawn.clamp_(max=rows.shape[1] - 1)
    return deliver(drawn.reshape(shape), out)


implements("multinomial.out")(multinomial)

claim("native_dropout_backward")
