"""Splats that a text makes as it is read: each state before becomes one, its id what followed."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_FIRST_LENGTH = 8.0
"""First length of the tilt h: cosines are worth so many nats."""
_FIRST_DECAY = 0.35
_FIRST_EVIDENCE = 0.4
_FIRST_GATE = -4.0
"""*Measured* on WikiText-2: what fits the states of a transformer trained without splats."""
EMPTY = -1e4
"""Logarithm of the weight of a splat that is not there."""


def tilted_log_weight(cosine: Tensor, a: float, length: Tensor, dimension: int) -> Tensor:
    """log Z0(|a mu + h|) - log Z0(a), nats: how much a tilt h favours a splat mu, from mu.h/|h|.

    |a mu + h|^2 = a^2 + 2 a |h| cosine + |h|^2, and log Z0 is Debye's expansion of the Bessel
    function to its first correction, with nu = d/2 - 1 and s(k) = sqrt(1 + (k/nu)^2):

        log Z0(k) = nu (s - 1 - log((1 + s)/2)) - log(s)/2 + (3/s - 5/s^3 + 2)/(24 nu)

    The error is below 1e-5 nats at d = 128 and above; `ebm_wgpu.vmf.log_z0_ratio` is the exact
    form in float64.

    Args:
        cosine: mu.h/|h|, any shape.
        a: concentration of the splats, natural units.
        length: |h|, broadcast against `cosine`.
        dimension: d >= 8.
    """
    return _TiltedLogWeight.apply(cosine, a, length, dimension)


class _TiltedLogWeight(torch.autograd.Function):
    """`tilted_log_weight` with its derivative in closed form, so that no step of it is kept."""

    @staticmethod
    def forward(ctx: Any, cosine: Tensor, a: float, length: Tensor, dimension: int) -> Tensor:
        nu = dimension / 2 - 1
        s = (cosine * (2 * a * length / nu**2)).add_(1 + (a * a + length.square()) / nu**2).sqrt_()
        s0 = math.sqrt(1 + (a / nu) ** 2)
        inverse = s.reciprocal()
        square = inverse.square()
        value = (s - s0).sub_(((1 + s) / (1 + s0)).log_()).mul_(nu)
        value.sub_((s / s0).log_(), alpha=0.5)
        value.add_((3 - 5 * square).mul_(inverse).sub_(3 / s0 - 5 / s0**3), alpha=1 / (24 * nu))
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
            slope = (15 * square - 3).mul_(inverse).mul_(square).div_(24 * nu)
            slope.sub_(square, alpha=0.5).add_((1 + s).reciprocal_(), alpha=nu)
            ctx.save_for_backward(cosine, length, slope.div_(nu**2))
            ctx.a = a
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cosine, length, slope = ctx.saved_tensors
        grad = grad * slope
        grad_length = None
        if ctx.needs_input_grad[2]:
            grad_length = (ctx.a * cosine + length).mul_(grad).sum_to_size(length.shape)
        return grad * (ctx.a * length), None, grad_length, None


class Recalled(NamedTuple):
    """What splats say of each position: log_mass, log p of the target, and the gate's logit."""

    log_mass: Tensor
    gate: Tensor


class SeenWeights(NamedTuple):
    """What each position sees: W of splat j for position t, (B, T, T), zero unless j < t; gates.

    gate: (B, T), logits.
    """

    weights: Tensor
    gate: Tensor


class ContextSplats(nn.Module):
    """Splats made of the states of a text, tilted by its present state.

    State s_j of position j becomes the splat mu_j = normalize(K s_j) with the id of token j+1, seen
    from position j+1 on. The present state tilts them by h = exp(log_length) normalize(Q s_t):

        log W_j = -decay log(t - j) + log Z0(|a mu_j + h|) - log Z0(a)
        p(w) = sum over {j < t: sid_j = w} of W_j / sum over j < t of W_j
        gate logit = evidence log(sum_j W_j) + v.s_t + b

    All splats have the concentration a = (d-1) kappa; weights decay with age as a power. The sum in
    the gate is the evidence that the text before explains what comes, which the energy gives and a
    softmax over the same products would not. Everything is learned with the model.

    Source: the pointer sentinel (Merity et al. 2016, arXiv:1609.07843) and training with memories
    of the context (Zhong et al. 2022, arXiv:2205.12674), here as a mixture on the sphere.
    """

    def __init__(self, dim: int, kappa: float) -> None:
        """Allocate the parameters; `reset` fills them.

        Args:
            dim: width of the states and dimension d of the splats.
            kappa: concentration per degree of freedom.
        """
        super().__init__()
        self.dim, self.concentration = dim, (dim - 1) * kappa
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.log_length = nn.Parameter(torch.empty(()))
        self.decay = nn.Parameter(torch.empty(()))
        self.evidence = nn.Parameter(torch.empty(()))
        for scalar in (self.log_length, self.decay, self.evidence):
            # They move by tenths where matrices move by thousandths.
            scalar.splat_rate = True  # type: ignore[attr-defined]
        self.gate = nn.Linear(dim, 1)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """First values: compare states as they are."""
        for layer in (self.query, self.key):
            layer.weight.copy_(torch.eye(self.dim))
            layer.bias.zero_()
        self.log_length.fill_(math.log(_FIRST_LENGTH))
        self.decay.fill_(_FIRST_DECAY)
        self.evidence.fill_(_FIRST_EVIDENCE)
        self.gate.weight.zero_()
        self.gate.bias.fill_(_FIRST_GATE)

    def keys(self, states: Tensor) -> Tensor:
        """Directions mu of states (..., d)."""
        return F.normalize(self.key(states).float(), dim=-1)

    def queries(self, states: Tensor) -> Tensor:
        """Directions h/|h| of the tilts of states (..., d)."""
        return F.normalize(self.query(states).float(), dim=-1)

    def forward(self, states: Tensor, following: Tensor) -> Recalled:
        """Score the tokens that follow states (B, T, d): `following` (B, T).

        `following[b, j]` is used as the id of splat j by the positions after j alone.
        """
        return self.score(self.see(states), following)

    def see(self, states: Tensor) -> SeenWeights:
        """Weights and gates of all positions of states (B, T, d)."""
        weights, log_unit = self._weights(states)
        return SeenWeights(weights, self._gate(states, _log(weights.sum(-1)) + log_unit))

    def score(self, seen: SeenWeights, following: Tensor) -> Recalled:
        """As `forward`, of states that were seen."""
        same = following[:, None, :] == following[:, :, None]
        mass = seen.weights.masked_fill(~same, 0.0).sum(-1)
        return Recalled(_log(mass) - _log(seen.weights.sum(-1)), seen.gate)

    def recall(
        self, state: Tensor, keys: Tensor, sids: Tensor, age: Tensor, vocab_size: int
    ) -> Recalled:
        """log_mass (B, V) of every token, and the gate (B,), of splats that are there already.

        Args:
            state: (B, d).
            keys: (B, K, d), directions of the splats; K may be 0.
            sids: (B, K), token ids of the splats.
            age: (B, K) or (K,), tokens since each splat was made; below 1 it does not count.
            vocab_size: V.
        """
        with torch.autocast(state.device.type, enabled=False):
            cosine = (keys @ self.queries(state)[..., None])[..., 0]
            weights, log_unit = self._weigh(cosine, age)
        gate = self._gate(state, _log(weights.sum(-1)) + log_unit)
        return Recalled(log_masses(weights, sids, vocab_size), gate)

    def _weights(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """W of splat j for position t, (B, T, T), zero unless j < t, and the log of their unit."""
        with torch.autocast(states.device.type, enabled=False):
            cosine = self.queries(states) @ self.keys(states).transpose(1, 2)
            place = torch.arange(states.shape[1], device=states.device)
            return self._weigh(cosine, place[:, None] - place)

    def _weigh(self, cosine: Tensor, age: Tensor) -> tuple[Tensor, Tensor]:
        """W of splats under tilts and their ages, zero for ages below 1, and the log of their unit.

        The unit is what a splat in the direction of the tilt would weigh, so that no W exceeds
        one, whatever comes later in the text, and its exponential is never too large.
        """
        length = self.log_length.exp()
        log_weight = tilted_log_weight(cosine, self.concentration, length, self.dim)
        best = torch.ones_like(length)
        unit = tilted_log_weight(best, self.concentration, length, self.dim).detach()
        aged = age.clamp(min=1).float().pow(-self.decay).masked_fill(age < 1, 0.0)
        return (log_weight - unit).exp_() * aged, unit

    def _gate(self, states: Tensor, log_z: Tensor) -> Tensor:
        gate = self.evidence * log_z + self.gate(states)[..., 0].float()
        return torch.where(log_z > EMPTY / 2, gate, EMPTY)


def log_masses(weights: Tensor, sids: Tensor, vocab_size: int) -> Tensor:
    """log of the share that each token has of weights (P, K) of splats with ids (P, K), (P, V)."""
    mass = weights.new_zeros(len(weights), vocab_size).scatter_add_(1, sids, weights)
    return _log(mass) - _log(weights.sum(-1))[:, None]


def _log(x: Tensor) -> Tensor:
    """log x, or `EMPTY` where x is zero, with finite gradients."""
    present = x > 0
    return x.masked_fill(~present, 1.0).log().masked_fill(~present, EMPTY)
