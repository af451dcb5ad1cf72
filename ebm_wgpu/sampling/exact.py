"""Exact draws from p(x | c) where the energy is a plain mixture: the splat, then the position.

With eta_k = a_k mu_k + h, splat k has the posterior p(k|c) = softmax_k(log W_k), and x given k is
von Mises-Fisher around eta_k. Nothing is approximated and nothing has to mix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.energy import Energy
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import open_device
from ebm_wgpu.kernels._philox import STREAM_COMPONENT, uniform_reference
from ebm_wgpu.splats import SplatStore

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]

# Posteriors are (rows, splats); this many entries at a time fit any memory.
_ENTRIES = 1 << 24
_MAX_SEED = 1 << 64


@dataclass(frozen=True, eq=False)
class Draws:
    """Exact draws.

    Attributes:
        x: (n, d) float32 positions on the sphere.
        component: (n,) int64 splat that each was drawn from.
    """

    x: Float32Array
    component: Int64Array


def sample_exact(
    model: Energy | SplatStore,
    n: int,
    h: ArrayLike | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
) -> Draws:
    """Draw from exp(-E_splats(x) + h.x - log Z(c)), exactly.

    Draw i depends on the seed, on i and on its own tilt alone, not on how many are drawn. A
    geometric or compositional term is not part of it: such draws are where Langevin starts.

    Args:
        model: an energy, with its temperature and its device, or splats at temperature one.
        n: number of draws.
        h: context tilts, (d,) for all draws or (n, d); none by default.
        seed: of everything random, 0 <= seed < 2^64.
        device: where to draw from a store; an energy has its own.

    Raises:
        ConfigError: an n below 1, a seed out of range, a tilt that does not fit or is not finite.
    """
    energy = model if isinstance(model, Energy) else Energy(model, open_device(device))
    if n < 1:
        raise ConfigError(f"cannot draw {n} positions: ask for at least 1")
    check_seed(seed)
    rows = tilts(energy, h, n)
    chain = np.arange(n, dtype=np.int32)
    shared = h is None or np.ndim(h) == 1
    component = np.empty(n, np.int64)
    if shared:
        component[:] = _choose(energy.posterior(h)[0], _uniforms(chain, seed))
    else:
        step = max(1, _ENTRIES // len(energy.store))
        for first in range(0, n, step):
            part = slice(first, first + step)
            component[part] = draw_components(energy.posterior(rows[part]), chain[part], seed)
    eta = energy.concentration[component, None] * energy.store.mu[component]
    eta = (eta + energy.scale_tilt(rows)).astype(np.float32)
    out = energy.device.run("vmf_sample", eta=eta, chain=chain, seed=seed, step=0)["out"]
    return Draws(out.numpy(), component)


def draw_components(posterior: Float32Array, chain: NDArray[np.int32], seed: int) -> Int64Array:
    """A splat for each row of probabilities (n, K), (n,); seed and chain (n,) decide it alone."""
    uniforms = _uniforms(chain, seed)
    drawn = [_choose(p, uniforms[i : i + 1])[0] for i, p in enumerate(posterior)]
    return np.array(drawn, np.int64)


def tilts(energy: Energy, h: ArrayLike | None, n: int) -> Float32Array:
    """h as (n, d) float32 rows: zero if there is none, repeated if it is one for all.

    Raises:
        ConfigError: another shape, or values that are not finite.
    """
    d = energy.store.dimension
    if h is None:
        return np.zeros((n, d), np.float32)
    rows = np.asarray(h, np.float32)
    if rows.shape not in ((d,), (n, d)):
        raise ConfigError(f"h has shape {rows.shape}: give ({d},) for all draws or ({n}, {d})")
    if not np.isfinite(rows).all():
        raise ConfigError("h holds NaN or infinity: check the context encoder")
    return np.array(np.broadcast_to(rows, (n, d)))


def check_seed(seed: int) -> None:
    """Raise `ConfigError` unless 0 <= seed < 2^64."""
    if not 0 <= seed < _MAX_SEED:
        raise ConfigError(f"seed {seed} is out of range: use 0 to 2^64 - 1")


def _uniforms(chain: NDArray[np.int32], seed: int) -> Float64Array:
    """One uniform a chain with 46 random bits, so that the lightest splat can be drawn."""
    coarse, fine = uniform_reference(chain, 2, 0, STREAM_COMPONENT, seed).T
    return coarse + (fine - 0.5) * 2.0**-23


def _choose(p: Float32Array, uniforms: Float64Array) -> Int64Array:
    """The components at the given uniforms of the cumulative distribution."""
    cumulative = np.cumsum(p, dtype=np.float64)
    return np.searchsorted(cumulative, uniforms * cumulative[-1], side="right")
