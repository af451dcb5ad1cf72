"""Does energy tell text from what is no text? Data against noise and against shuffled text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_wgpu.config import Latent
from ebm_wgpu.errors import DataError
from ebm_wgpu.evaluation.latents import contexts, latent_energies, spread_windows
from ebm_wgpu.models.base import LanguageModel
from ebm_wgpu.text.datasets import TokenStream
from ebm_wgpu.training.placement import HostScorer, host_energies

Energies = NDArray[np.float64]
Measure = Literal["text", "latent", "energy"]


@dataclass(frozen=True)
class EnergySpread:
    """Energies of one kind of input.

    Attributes:
        mean, deviation: of the energies, nats.
        auroc: probability that one of these has a higher energy than one of the data (ties count
            half): 1 where energy tells them apart, .5 where it does not; .5 for the data itself.
    """

    mean: float
    deviation: float
    auroc: float


@dataclass(frozen=True)
class EnergyContrast:
    """The energy of data, of noise, and of data in random order.

    Attributes:
        measure: "text" for -log p(w|c) averaged over a window of text, which every family has;
            "latent" for -log p(e_w|c) = E(e_w|c) + log Z(c) of a token's latent, for splats;
            "energy" for the family's own E(w|c), before normalisation, averaged over a window,
            where it has one (`LanguageModel.target_energies`).
        n: energies of each kind.
        data: held-out text.
        noise: uniform random tokens for "text", uniform directions on the sphere for "latent".
        shuffled: the tokens of each window in random order.
    """

    measure: Measure
    n: int
    data: EnergySpread
    noise: EnergySpread
    shuffled: EnergySpread


@torch.no_grad()
def evaluate_energy(
    model: LanguageModel,
    stream: TokenStream,
    *,
    length: int,
    n_windows: int,
    n_latents: int,
    batch: int,
    latent: Latent = "mean",
    seed: int = 0,
) -> tuple[EnergyContrast, ...]:
    """Contrasts of every measure the model has, over windows spread over `stream`.

    Args:
        model: what to look at.
        stream: held-out text.
        length: tokens of a window, of which all but the first are scored.
        n_windows: windows of each kind.
        n_latents: latents of each kind, for models made of splats.
        batch: windows scored at a time.
        latent: how latents are found where text is scored.
        seed: of shuffling, noise and draws.

    Raises:
        DataError: the text has fewer than three tokens, which no order can shuffle.
    """
    if len(stream) < 3 or length < 3:
        raise DataError(
            f"{stream.name} has {len(stream)} tokens, windows of {min(length, len(stream))}: "
            "shuffling needs windows of at least 3"
        )
    rng = np.random.default_rng([seed, 0xE6])
    data = spread_windows(stream, length, n_windows)
    # The first token of a window is context only: it stays.
    order = torch.from_numpy(rng.random((len(data), data.shape[1] - 1))).argsort(1)
    shuffled = torch.cat([data[:, :1], data[:, 1:].gather(1, order)], 1)
    noise = torch.from_numpy(rng.integers(stream.vocab_size, size=tuple(data.shape)))
    noise[:, 0] = data[:, 0]
    kinds = (data, noise, shuffled)
    scores = [_text_energies(model, tokens, batch, latent, seed) for tokens in kinds]
    contrasts = [_contrast("text", *scores)]
    splats = model.splat_model
    if splats is not None:
        h, targets = contexts(splats, data, n_latents, rng)
        x = splats.token_latents(targets)
        random = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal(x.shape)))
        mixed_h, mixed_targets = contexts(splats, shuffled, n_latents, rng)
        mixed = splats.token_latents(mixed_targets)
        pairs = ((h, x), (h, random), (mixed_h, mixed))
        latents = [latent_energies(splats, h, x).in_context.numpy() for h, x in pairs]
        contrasts.append(_contrast("latent", *latents))
    own = [_own_energies(model, tokens, batch) for tokens in kinds]
    found = [energies for energies in own if energies is not None]
    if found:
        contrasts.append(_contrast("energy", *found))
    return tuple(contrasts)


def _text_energies(
    model: LanguageModel, tokens: Tensor, batch: int, latent: Latent, seed: int
) -> Energies:
    """-log p of each window, nats a token, (B,)."""
    scorer = HostScorer(model)
    parts = [
        -scorer.token_log_probs(rows[:, :-1], rows[:, 1:], latent=latent, seed=seed + number)
        for number, rows in enumerate(tokens.split(batch))
    ]
    return torch.cat(parts).double().mean(1).numpy()


def _own_energies(model: LanguageModel, tokens: Tensor, batch: int) -> Energies | None:
    """E(w|c) of the family, averaged over each window, (B,); none for a family without."""
    parts = []
    for rows in tokens.split(batch):
        energies = host_energies(model, rows[:, :-1], rows[:, 1:])
        if energies is None:
            return None
        parts.append(energies.double().mean(1))
    return torch.cat(parts).numpy()


def _contrast(
    measure: Measure, data: Energies, noise: Energies, shuffled: Energies
) -> EnergyContrast:
    spreads = [_spread(energies, data) for energies in (data, noise, shuffled)]
    return EnergyContrast(measure, len(data), *spreads)


def _spread(energies: Energies, data: Energies) -> EnergySpread:
    from scipy.stats import mannwhitneyu

    pairs = len(energies) * len(data)
    auroc = float(mannwhitneyu(energies, data).statistic) / pairs
    return EnergySpread(float(energies.mean()), float(energies.std()), auroc)
