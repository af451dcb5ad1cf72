"""Splats as parameters: a `SplatStore` that can be trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm_wgpu.config import EnergyConfig, ModelConfig
from ebm_wgpu.errors import StoreError
from ebm_wgpu.models.mixture_ops import Splats, log_peak
from ebm_wgpu.splats.health import YOUNG, active_splats
from ebm_wgpu.splats.store import SplatStore

_EDGE = 1e-6
"""Distance kept from the ends of the range of kappa, as a share of it: logits stay finite."""


class SplatMixture(nn.Module):
    """N splats whose directions, weights and concentrations learn.

    mu lies on the sphere and moves along it (`mu.spherical`); alpha = exp(log_alpha); kappa =
    kappa_min + (kappa_max - kappa_min) sigmoid(kappa_logit). These parameters have a row a splat
    (`splat_rows`). Splats stand in order of their token ids, so that those of a token are
    neighbours.

    Attributes:
        mu: (N, d) unit rows.
        log_alpha: (N,).
        kappa_logit: (N,).
        sid: (N,) int64, ascending.
        frequency: (N,) float64, share of all use that each splat has.
        age: (N,) int64, optimiser steps since it was made.
    """

    mu: nn.Parameter
    log_alpha: nn.Parameter
    kappa_logit: nn.Parameter
    sid: Tensor
    frequency: Tensor
    age: Tensor

    def __init__(self, config: ModelConfig, energy: EnergyConfig, vocab_size: int) -> None:
        """Splats along the axes, with token ids spread evenly, until `load_store` gives others.

        Args:
            config: dim, n_splats, kappa_init, kappa_min, kappa_max.
            energy: form, temperature, tau.
            vocab_size: token ids are below it.
        """
        super().__init__()
        self.vocab_size = vocab_size
        self._dim = config.dim
        self._form, self._temperature, self._tau = energy.form, energy.temperature, energy.tau
        self._kappa_range = (config.kappa_min, config.kappa_max)
        self._kept_starts: tuple[tuple[Tensor, int, torch.device], Tensor] | None = None
        count = config.n_splats
        self.load_store(
            SplatStore.from_directions(
                np.eye(config.dim, dtype=np.float32)[np.arange(count) % config.dim],
                kappa=config.kappa_init,
                sid=np.arange(count) * vocab_size // count,
                kappa_range=self._kappa_range,
            )
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # What counts splats stays in main memory: float64 has no form on a GPU.
        kept = {name: self._buffers.pop(name) for name in ("sid", "frequency", "age")}
        try:
            return super()._apply(fn, recurse)
        finally:
            self._buffers.update(kept)

    def load_store(self, store: SplatStore) -> None:
        """Take over the splats of a store, sorted by token id.

        With as many splats as before the parameters stay the same objects; otherwise they are new
        ones, and optimisers must be made anew.

        Raises:
            StoreError: another dimension, or token ids that the vocabulary does not have.
        """
        if store.dimension != self._dim:
            raise StoreError(
                f"the splats have dimension {store.dimension} and the model {self._dim}: use "
                "splats of the model's dimension"
            )
        if int(store.sid.max()) >= self.vocab_size:
            raise StoreError(
                f"a splat stands for token id {int(store.sid.max())} and the vocabulary has "
                f"{self.vocab_size}: use splats made with this tokenizer"
            )
        order = np.argsort(store.sid, kind="stable")
        low, high = self._kappa_range
        share = (store.kappa[order].astype(np.float64) - low) / max(high - low, _EDGE)
        share = np.clip(share, _EDGE, 1 - _EDGE)
        parameters = {
            "mu": store.mu[order],
            "log_alpha": np.log(store.alpha[order]),
            "kappa_logit": np.log(share / (1 - share)).astype(np.float32),
        }
        buffers = {
            "sid": store.sid[order],
            "frequency": store.frequency[order],
            "age": store.age[order],
        }
        same = "mu" in self._parameters and len(self.mu) == len(order)
        for name, values in parameters.items():
            if same:
                getattr(self, name).data.copy_(torch.from_numpy(values))
            else:
                parameter = nn.Parameter(torch.from_numpy(np.array(values)))
                setattr(parameter, "spherical" if name == "mu" else "splat_rate", True)
                parameter.splat_rows = True  # type: ignore[attr-defined]
                setattr(self, name, parameter)
        for name, values in buffers.items():
            if same:
                getattr(self, name).copy_(torch.from_numpy(values))
            else:
                self.register_buffer(name, torch.from_numpy(np.array(values)))

    @torch.no_grad()
    def to_store(self) -> SplatStore:
        """The splats as a store of its own memory, in the order of the parameters."""
        limits = torch.finfo(torch.float32)
        alpha = self.log_alpha.exp().clamp(limits.tiny, limits.max / len(self.mu))
        store = SplatStore(
            mu=self.mu.cpu().numpy().copy(),
            alpha=alpha.cpu().numpy(),
            kappa=self.kappa().cpu().numpy(),
            sid=self.sid.numpy().copy(),
            frequency=self.frequency.numpy().copy(),
            age=self.age.numpy().copy(),
            kappa_range=self._kappa_range,
        )
        store.validate()
        return store

    @torch.no_grad()
    def decay_weights(self, amount: float) -> None:
        """alpha <- alpha exp(-amount) of splats `YOUNG` steps old or older that are not used."""
        idle = ~active_splats(self.frequency.numpy()) & (self.age.numpy() >= YOUNG)
        self.log_alpha.sub_((amount * torch.from_numpy(idle).float()).to(self.log_alpha.device))

    def kappa(self) -> Tensor:
        """Concentrations per degree of freedom, (N,)."""
        low, high = self._kappa_range
        return (low + (high - low) * torch.sigmoid(self.kappa_logit)).clamp(low, high)

    def concentration(self) -> Tensor:
        """a, natural units, (N,): (d-1) kappa over the temperature; published form: alpha/tau."""
        published = self._form == "published"
        natural = self.log_alpha.exp() / self._tau if published else (self._dim - 1) * self.kappa()
        return natural / self._temperature

    def log_pi(self) -> Tensor:
        """Log weights of the mixture that the energy is the negative logarithm of, (N,), nats.

        log alpha, normalised; in the published form, whose terms alpha exp(a (mu.x - 1)) are not
        densities, log alpha - (a - log Z0(a)), normalised.
        """
        logits: Tensor = self.log_alpha
        if self._form == "published":
            logits = logits - log_peak(self.concentration(), self._dim)
        return F.log_softmax(logits, 0)

    def splats(self) -> Splats:
        """The mixture as the operations take it."""
        return Splats(self.mu, self.concentration(), self.log_pi())

    def groups(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """First splat of each token and one past its last, in the shape of `tokens`."""
        starts = self._starts(tokens.device)
        return starts[tokens], starts[tokens + 1]

    def _starts(self, place: torch.device) -> Tensor:
        """First splat of each token, and one past the last of all, (V+1,), kept at `place`."""
        state = (self.sid, self.sid._version, place)
        kept = self._kept_starts
        if kept is None or kept[0][0] is not self.sid or kept[0][1:] != state[1:]:
            starts = torch.searchsorted(self.sid, torch.arange(self.vocab_size + 1)).to(place)
            kept = self._kept_starts = (state, starts)
        return kept[1]
