"""Mixtures that differ from row to row, and draws from them.

The splats of a text are seen by each later position with weights of its own, so that positions have
no energy in common, as the rows of `Energy` have. Here G groups of K splats of one concentration a
are each seen by R rows; row r of group g has under its tilt h the energy and the posteriors

    E(x) = -log sum_k w_rk exp(a (mu_gk.x - 1)) - h.x,    log w_rk = log_weight_rk + a - log Z0(a)
    p(k|c) = softmax_k(log_weight_rk + log Z0(|a mu_gk + h|))
    p(k|x) = softmax_k(log_weight_rk + a mu_gk.x)

Rows are counted through: row r of group g is row g R + r of x and h.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ebm_wgpu.config import SamplerConfig
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.sampling.exact import Draws, draw_components
from ebm_wgpu.sampling.integrators import integrate
from ebm_wgpu.sampling.langevin import langevin_options, make_schedule, start_chains
from ebm_wgpu.sphere import proju
from ebm_wgpu.vmf import log_z0

Float32Array = NDArray[np.float32]


class RowMixtures:
    """Energies of rows that weigh the splats of their group in their own way.

    Attributes:
        mu: (G, K, d) float32 unit vectors.
        log_weight: (G, R, K) float32, nats, -inf where a row does not see a splat. The weights of a
            row need not sum to one: the energy differs by a constant.
        concentration: (1,) float64, a in natural units.
        temperature: 1.
        device: where chains move and draws are made.
    """

    temperature = 1.0

    def __init__(
        self, mu: Float32Array, log_weight: Float32Array, concentration: float, device: KernelDevice
    ) -> None:
        """Hold the arrays as they are.

        Raises:
            ConfigError: a row sees no splat.
        """
        unseeing = ~np.isfinite(log_weight).any(-1)
        if unseeing.any():
            raise ConfigError(
                f"row {int(unseeing.ravel().argmax())} sees no splat: leave such rows out"
            )
        self.mu, self.log_weight, self.device = mu, log_weight, device
        self.concentration = np.array([concentration])
        self._log_z0 = float(log_z0(concentration, self.dimension))

    @property
    def dimension(self) -> int:
        """The dimension d."""
        return self.mu.shape[2]

    def posterior(self, h: Float32Array) -> Float32Array:
        """p(k|c), (G, R, K), for tilts h (G R, d)."""
        products = self._products(h)
        k = self.mu.shape[1]
        log_ratio = self.device.run(
            "mixture_log_weights",
            s=products.reshape(-1, k),
            a=np.repeat(self.concentration, k),
            log_pi=np.zeros(k),
            h2=np.sum(h.astype(np.float64) ** 2, axis=1),
            dimension=self.dimension,
        )["log_W"].numpy()
        return _softmax(self.log_weight + log_ratio.reshape(self.log_weight.shape))[0]

    def memberships(self, x: Float32Array) -> Float32Array:
        """p(k|x), (G, R, K), for unit rows x (G R, d)."""
        return _softmax(self._logits(x))[0]

    def value_and_gradient(
        self, x: Float32Array, h: Float32Array
    ) -> tuple[Float32Array, Float32Array]:
        """E(x) in nats, (G R,), and its Riemannian gradient P_x dE/dx, for x and h (G R, d)."""
        share, log_sum = _softmax(self._logits(x))
        value = np.float32(self._log_z0) - log_sum.ravel() - np.einsum("nd,nd->n", h, x)
        mean = (share @ self.mu).reshape(x.shape)
        gradient = proju(x, -np.float32(self.concentration[0]) * mean - h)
        return value, gradient.astype(np.float32)

    def _logits(self, x: Float32Array) -> Float32Array:
        return np.float32(self.concentration[0]) * self._products(x) + self.log_weight

    def _products(self, rows: Float32Array) -> Float32Array:
        """rows.mu, (G, R, K)."""
        grouped = rows.reshape(len(self.mu), -1, self.dimension)
        return np.matmul(grouped, self.mu.transpose(0, 2, 1))


def sample_rows_exact(
    mixtures: RowMixtures,
    posterior: Float32Array,
    h: Float32Array,
    chain: NDArray[np.int32],
    seed: int,
) -> Draws:
    """Draw a splat k of each row from `posterior`, then x ~ vMF(a mu_k + h).

    With the posterior p(k|c) these are exact draws from p(x|c); restricted to some splats, from
    p(x|c, k among them). The sum of a row need not be one.

    Args:
        mixtures: the rows.
        posterior: (G, R, K).
        h: tilts (G R, d).
        chain: (G R,), numbers of the rows in the random stream; row i depends on nothing else.
        seed: 0 <= seed < 2^64.
    """
    rows = posterior.shape[1]
    component = draw_components(posterior.reshape(len(h), -1), chain, seed)
    chosen = mixtures.mu[np.arange(len(h)) // rows, component]
    eta = np.float32(mixtures.concentration[0]) * chosen + h
    out = mixtures.device.run("vmf_sample", eta=eta, chain=chain, seed=seed, step=0)["out"]
    return Draws(out.numpy(), component)


def move_rows(
    mixtures: RowMixtures,
    x: Float32Array,
    h: Float32Array,
    chain: NDArray[np.int32],
    seed: int,
    sampler: SamplerConfig,
) -> Float32Array:
    """Where Langevin chains end that start at unit rows x (G R, d), (G R, d) float32.

    Args:
        mixtures: the rows, one chain each; full sums, without neighbour lists.
        x: where the chains start.
        h: tilts (G R, d).
        chain: (G R,), numbers of the chains in the random stream.
        seed: 0 <= seed < 2^64.
        sampler: integrator and its constants.
    """
    schedule = make_schedule(mixtures, seed=seed, **langevin_options(sampler))
    chains = start_chains(x, h, chain, schedule, sampler.integrator)
    integrate(mixtures, chains, schedule, range(schedule.n_steps + 1), sampler.integrator)
    return chains.x


def _softmax(logits: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Softmax over the last axis, and the logsumexp."""
    top = logits.max(-1, keepdims=True)
    share = np.exp(logits - top)
    total = share.sum(-1, keepdims=True)
    share /= total
    return share, (top + np.log(total))[..., 0]
