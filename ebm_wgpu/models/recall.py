"""Predictions recalled from splats that are states: what they hold, and how far to believe it."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm_wgpu.models.context_splats import EMPTY, Recalled, tilted_log_weight

_FIRST_LENGTH = 12.0
_FIRST_GATE = -12.0
_FIT_STEPS = 30
_FIT_FROM = (torch.tensor(0.3), torch.tensor(-1.0))
"""Evidence and offset where `fit` starts."""


class Reading(NamedTuple):
    """What a model has of tokens (B, T): log_p (B, T) of the targets, keys and queries (B, T, d).

    Keys are what the states before are remembered by, queries what they are compared with; neither
    need be of unit length. `alone` (B, T) is log p of the targets without splats of the context,
    which a memory holds as well; it is log_p itself for models that have none.
    """

    log_p: Tensor
    keys: Tensor
    queries: Tensor
    alone: Tensor


class NextReading(NamedTuple):
    """What a model has after B texts: log_p (B, V) of every token to come, key and query (B, d).

    As in `Reading`, of the last position of each text.
    """

    log_p: Tensor
    key: Tensor
    query: Tensor
    alone: Tensor


@runtime_checkable
class Reader(Protocol):
    """A model whose states can be remembered."""

    def read(self, tokens: Tensor, targets: Tensor, wanted: Tensor | None = None) -> Reading:
        """Scores, keys and queries of tokens (B, T) and the targets (B, T) that follow them.

        wanted: (B, T) bool, positions whose log_p counts; that of others may be anything, which
        saves what it would cost. All count unless given.
        """
        ...

    def read_next(self, tokens: Tensor) -> NextReading:
        """What follows tokens (B, T), and the state after them."""
        ...


class Neighbours(NamedTuple):
    """Splats that P positions are compared with.

    Attributes:
        cosines: (P, K) of splat and tilt.
        prior: (P, K), what the weight of a splat goes by: the logarithm of its age or its count.
            -inf where there is no splat.
        sids: (K,) or (P, K), token ids.
    """

    cosines: Tensor
    prior: Tensor
    sids: Tensor


def mix(log_p: Tensor, recalled: Recalled) -> Tensor:
    """log((1 - g) p + g p_splat), with g the sigmoid of the gate, of the shape of `log_p`."""
    gate = recalled.gate
    if gate.ndim < log_p.ndim:
        gate = gate[..., None]
    return torch.logaddexp(F.logsigmoid(-gate) + log_p, F.logsigmoid(gate) + recalled.log_mass)


class RecallGate(nn.Module):
    """Token probabilities of splats under a tilt whose length is fitted, and the gate to them.

        log W_k = exponent prior_k + log Z0(|a mu_k + h|) - log Z0(a),   |h| = exp(log_length)
        p(w) = sum over {k: sid_k = w} of W_k / sum_k W_k
        gate logit = evidence (log(sum_k W_k) - |h|) + offset

    Four numbers, which `fit` chooses by the likelihood of text that the model was not trained on.
    Source of the scheme: the continuous cache (Grave et al. 2016, arXiv:1612.04426), in which the
    weight of the cache is one number; here it follows the evidence.
    """

    def __init__(self, dim: int, kappa: float, exponent: float) -> None:
        """A gate that is as good as closed, until it is fitted or restored.

        Args:
            dim: dimension d of the splats.
            kappa: concentration per degree of freedom that all of them have.
            exponent: first value: 1 where the prior is the log of a count, 0 for ages.
        """
        super().__init__()
        self.dim, self.concentration = dim, (dim - 1) * kappa
        self.log_length = _number(math.log(_FIRST_LENGTH))
        self.exponent = _number(exponent)
        self.evidence = _number(0.0)
        self.offset = _number(_FIRST_GATE)

    def log_weights(self, neighbours: Neighbours) -> Tensor:
        """log W, (P, K)."""
        length = self.log_length.exp()
        tilt = tilted_log_weight(neighbours.cosines, self.concentration, length, self.dim)
        there = neighbours.prior.isfinite()
        weight = tilt + self.exponent * neighbours.prior.masked_fill(~there, 0.0)
        return weight.masked_fill(~there, -torch.inf)

    def forward(self, neighbours: Neighbours, targets: Tensor) -> Recalled:
        """log_mass (P,) of the targets (P,), `EMPTY` where no splat has them, and the gate (P,)."""
        weight = self.log_weights(neighbours)
        log_z = _logsumexp(weight)
        same = neighbours.sids == targets[:, None]
        mass = _logsumexp(weight.masked_fill(~same, -torch.inf))
        return Recalled(mass - log_z, self.gate(log_z))

    def every_token(self, neighbours: Neighbours, vocab_size: int) -> Recalled:
        """log_mass (P, V) of every token, and the gate (P,)."""
        weight = self.log_weights(neighbours)
        log_z = _logsumexp(weight)
        share = (weight - log_z[:, None]).exp()
        sids = neighbours.sids.expand_as(weight)
        mass = share.new_zeros(len(share), vocab_size).scatter_add_(1, sids, share)
        return Recalled(mass.log(), self.gate(log_z))

    def gate(self, log_z: Tensor) -> Tensor:
        """The gate's logit; without any splat it is closed."""
        logit = self.evidence * (log_z - self.log_length.exp()) + self.offset
        return torch.where(log_z > EMPTY / 2, logit, EMPTY)

    def fit(self, log_p: Tensor, neighbours: Neighbours, targets: Tensor) -> float:
        """Choose the four numbers to predict targets (P,) best together with log_p (P,).

        Minimises the mean of -`mix` by L-BFGS; where that gains nothing the gate stays as it was.

        Returns:
            What is gained over `log_p` alone, nats a token.
        """
        base = -float(log_p.mean())
        before = [p.detach().clone() for p in self.parameters()]
        self._set([torch.tensor(math.log(_FIRST_LENGTH)), before[1], *_FIT_FROM])
        parameters = list(self.parameters())
        optimizer = torch.optim.LBFGS(
            parameters, max_iter=_FIT_STEPS, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = -mix(log_p, self(neighbours, targets)).mean()
            loss.backward()
            return loss

        with torch.enable_grad():
            self.requires_grad_(True)
            optimizer.step(closure)
            self.requires_grad_(False)
        with torch.no_grad():
            loss = -float(mix(log_p, self(neighbours, targets)).mean())
        if not loss < base:
            self._set(before)
            return 0.0
        return base - loss

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters(), values, strict=True):
            parameter.copy_(value)
            parameter.grad = None


def _number(value: float) -> nn.Parameter:
    """A parameter that `fit` moves and training does not."""
    return nn.Parameter(torch.tensor(value), requires_grad=False)


def _logsumexp(values: Tensor) -> Tensor:
    """logsumexp over the last axis whose gradient is 0, not NaN, where all are -inf."""
    top = values.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(values.dtype).min)
    total = (values - top).exp().sum(-1)
    return torch.where(total > 0, total, 1.0).log() + torch.where(total > 0, top[..., 0], EMPTY)
