"""The decoder of latents: a mixture of experts over [x; c], tied to the token directions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ebm_wgpu.config import ModelConfig
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models import ops
from ebm_wgpu.models.context import FeedForward, normal_

_FIRST_SKIP = 0.2
"""*Measured* on WikiText-2: .2 to .3 predicts best from spectral directions before training."""


class Decoded(NamedTuple):
    """y (B, d), whose products with the token directions are logits, and the balance loss."""

    y: Tensor
    balance: Tensor


class ExpertDecoder(nn.Module):
    """y = S z + sum over chosen experts of weight (W2 gelu(W1 z + b1) + b2), z = sqrt(d) [x; c].

    The router is a linear map of z to one logit an expert, of which the `n_active` largest count.
    balance = E sum_e load_e importance_e is 1 where the experts share the work evenly.
    """

    def __init__(self, config: ModelConfig, device: KernelDevice) -> None:
        """Allocate the parameters; `reset` fills them.

        Args:
            config: dim, n_experts, n_active, expert_hidden.
            device: runs the kernels.
        """
        super().__init__()
        d = config.dim
        self._device = device
        self._n_active = config.n_active
        self.router = nn.Parameter(torch.empty(config.n_experts, 2 * d))
        self.skip = nn.Parameter(torch.empty(d, 2 * d))
        self.experts = FeedForward(config.n_experts, 2 * d, config.expert_hidden, d)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """First values: y is near sqrt(d) (x + c)/5, and the experts are chosen at random."""
        d = len(self.skip)
        self.skip.copy_(_FIRST_SKIP * torch.cat([torch.eye(d), torch.eye(d)], 1))
        normal_(self.router, (2 * d) ** -0.5, generator)
        self.experts.reset(generator, 0.1)

    def forward(self, x: Tensor, c: Tensor) -> Decoded:
        """Decode latents x (B, d) in contexts c (B, d)."""
        inputs = torch.cat([x, c], 1) * math.sqrt(x.shape[1])
        gate = ops.expert_gate(
            self._device, ops.linear(self._device, inputs, self.router), self._n_active
        )
        experts = self.experts.experts()
        corrected = ops.expert_ffn(self._device, inputs, experts, gate.choice, gate.weight)
        balance = len(self.router) * (gate.load * gate.importance).sum()
        return Decoded(ops.linear(self._device, inputs, self.skip) + corrected, balance)
