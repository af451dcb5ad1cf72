"""Contrastive divergence over token sequences: plain, persistent, and with restarting chains."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.models.token_chains import CausalEnergy, informed_metropolis

Method = Literal["cd", "pcd", "fast_pcd"]


class ContrastiveDivergence(nn.Module):
    """mean E(data) - mean E(negatives), whose gradient estimates that of -log likelihood.

    The model is p(x) = exp(-E(x))/Z over whole sequences, first token included. The negatives are
    states of Markov chains that have it as stationary distribution (`informed_metropolis`):

    - cd: CD-k (Hinton 2002): chains start at the data and run for k steps.
    - pcd: persistent (Tieleman 2008): particles live on from batch to batch; as many of them as the
      batch has rows are drawn, run on for k steps, and put back.
    - fast_pcd: every particle runs on for k steps in every batch, and starts again from a row of
      the data with a small probability, which frees chains that are stuck. (Not the fast weights
      of Tieleman and Hinton 2009.)

    Particles are a buffer, part of the module's state: training resumes with them. They start at
    data of the first batch; row r at data row r modulo the batch. Chains move every token, so that
    they forget that batch.
    """

    particles: Tensor
    started: Tensor

    def __init__(
        self,
        method: Method,
        length: int,
        steps: int = 1,
        n_particles: int = 64,
        restart_probability: float = 0.05,
    ) -> None:
        """Make the module; `cd` keeps no particles.

        Args:
            method: cd, pcd or fast_pcd.
            length: tokens of a sequence, at least 2.
            steps: k, of the chains for each batch.
            n_particles: of pcd and fast_pcd.
            restart_probability: of each particle and batch, for fast_pcd.

        Raises:
            ConfigError: a value out of range.
        """
        super().__init__()
        if method not in ("cd", "pcd", "fast_pcd"):
            raise ConfigError(f"method={method!r} does not exist: choose cd, pcd or fast_pcd")
        for name, value, least in (
            ("length", length, 2),
            ("steps", steps, 1),
            ("n_particles", n_particles, 1),
        ):
            if value < least:
                raise ConfigError(
                    f"{name}={value} of contrastive divergence must be at least {least}"
                )
        if not 0 <= restart_probability <= 1:
            raise ConfigError(f"restart_probability={restart_probability} must be from 0 to 1")
        self.method, self.steps, self.length = method, steps, length
        self.restart_probability = restart_probability
        kept = 0 if method == "cd" else n_particles
        self.register_buffer("particles", torch.zeros(kept, length, dtype=torch.int64))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def reset(self) -> None:
        """Forget the particles; the next batch starts them again."""
        self.started.fill_(False)

    def forward(self, model: CausalEnergy, data: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of a batch, nats; its value is no likelihood, only its gradient means something.

        Args:
            model: energies, differentiable in what is learned, and proposals of the chains.
            data: token sequences (B, length) int64.
            generator: of the chains, in main memory.

        Raises:
            ConfigError: sequences of another length.
        """
        negatives = self.negatives(model, data, generator)
        energies, _ = model.read(torch.cat((data, negatives)))
        return energies[: len(data)].mean() - energies[len(data) :].mean()

    @torch.no_grad()
    def negatives(self, model: CausalEnergy, data: Tensor, generator: torch.Generator) -> Tensor:
        """Sequences (N, length) from the chains; N is the batch's, or all particles of fast_pcd.

        Arguments and errors as for `forward`.
        """
        if data.shape[1] != self.length:
            raise ConfigError(
                f"contrastive divergence got sequences of {data.shape[1]} tokens and was made for "
                f"{self.length}: give those"
            )
        if self.method == "cd":
            return informed_metropolis(model, data, self.steps, generator)
        if not bool(self.started):
            rows = torch.arange(len(self.particles), device=data.device) % len(data)
            self.particles.copy_(data[rows])
            self.started.fill_(True)
        if self.method == "fast_pcd":
            return self._advance_all(model, data, generator)
        order = torch.randperm(len(self.particles), generator=generator)[: len(data)]
        chosen = order.to(data.device)
        moved = informed_metropolis(model, self.particles[chosen], self.steps, generator)
        self.particles[chosen] = moved
        return moved

    def _advance_all(self, model: CausalEnergy, data: Tensor, generator: torch.Generator) -> Tensor:
        count = len(self.particles)
        again = torch.rand(count, generator=generator) < self.restart_probability
        source = torch.randint(len(data), (count,), generator=generator).to(data.device)
        started = torch.where(again.to(data.device)[:, None], data[source], self.particles)
        self.particles.copy_(informed_metropolis(model, started, self.steps, generator))
        return self.particles.clone()
