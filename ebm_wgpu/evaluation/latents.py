"""Latents of held-out text under the splats: their energies, and how well splats cover them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ebm_wgpu.models.base import LanguageModel, SplatModel
from ebm_wgpu.models.mixture_ops import log_peak
from ebm_wgpu.models.ops import chunks
from ebm_wgpu.splats.health import active_splats
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.training.score_matching import Mixture, TiltedMixture

_CHUNK_ENTRIES = 2**22


@dataclass(frozen=True)
class LatentEnergies:
    """Energies of latents (B, d) in their contexts, nats, (B,) float64 each.

    Attributes:
        alone: E_splats(x) = -log p_splats(x), without any context.
        in_context: -log p(x|c) = E(x|c) + log Z(c), comparable between contexts.

    Both are relative to the uniform probability on the sphere: 0 is as likely as chance, and lower
    is likelier.
    """

    alone: Tensor
    in_context: Tensor


@torch.no_grad()
def latent_energies(model: SplatModel, h: Tensor, x: Tensor) -> LatentEnergies:
    """Energies, in float64, of latents x (B, d) in contexts whose tilts are h (B, d).

    Only the solvable part of the energy counts: the splats and the context.
    """
    splats = [value.detach().double() for value in model.splats()]
    mu, a, log_pi = splats
    log_w = log_pi + log_peak(a, mu.shape[1])
    h, x = h.detach().double(), x.detach().double()
    alone, in_context = torch.empty(len(x), dtype=x.dtype), torch.empty(len(x), dtype=x.dtype)
    for rows in chunks(len(x), len(mu), _CHUNK_ENTRIES):
        energy = -torch.logsumexp(log_w + a * (x[rows] @ mu.T - 1), 1)
        log_z = torch.logsumexp(TiltedMixture(Mixture(mu, a, log_pi, h[rows])).log_weight, 1)
        alone[rows] = energy
        in_context[rows] = energy - (h[rows] * x[rows]).sum(1) + log_z
    return LatentEnergies(alone, in_context)


@dataclass(frozen=True)
class CoverageReport:
    """How much of held-out text the splats reach.

    Attributes:
        coverage: share of all tokens of the text that have a splat in use, one whose share of all
            use is at least a hundredth of the even share (`splats.health.active_splats`).
        n_positions: positions looked at for the rest.
        reached: share of them whose next token's latent is likelier than chance in its context,
            log p(e_w|c) > 0 relative to the uniform probability on the sphere.
        reached_alone: the same of the splats without the context, log p_splats(e_w) > 0.
        splats_a_context: median over positions of exp(entropy of p(k|c)), the number of splats that
            a context chooses among.
    """

    coverage: float
    n_positions: int
    reached: float
    reached_alone: float
    splats_a_context: float


@torch.no_grad()
def evaluate_coverage(
    model: LanguageModel, stream: TokenStream, length: int, n_positions: int, seed: int = 0
) -> CoverageReport | None:
    """Coverage of `stream`; none for a model without splats or a text of fewer than two tokens.

    Args:
        model: what to look at.
        stream: held-out text.
        length: tokens a window has, at least 2, of which all but the first can be looked at.
        n_positions: random positions to look at, at most.
        seed: chooses them.
    """
    splats = model.splat_model
    if splats is None or len(stream) < 2:
        return None
    windows = spread_windows(stream, length, -(-n_positions // (length - 1)))
    h, targets = contexts(splats, windows, n_positions, np.random.default_rng(seed))
    energies = latent_energies(splats, h, splats.token_latents(targets))
    choices = torch.cat(list(_choices(splats, h)))
    store = splats.to_store()
    return CoverageReport(
        coverage=float(np.isin(stream.tokens, store.sid[active_splats(store.frequency)]).mean()),
        n_positions=len(targets),
        reached=float((energies.in_context < 0).double().mean()),
        reached_alone=float((energies.alone < 0).double().mean()),
        splats_a_context=float(choices.median()),
    )


def spread_windows(stream: TokenStream, length: int, count: int) -> Tensor:
    """Windows evenly spread over a text, none of which overlap, (B, T) int64.

    T is `length`, or the length of the text; B is `count`, or as many as the text has room for.
    """
    length = min(length, len(stream))
    count = min(count, len(stream) // length)
    starts = np.linspace(0, len(stream) - length, count).round().astype(np.int64)
    return torch.from_numpy(stream.windows(starts, length)).long()


def contexts(
    model: SplatModel, tokens: Tensor, limit: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Tilts h (P, d) after random positions of tokens (B, T), and the tokens that follow, (P,).

    P is `limit`, or as many as there are.
    """
    h = model.features(tokens[:, :-1]).h.flatten(0, 1)
    targets = tokens[:, 1:].reshape(-1)
    chosen = torch.from_numpy(rng.permutation(len(h))[:limit])
    return h[chosen], targets[chosen]


def _choices(model: SplatModel, h: Tensor) -> Iterator[Tensor]:
    """exp(entropy of p(k|c)) for tilts h (P, d), in parts."""
    mu, a, log_pi = (value.detach().double() for value in model.splats())
    for rows in chunks(len(h), len(mu), _CHUNK_ENTRIES):
        mixture = TiltedMixture(Mixture(mu, a, log_pi, h[rows].double()))
        log_p = torch.log_softmax(mixture.log_weight, 1)
        yield torch.exp(torch.special.entr(log_p.exp()).sum(1))
