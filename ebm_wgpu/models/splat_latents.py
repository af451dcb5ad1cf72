"""Token probabilities of splats, read off latents that are drawn.

The splats of a context c give p(w|c) = sum over {k: sid_k = w} of p(k|c) in closed form. The same
can be read off a latent x ~ p(x|c), by which splat may have made it:

    p(w|x) = sum over {k: sid_k = w} of p(k|x),    p(k|x) = softmax_k(log w_k + a mu_k.x)

The tilt h cancels, so p(k|x) = p(k|x,c) = p(k,x|c) / p(x|c), and the mean over latents is the
closed form: integral of p(k|x) p(x|c) dx = integral of p(k,x|c) dx = p(k|c).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebm_wgpu.config import Latent, SamplerConfig
from ebm_wgpu.kernels import KernelDevice, open_device
from ebm_wgpu.models.context_splats import EMPTY, ContextSplats
from ebm_wgpu.models.ops import chunks
from ebm_wgpu.models.recall import RecallGate
from ebm_wgpu.sampling.row_mixtures import RowMixtures, move_rows, sample_rows_exact

_ENTRIES = 1 << 24

Float32Array = NDArray[np.float32]


class TiltedRows(NamedTuple):
    """G groups of K splats, each seen by R tilts, all float32.

    Attributes:
        mu: (G, K, d) unit vectors.
        log_prior: (G, R, K) log weights before the tilt, nats; -inf where a row sees no splat.
        h: (G, R, d) tilts.
    """

    mu: Float32Array
    log_prior: Float32Array
    h: Float32Array


def context_rows(context: ContextSplats, keys: Tensor, queries: Tensor, age: Tensor) -> TiltedRows:
    """What positions see of the splats of their text.

    Args:
        context: gives the decay with age and the length of tilts.
        keys: (G, K, d), directions of the splats.
        queries: (G, R, d), directions of the tilts.
        age: (R, K) or (G, R, K), of each splat for each position; below 1 it is not seen.
    """
    prior = -context.decay * age.clamp(min=1).log()
    prior = prior.masked_fill(age < 1, -torch.inf).expand(*queries.shape[:2], -1)
    return _rows(keys, prior, context.log_length.exp() * queries)


def stored_rows(gate: RecallGate, mu: Tensor, queries: Tensor, prior: Tensor) -> TiltedRows:
    """What P positions see of stored splats: mu (P, K, d), queries (P, d) and priors (P, K)."""
    h = gate.log_length.exp() * queries
    return _rows(mu, (gate.exponent * prior)[:, None], h[:, None])


def _rows(mu: Tensor, prior: Tensor, h: Tensor) -> TiltedRows:
    return TiltedRows(*(np.asarray(t.detach().float().cpu()) for t in (mu, prior, h)))


class SplatLatents:
    """Draws latents of splats of one concentration, and reads tokens off them.

    What is drawn for row r of group g depends on the seed, on g R + r and on what the row sees, not
    on the other rows. Langevin chains start from exact draws; their readout has the bias of the
    integrator's finite step besides the error of the draws.
    """

    def __init__(
        self, concentration: float, sampler: SamplerConfig, device: KernelDevice | None = None
    ) -> None:
        """Choose how to draw.

        Args:
            concentration: a in natural units.
            sampler: how chains move with latent="langevin".
            device: where latents are drawn; `open_device("auto")` when the first one is, unless
                given.
        """
        self._concentration, self._sampler, self._device = concentration, sampler, device

    def token_mass(
        self,
        rows: TiltedRows,
        sids: Tensor,
        vocab_size: int,
        latent: Latent,
        seed: int,
        first_chain: int = 0,
    ) -> Tensor:
        """log p(w|x) of every token for one latent x a row, (G, V) nats, `EMPTY` where it is zero.

        Args:
            rows: one row a group (R = 1).
            sids: (G, K), token ids of the splats.
            vocab_size: V.
            latent: "exact" or "langevin".
            seed: of everything random.
            first_chain: number of the first row in the random stream.
        """
        mass = np.zeros((len(sids), vocab_size), np.float32)
        groups = np.flatnonzero(np.isfinite(rows.log_prior).any(axis=(1, 2)))
        if len(groups):
            mixtures, h = self._mixtures(TiltedRows(*(values[groups] for values in rows)))
            chain = (first_chain + groups).astype(np.int32)
            x = self._draw(mixtures, mixtures.posterior(h), h, chain, latent, seed)
            at = groups[:, None], sids.cpu().numpy()[groups]
            np.add.at(mass, at, mixtures.memberships(x)[:, 0])
        return _log(mass).to(sids.device)

    def target_mass(
        self, rows: TiltedRows, hits: Tensor, latent: Latent, seed: int, first_chain: int = 0
    ) -> Tensor:
        """log of an estimate of p(w|c) for one token a row, (G, R) nats, `EMPTY` where it is zero.

        A latent of sharp splats stands for one of them, so that the readout of plain draws is
        nearly always 0 or 1, and its error that of a lottery. So two latents are drawn, one of a
        splat with the token's id and one of another, and their readouts weighed by the shares of
        the two in p(k|c) (stratified sampling). The mean over seeds is p(w|c) as before; where
        splats of other tokens lie near those of a rare one, it still takes many.

        Args:
            rows: R rows a group.
            hits: (G, R, K) bool, whether a splat has the id of the row's token.
            latent: "exact" or "langevin".
            seed: of everything random.
            first_chain: number of the first row in the random stream; each row has two chains.
        """
        hit = np.logical_and(hits.cpu().numpy(), np.isfinite(rows.log_prior))
        wanted: NDArray[np.bool_] = np.any(hit, axis=-1)
        mass = np.zeros(wanted.shape, np.float32)
        # Rows that no splat can hit need no latent; groups keep as many as the one with the most.
        width = int(wanted.sum(1).max(initial=0))
        order = np.argsort(~wanted, axis=1, kind="stable")[:, :width]
        groups = np.flatnonzero(wanted.any(axis=1))
        (count, k), d = hit.shape[1:], rows.mu.shape[2]
        for part in chunks(len(groups), 2 * width * (k + d) + k * d, _ENTRIES):
            some = groups[part]
            at = some[:, None], order[some]
            # A row that fills up may see nothing, and counts nothing: it is shown all splats.
            prior = np.where(wanted[at][..., None], rows.log_prior[at], 0)
            few = TiltedRows(rows.mu[some], prior, rows.h[at])
            chain = first_chain + 2 * (at[0] * count + at[1])
            mass[at] = self._stratified(few, hit[at], chain, latent, seed)
        return _log(mass * wanted).to(hits.device)

    def _stratified(
        self,
        rows: TiltedRows,
        hit: NDArray[np.bool_],
        chain: NDArray[np.int64],
        latent: Latent,
        seed: int,
    ) -> Float32Array:
        """The estimate (G, R) from two chains a row, `chain` and the next."""
        twice = TiltedRows(rows.mu, *(np.tile(v, (1, 2, 1)) for v in rows[1:]))
        mixtures, h = self._mixtures(twice)
        posterior = mixtures.posterior(h)
        strata = np.where(np.concatenate([hit, ~hit], 1), posterior, 0)
        share = strata.sum(-1)
        # A stratum without mass has no latent; whatever is drawn for it counts nothing.
        start = np.where(share[..., None] > 0, strata, posterior)
        chains = np.concatenate([chain, chain + 1], 1).ravel().astype(np.int32)
        x = self._draw(mixtures, start, h, chains, latent, seed)
        read = (mixtures.memberships(x) * np.tile(hit, (1, 2, 1))).sum(-1)
        halves: Float32Array = (share * read).reshape(len(hit), 2, -1)
        return halves.sum(axis=1)

    def _mixtures(self, rows: TiltedRows) -> tuple[RowMixtures, Float32Array]:
        if self._device is None:
            self._device = open_device("auto")
        mixtures = RowMixtures(rows.mu, rows.log_prior, self._concentration, self._device)
        return mixtures, np.ascontiguousarray(rows.h.reshape(-1, rows.h.shape[-1]))

    def _draw(
        self,
        mixtures: RowMixtures,
        posterior: Float32Array,
        h: Float32Array,
        chain: NDArray[np.int32],
        latent: Latent,
        seed: int,
    ) -> Float32Array:
        x = sample_rows_exact(mixtures, posterior, h, chain, seed).x
        return x if latent == "exact" else move_rows(mixtures, x, h, chain, seed, self._sampler)


def _log(mass: Float32Array) -> Tensor:
    """log mass, or `EMPTY` where it is zero."""
    return torch.from_numpy(mass).log().clamp(min=EMPTY)
