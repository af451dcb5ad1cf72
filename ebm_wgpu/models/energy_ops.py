"""The terms of `ebm_wgpu.energy_terms` for torch: energies that learn, and losses of latents.

Energies of positions x (B, d) over splats, in operations that torch differentiates as often as
asked: score matching takes the gradient by x, and then that of a loss of it by the parameters.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebm_wgpu.config import EnergyConfig
from ebm_wgpu.energy_terms import CLOSEST
from ebm_wgpu.models.mixture_ops import Splats, log_peak

_LOSSES = {
    "spread": "spread_loss",
    "coverage": "coverage_loss",
    "pairs": "pair_loss",
    "negative_entropy": "entropy_loss",
}
_GEOMETRY = ("lambda_spread", "lambda_cover", "rho_min", "sharpness")


class Nearest(NamedTuple):
    """The K splats nearest to each position: indices (B, K), and cosines (B, K) to them."""

    indices: Tensor
    cosine: Tensor


class EnergyTerms(nn.Module):
    """lambda_geom E_geom(x) + lambda_comp E_comp(x) - lambda_entropy H[q], learned.

    A term whose weight is zero in the configuration stays out, and so does a part of one: that is
    what an ablation switches. What is in has these parameters, positive ones by their logarithm:
    lambda_spread, lambda_cover, rho_min and sharpness of the geometric term (lambda_geom itself
    would only scale two of them), lambda_comp, W and b of the compositional one, lambda_entropy.
    They learn at the rate of the splats.
    """

    def __init__(self, config: EnergyConfig) -> None:
        """Parameters start at what the configuration says."""
        super().__init__()
        self._config = config
        logs = {
            name: _log(getattr(config, name))
            for name in (*_GEOMETRY, "lambda_comp", "lambda_entropy")
        }
        if config.lambda_geom <= 0:
            logs |= dict.fromkeys(_GEOMETRY)
        self.logs = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(v)) for name, v in logs.items() if v is not None}
        )
        if "lambda_comp" in self.logs:
            self.coefficients = nn.Parameter(torch.tensor(config.pair_coefficients).float())
            self.bias = nn.Parameter(torch.tensor(float(config.pair_bias)))
        for parameter in self.parameters():
            parameter.splat_rate = True  # type: ignore[attr-defined]

    @property
    def active(self) -> bool:
        """Whether any term is in."""
        return len(self.logs) > 0

    def forward(self, x: Tensor, splats: Splats) -> Tensor:
        """Energies of positions x (B, d) unit, (B,); of terms over pairs or a batch, each's share.

        Splats that take part are the nearest, whose choice has no gradient.
        """
        near = nearest(x, splats, self._config.term_neighbours)
        energy = x.new_zeros(len(x))
        if "lambda_spread" in self.logs:
            energy = energy + self._config.lambda_geom * self._value("lambda_spread") * spread(x)
        if {"lambda_cover", "rho_min", "sharpness"} <= self.logs.keys():
            weight = self._config.lambda_geom * self._value("lambda_cover")
            lacking = coverage(near.cosine, self._value("rho_min"), self._value("sharpness"))
            energy = energy + weight * lacking
        if "lambda_comp" in self.logs:
            gates = pair_interaction(near, splats.log_pi, self.coefficients, self.bias)
            energy = energy + self._value("lambda_comp") * gates
        if "lambda_entropy" in self.logs:
            weight = self._value("lambda_entropy")
            energy = energy + weight * negative_entropy(near, splats)
        return energy

    def gradient(self, x: Tensor, splats: Splats) -> Tensor:
        """The Riemannian gradient of the sum of energies, (B, d), itself differentiable.

        x: (B, d) unit; what it was made from gets no gradient.
        """
        with torch.enable_grad():
            points = x.detach().requires_grad_()
            energy = self(points, splats).sum()
            if not energy.requires_grad:
                return torch.zeros_like(x)
            (slope,) = torch.autograd.grad(energy, points, create_graph=True)
        return slope - (slope * x).sum(dim=-1, keepdim=True) * x

    @torch.no_grad()
    def learned(self) -> dict[str, Any]:
        """The options of the section energy that have been learned, with their values."""
        values: dict[str, Any] = {name: float(self._value(name)) for name in self.logs}
        if "lambda_comp" in self.logs:
            values["pair_coefficients"] = tuple(self.coefficients.tolist())
            values["pair_bias"] = float(self.bias)
        return values

    def configuration(self) -> EnergyConfig:
        """The configuration with the values learned, for `Energy.from_config`."""
        return dataclasses.replace(self._config, **self.learned())

    def _value(self, name: str) -> Tensor:
        return self.logs[name].exp()


def of_one_latent(config: EnergyConfig) -> EnergyConfig:
    """The energy of a latent by itself, without spread and entropy, which are of several at once.

    Latents of the positions of a text must not feel each other: a later one knows the token that an
    earlier one is to predict.
    """
    return dataclasses.replace(config, lambda_spread=0.0, lambda_entropy=0.0)


def latent_loss_weights(config: EnergyConfig) -> dict[str, float]:
    """The losses of a batch of latents that a configuration has weights for, by name."""
    weights = {name: getattr(config, option) for name, option in _LOSSES.items()}
    return {name: weight for name, weight in weights.items() if weight > 0}


def latent_losses(x: Tensor, splats: Splats, config: EnergyConfig) -> dict[str, Tensor]:
    """The terms as losses of a batch of latents x (B, d) unit, scalars, those with a weight alone.

    spread: -mean over i < j of log(1 - x_i.x_j), about 0 where latents are spread evenly.
    coverage: mean of max(0, rho_min - rho(x_i)). pairs: mean of E_comp(x_i), in [0, 1].
    negative_entropy: -H[q], from -log(number of splats in use) to 0. Here the terms are as the
    configuration has them: nothing of them learns, or the least loss would be none at all.
    """
    wanted = latent_loss_weights(config)
    near = nearest(x, splats, config.term_neighbours)
    losses = {}
    if "spread" in wanted:
        losses["spread"] = spread(x).sum()
    if "coverage" in wanted:
        losses["coverage"] = coverage(near.cosine, config.rho_min, config.sharpness).mean()
    if "pairs" in wanted:
        gates = pair_interaction(near, splats.log_pi, config.pair_coefficients, config.pair_bias)
        losses["pairs"] = gates.mean()
    if "negative_entropy" in wanted:
        losses["negative_entropy"] = negative_entropy(near, splats).sum()
    return losses


def nearest(x: Tensor, splats: Splats, count: int) -> Nearest:
    """The `count` splats nearest to positions x (B, d) unit; their choice has no gradient."""
    with torch.autocast(x.device.type, enabled=False):
        with torch.no_grad():
            indices = (x @ splats.mu.T).topk(count, dim=1).indices
        return Nearest(indices, torch.einsum("bkd,bd->bk", splats.mu[indices], x))


def spread(x: Tensor) -> Tensor:
    """-mean over i < j of log(1 - x_i.x_j), half of each pair's share for either row, (B,).

    x: (B, d) unit rows; one alone has nothing to be apart from. Pairs closer than `CLOSEST` count
    as that close.
    """
    rows = len(x)
    with torch.autocast(x.device.type, enabled=False):
        gap = 1 - x @ x.T
    other = ~torch.eye(rows, dtype=torch.bool, device=x.device)
    logs = torch.where(other, gap, 1).clamp_min(CLOSEST).log()
    return -logs.sum(dim=1) / max(rows * (rows - 1), 1)


def coverage(cosine: Tensor, rho_min: float | Tensor, sharpness: float | Tensor) -> Tensor:
    """max(0, rho_min - rho), rho the mean over K of exp(sharpness (cosine - 1)); (B, K) to (B,)."""
    return torch.relu(rho_min - torch.exp(sharpness * (cosine - 1)).mean(dim=1))


def pair_interaction(
    near: Nearest,
    log_pi: Tensor,
    coefficients: tuple[float, float, float] | Tensor,
    bias: float | Tensor,
) -> Tensor:
    """sum over pairs i < j of share_ij sigmoid(W.[u, v, uv] + b), (B,).

    u and v are the cosines to the two splats, in the order of the store, and share_ij is
    pi_i pi_j over the sum of these over pairs.

    Args:
        near: splats that make pairs.
        log_pi: (N,) log weights of all splats.
        coefficients: W, of u, v and uv.
        bias: b.
    """
    ordered, order = near.indices.sort(dim=1)
    cosine, count = near.cosine.gather(1, order), order.shape[1]
    first, second = torch.triu_indices(count, count, 1).to(order.device)
    u, v = cosine[:, first], cosine[:, second]
    log_pi = log_pi[ordered]
    share = torch.softmax(log_pi[:, first] + log_pi[:, second], dim=1)
    of_u, of_v, of_both = coefficients
    return (share * torch.sigmoid(of_u * u + of_v * v + of_both * u * v + bias)).sum(dim=1)


def negative_entropy(near: Nearest, splats: Splats) -> Tensor:
    """sum_k q_k log q_k, q_k the mean over rows of p(k | x_i), as a share of each row, (B,).

    p(k | x_i) is the share of splat k in the density at x_i among those near.
    """
    log_mode = splats.log_pi + log_peak(splats.a, splats.mu.shape[1])
    a = splats.a[near.indices]
    p = torch.softmax(log_mode[near.indices] + a * (near.cosine - 1), dim=1)
    q = p.new_zeros(len(splats.mu)).index_add(0, near.indices.flatten(), p.flatten()) / len(p)
    level = q.clamp_min(torch.finfo(q.dtype).tiny).log()
    return (p * level[near.indices]).sum(dim=1) / len(p)


def _log(value: float) -> float | None:
    """The logarithm of a positive value, None of zero."""
    return math.log(value) if value > 0 else None
