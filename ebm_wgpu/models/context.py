"""Context encoders: from the directions of the tokens so far to a context on the sphere."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ebm_wgpu.config import ModelConfig
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.models import ops

FIXED_WEIGHTS = (0.5, 0.3, 0.2)
"""Weights of the recent mean, the exponential mean and the attention."""
_ATTENTION_SHARPNESS = 8.0
"""First factor of the cosines that attention compares."""
_N_FEATURES = 5


class Context(NamedTuple):
    """What is known at each position: c (..., d) on the sphere, and its tilt h (..., d)."""

    c: Tensor
    h: Tensor


def normal_(tensor: Tensor, scale: float, generator: torch.Generator) -> None:
    """Fill a parameter with independent normal values of standard deviation `scale`."""
    with torch.no_grad():
        tensor.normal_(0, scale, generator=generator)


class FeedForward(nn.Module):
    """E networks W2 gelu(W1 x + b1) + b2, each from `n_inputs` over `n_hidden` to `n_outputs`."""

    def __init__(self, n_networks: int, n_inputs: int, n_hidden: int, n_outputs: int) -> None:
        """Allocate the parameters; `reset` fills them."""
        super().__init__()
        self.w1 = nn.Parameter(torch.empty(n_networks, n_inputs, n_hidden))
        self.b1 = nn.Parameter(torch.empty(n_networks, n_hidden))
        self.w2 = nn.Parameter(torch.empty(n_networks, n_hidden, n_outputs))
        self.b2 = nn.Parameter(torch.empty(n_networks, n_outputs))
        for bias in (self.b1, self.b2):
            bias.no_decay = True  # type: ignore[attr-defined]

    def reset(self, generator: torch.Generator, output_scale: float) -> None:
        """Hidden units of unit variance for inputs of unit variance, outputs of `output_scale`."""
        normal_(self.w1, self.w1.shape[1] ** -0.5, generator)
        normal_(self.w2, output_scale * self.w2.shape[1] ** -0.5, generator)
        nn.init.zeros_(self.b1)
        nn.init.zeros_(self.b2)

    def experts(self) -> ops.Experts:
        """The parameters as the operations take them."""
        return ops.Experts(self.w1, self.b1, self.w2, self.b2)


class HierarchicalContext(nn.Module):
    """Recent mean, exponential mean and attention, mixed to a context and a tilt.

    Attention compares the present token and its predecessor with every earlier token and its
    predecessor, so that it can look up what followed the last time. "learned" mixing is a linear
    map of the three summaries and the last two tokens, plus a network of one hidden layer over
    them; "fixed" is .5 recent + .3 exponential + .2 attention. The context c is normalised, and the
    tilt is h = scale W c with W = 1 and scale = `model.context_scale_init` at first.
    """

    def __init__(self, config: ModelConfig, device: KernelDevice) -> None:
        """Allocate the parameters; `reset` fills them.

        Args:
            config: dim, context_mixing, the three windows, expert_hidden (also of the network
                here) and context_scale_init.
            device: runs the kernels.
        """
        super().__init__()
        d = config.dim
        self._device = device
        self._windows = ops.Windows(
            config.recent_window, config.decay_window, config.attention_window
        )
        self._first_scale = config.context_scale_init
        self.query = nn.Parameter(torch.empty(d, 2 * d))
        self.key = nn.Parameter(torch.empty(d, 2 * d))
        self.tilt = nn.Parameter(torch.empty(d, d))
        self.log_scale = nn.Parameter(torch.empty(()))
        self.mix: nn.Parameter | None = None
        self.network: FeedForward | None = None
        if config.context_mixing == "learned":
            self.mix = nn.Parameter(torch.empty(d, _N_FEATURES * d))
            self.network = FeedForward(1, _N_FEATURES * d, config.expert_hidden, d)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """First values: attend to what followed the present token, fixed weights, h = scale c."""
        d = len(self.tilt)
        identity = torch.eye(d)
        self.query.zero_()
        self.key.zero_()
        self.query[:, :d] = math.sqrt(_ATTENTION_SHARPNESS) * identity
        self.key[:, d:] = math.sqrt(_ATTENTION_SHARPNESS) * identity
        self.tilt.copy_(identity)
        self.log_scale.fill_(math.log(self._first_scale))
        if self.mix is not None and self.network is not None:
            self.mix.zero_()
            for part, weight in enumerate((*FIXED_WEIGHTS, FIXED_WEIGHTS[0])):
                self.mix[:, part * d : (part + 1) * d] = weight * identity
            self.network.reset(generator, 0.1 * d**-0.5)

    def forward(self, x: Tensor) -> Context:
        """The context after each of the token directions x (B, T, d), causal in T.

        Raises:
            KernelError: a window that the kernel cannot hold.
        """
        device = self._device
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        pair = torch.cat([x, before], 2)
        query, key = ops.linear(device, pair, self.query), ops.linear(device, pair, self.key)
        summaries = ops.hierarchical_context(device, x, query, key, self._windows)
        if self.mix is None or self.network is None:
            mixed = (summaries * summaries.new_tensor(FIXED_WEIGHTS)[:, None]).sum(2)
        else:
            features = torch.cat([summaries.flatten(2), x, before], 2)
            # Coordinates of unit vectors have variance 1/d; the network wants variance one.
            spread = features * math.sqrt(x.shape[-1])
            mixed = ops.linear(device, features, self.mix)
            mixed = mixed + ops.feed_forward(device, spread, self.network.experts())
        c = ops.normalize(device, mixed)
        return Context(c, self.log_scale.exp() * ops.linear(device, c, self.tilt))
