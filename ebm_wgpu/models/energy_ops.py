"""The terms of `ebm_wgpu.energy_terms` for torch, with parameters that learn.

Energies of positions x (B, d) over splats, in operations that torch differentiates as often as
asked: score matching takes the gradient by x, and then that of a loss of it by the parameters.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from ebm_wgpu.config import EnergyConfig
from ebm_wgpu.energy_terms import CLOSEST
from ebm_wgpu.models.mixture_ops import Splats, log_peak


class EnergyTerms(nn.Module):
    """lambda_geom E_geom(x) + lambda_comp E_comp(x) - lambda_entropy H[q], learned.

    A term whose weight is zero in the configuration stays out, and so does a part of one: that is
    what an ablation switches. What is in has these parameters, positive ones by their logarithm:
    lambda_spread, lambda_cover, rho_min and sharpness of the geometric term (lambda_geom itself
    would only scale two of them), lambda_comp, W and b of the compositional one, lambda_entropy.
    """

    def __init__(self, config: EnergyConfig) -> None:
        """Parameters start at what the configuration says."""
        super().__init__()
        self._config = config
        self._neighbours = config.term_neighbours
        logs = {
            name: _log(getattr(config, name))
            for name in (
                "lambda_spread", "lambda_cover", "rho_min", "sharpness", "lambda_comp",
                "lambda_entropy",
            )
        }  # fmt: skip
        if config.lambda_geom <= 0:
            logs |= dict.fromkeys(("lambda_spread", "lambda_cover", "rho_min", "sharpness"))
        self.logs = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(v)) for name, v in logs.items() if v is not None}
        )
        if "lambda_comp" in self.logs:
            self.coefficients = nn.Parameter(torch.tensor(config.pair_coefficients).float())
            self.bias = nn.Parameter(torch.tensor(float(config.pair_bias)))

    def forward(self, x: Tensor, splats: Splats) -> Tensor:
        """Energies of positions x (B, d) unit, (B,); of terms over pairs or a batch, each's share.

        Splats that take part are the nearest, whose choice has no gradient.
        """
        mu, a = splats.mu, splats.a
        with torch.no_grad():
            near = (x @ mu.T).topk(self._neighbours, dim=1).indices
        cosine = torch.einsum("bkd,bd->bk", mu[near], x)
        energy = x.new_zeros(len(x))
        if "lambda_spread" in self.logs and len(x) > 1:
            energy = energy + self._config.lambda_geom * self._value("lambda_spread") * spread(x)
        if {"lambda_cover", "rho_min", "sharpness"} <= self.logs.keys():
            rho = torch.exp(self._value("sharpness") * (cosine - 1)).mean(dim=1)
            weight = self._config.lambda_geom * self._value("lambda_cover")
            energy = energy + weight * torch.relu(self._value("rho_min") - rho)
        if "lambda_comp" in self.logs:
            energy = energy + self._value("lambda_comp") * self._pairs(cosine, near, splats)
        if "lambda_entropy" in self.logs:
            log_mode = splats.log_pi + log_peak(a, mu.shape[1])
            p = torch.softmax(log_mode[near] + a[near] * (cosine - 1), dim=1)
            energy = energy + self._value("lambda_entropy") * negative_entropy(p, near)
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
    def configuration(self) -> EnergyConfig:
        """The configuration with the values learned, for `Energy.from_config`."""
        changes: dict[str, object] = {name: float(self._value(name)) for name in self.logs}
        if "lambda_comp" in self.logs:
            changes["pair_coefficients"] = tuple(self.coefficients.tolist())
            changes["pair_bias"] = float(self.bias)
        return dataclasses.replace(self._config, **changes)  # type: ignore[arg-type]

    def _value(self, name: str) -> Tensor:
        return self.logs[name].exp()

    def _pairs(self, cosine: Tensor, near: Tensor, splats: Splats) -> Tensor:
        """sum over pairs of share_ij sigmoid(W.[u, v, uv] + b), (B,)."""
        ordered, order = near.sort(dim=1)
        cosine = cosine.gather(1, order)
        first, second = torch.triu_indices(near.shape[1], near.shape[1], 1)
        u, v = cosine[:, first], cosine[:, second]
        log_pi = splats.log_pi[ordered]
        share = torch.softmax(log_pi[:, first] + log_pi[:, second], dim=1)
        of_u, of_v, of_both = self.coefficients
        return (share * torch.sigmoid(of_u * u + of_v * v + of_both * u * v + self.bias)).sum(dim=1)


def spread(x: Tensor) -> Tensor:
    """-mean over i < j of log(1 - x_i.x_j), half of each pair's share for either row, (B,).

    x: (B, d) unit rows, at least two. Pairs closer than `CLOSEST` count as that close.
    """
    rows = len(x)
    gap = 1 - x @ x.T
    other = ~torch.eye(rows, dtype=torch.bool, device=x.device)
    logs = torch.where(other, gap, 1).clamp_min(CLOSEST).log()
    return -logs.sum(dim=1) / (rows * (rows - 1))


def negative_entropy(p: Tensor, near: Tensor) -> Tensor:
    """sum_k q_k log q_k, q_k the mean of p_k over rows, as a share of each row, (B,).

    p: (B, K) shares of the splats `near`, (B, K).
    """
    used, place = near.unique(return_inverse=True)
    q = p.new_zeros(len(used)).index_add(0, place.flatten(), p.flatten()) / len(p)
    level = q.clamp_min(torch.finfo(q.dtype).tiny).log()
    return (p * level[place]).sum(dim=1) / len(p)


def _log(value: float) -> float | None:
    """The logarithm of a positive value, None of zero."""
    return math.log(value) if value > 0 else None
