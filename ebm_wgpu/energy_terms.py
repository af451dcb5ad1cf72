"""Energy terms that have no normaliser: spread and coverage (geometry), composition, entropy.

Each gives values that add up to the term's energy, the Riemannian gradient of that sum, and its
derivatives with respect to the term's own parameters, in float64 on the host, from the positions
and the splats nearest to them. `ebm_wgpu.models.energy_ops` has the same terms for torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.sphere import proju
from ebm_wgpu.vmf import log_z0

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]


class Mixture(Protocol):
    """The mixture of von Mises-Fisher densities that terms are over, at its temperature.

    A `SplatStore` is one at temperature 1, and `Energy.mixture` that of an energy.

    Attributes:
        mu: (N, d) unit rows.
        concentration: (N,), natural units.
        log_pi: (N,) log weights, nats; a constant added to all changes nothing.
        dimension: d.
    """

    @property
    def mu(self) -> Float32Array:
        """Directions."""

    @property
    def concentration(self) -> Float64Array:
        """Concentrations."""

    @property
    def log_pi(self) -> Float64Array:
        """Log weights."""

    @property
    def dimension(self) -> int:
        """Dimension of the space the directions live in."""


CLOSEST = 1e-6
"""Least 1 - x_i.x_j told apart: closer pairs count as this close and do not repel further."""


@dataclass(frozen=True)
class GeometryTerm:
    """-lambda_spread mean_{i<j} log(1 - x_i.x_j) + lambda_cover sum_i max(0, rho_min - rho(x_i)).

    The first part drives the rows of a batch apart; half of each pair's share counts for either
    row, so that the values of all rows add up to it. One row alone has none. The second draws a row
    to the splats where their density is low: rho(x) = mean of exp(sharpness (mu_k.x - 1)) over the
    K splats nearest to x, 1 at a place where all K of them meet.

    Attributes:
        weight: lambda_geom, of the whole term.
        lambda_spread, lambda_cover: of its parts.
        rho_min: density below which a row pays.
        n_neighbours: K, 1 to 128.
        sharpness: of the kernel, natural units; the default is the published 1/tau.
    """

    weight: float
    lambda_spread: float = 1.0
    lambda_cover: float = 1.0
    rho_min: float = 0.1
    n_neighbours: int = 8
    sharpness: float = 10.0
    name: ClassVar[str] = "the geometric term"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a negative weight."""
        for field in ("weight", "lambda_spread", "lambda_cover", "rho_min", "sharpness"):
            if not 0 <= getattr(self, field) < np.inf:
                raise ConfigError(f"{field} = {getattr(self, field)} of {self.name}: use 0 or more")

    def value_and_gradient(
        self, x: ArrayLike, splats: Mixture, near: NDArray[np.integer]
    ) -> tuple[Float64Array, Float64Array]:
        """The term's share of each row, (B,), and the Riemannian gradient of their sum, (B, d).

        x: (B, d) unit rows. near: (B, K) indices of the splats nearest to each.
        """
        points = np.asarray(x, np.float64)
        spread, spread_slope = self._spread(points)
        cover, cover_slope = self._cover(points, splats, near)
        value = self.lambda_spread * spread + self.lambda_cover * cover
        slope = self.lambda_spread * spread_slope + self.lambda_cover * cover_slope
        gradient = self.weight * proju(points, slope)
        return self.weight * value, gradient.astype(np.float64)

    def parameter_gradients(
        self, x: ArrayLike, splats: Mixture, near: NDArray[np.integer]
    ) -> dict[str, Float64Array]:
        """Derivatives of the term's energy by the name of each parameter; arguments as above."""
        points = np.asarray(x, np.float64)
        spread = self._spread(points)[0].sum()
        cosine, kernel = self._kernel(points, splats, near)
        lacking = kernel.sum(axis=1) < self.rho_min
        cover = np.sum(np.maximum(self.rho_min - kernel.sum(axis=1), 0))
        paid = self.weight * self.lambda_cover
        found = {
            "weight": self.lambda_spread * spread + self.lambda_cover * cover,
            "lambda_spread": self.weight * spread,
            "lambda_cover": self.weight * cover,
            "rho_min": paid * np.count_nonzero(lacking),
            "sharpness": -paid * np.sum((kernel * (cosine - 1))[lacking]),
        }
        return {name: np.asarray(value, np.float64) for name, value in found.items()}

    def density(
        self, x: ArrayLike, splats: Mixture, near: NDArray[np.integer]
    ) -> tuple[Float64Array, Float64Array]:
        """rho(x), (B,), and its Euclidean gradient, (B, d); arguments as `value_and_gradient`."""
        _, kernel = self._kernel(np.asarray(x, np.float64), splats, near)
        mu = splats.mu[near].astype(np.float64)
        return kernel.sum(axis=1), self.sharpness * np.einsum("bk,bkd->bd", kernel, mu)

    def _kernel(
        self, x: Float64Array, splats: Mixture, near: NDArray[np.integer]
    ) -> tuple[Float64Array, Float64Array]:
        """x.mu_k and exp(sharpness (x.mu_k - 1)) / K of the splats near each row, (B, K) both."""
        cosine = np.einsum("bkd,bd->bk", splats.mu[near].astype(np.float64), x)
        return cosine, np.exp(self.sharpness * (cosine - 1)) / near.shape[1]

    def _spread(self, x: Float64Array) -> tuple[Float64Array, Float64Array]:
        rows = len(x)
        if rows < 2:
            return np.zeros(rows), np.zeros_like(x)
        # 1 - x_i.x_j = |x_i - x_j|^2 / 2 keeps its digits between neighbours.
        gap = np.stack([np.sum((x - row) ** 2, axis=1) / 2 for row in x])
        np.fill_diagonal(gap, 1)
        pairs = rows * (rows - 1) / 2
        value = -np.log(np.maximum(gap, CLOSEST)).sum(axis=1) / (2 * pairs)
        force = np.where(gap > CLOSEST, 1 / np.maximum(gap, CLOSEST), 0)
        np.fill_diagonal(force, 0)
        return value, force @ x / pairs

    def _cover(
        self, x: Float64Array, splats: Mixture, near: NDArray[np.integer]
    ) -> tuple[Float64Array, Float64Array]:
        rho, slope = self.density(x, splats, near)
        lacking = np.maximum(self.rho_min - rho, 0)
        return lacking, np.where(lacking > 0, -1.0, 0.0)[:, None] * slope


@dataclass(frozen=True)
class CompositionTerm:
    """E_comp = sum over pairs i < j of the K nearest splats of lambda_ij sigmoid(W.[u, v, uv] + b).

    u = x.mu_i and v = x.mu_j, with i < j in the order of the splats. The pairs share lambda_comp in
    proportion to the splats' weights: lambda_ij = pi_i pi_j / sum over pairs of the same.

    Attributes:
        weight: lambda_comp, of the whole term.
        coefficients: W, of u, v and uv. The default rewards being near both splats of a pair.
        bias: b.
        n_neighbours: K, 2 to 128.
    """

    weight: float
    coefficients: tuple[float, float, float] = (0.0, 0.0, -4.0)
    bias: float = 0.0
    n_neighbours: int = 8
    name: ClassVar[str] = "the compositional term"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a negative weight or fewer than two neighbours."""
        if not 0 <= self.weight < np.inf:
            raise ConfigError(f"weight = {self.weight} of {self.name}: use 0 or more")
        if self.n_neighbours < 2:
            raise ConfigError(
                f"n_neighbours = {self.n_neighbours} of {self.name}: a pair takes at least 2"
            )

    def value_and_gradient(
        self, x: ArrayLike, splats: Mixture, near: NDArray[np.integer]
    ) -> tuple[Float64Array, Float64Array]:
        """The term at each row, (B,), and its Riemannian gradient, (B, d).

        x: (B, d) unit rows. near: (B, K) indices of the splats nearest to each.
        """
        mu, cosine, share, gate, first, second = self._pairs(x, splats, near)
        u, v = cosine[:, first], cosine[:, second]
        of_u, of_v, of_both = self.coefficients
        slope = self.weight * share * gate * (1 - gate)
        pull = np.zeros_like(cosine)
        np.add.at(pull.T, first, (slope * (of_u + of_both * v)).T)
        np.add.at(pull.T, second, (slope * (of_v + of_both * u)).T)
        gradient = proju(np.asarray(x, np.float64), np.einsum("bk,bkd->bd", pull, mu))
        return self.weight * np.sum(share * gate, axis=1), gradient.astype(np.float64)

    def parameter_gradients(
        self, x: ArrayLike, splats: Mixture, near: NDArray[np.integer]
    ) -> dict[str, Float64Array]:
        """Derivatives of the term's energy, summed over rows, by the name of each parameter."""
        _, cosine, share, gate, first, second = self._pairs(x, splats, near)
        u, v = cosine[:, first], cosine[:, second]
        slope = self.weight * share * gate * (1 - gate)
        return {
            "weight": np.asarray(np.sum(share * gate)),
            "coefficients": np.array([np.sum(slope * part) for part in (u, v, u * v)]),
            "bias": np.asarray(np.sum(slope)),
        }

    def _pairs(
        self, x: ArrayLike, splats: Mixture, near: NDArray[np.integer]
    ) -> tuple[
        Float64Array, Float64Array, Float64Array, Float64Array, NDArray[np.intp], NDArray[np.intp]
    ]:
        """mu and cosines of the splats near each row, share and gate of each pair, its members."""
        points = np.asarray(x, np.float64)
        near = np.sort(near, axis=1)
        mu = splats.mu[near].astype(np.float64)
        first, second = np.triu_indices(near.shape[1], 1)
        share = softmax(splats.log_pi[near][:, first] + splats.log_pi[near][:, second], axis=1)
        cosine = np.einsum("bkd,bd->bk", mu, points)
        u, v = cosine[:, first], cosine[:, second]
        of_u, of_v, of_both = self.coefficients
        argument = of_u * u + of_v * v + of_both * u * v + self.bias
        return mu, cosine, share, 0.5 * (1 + np.tanh(argument / 2)), first, second


@dataclass(frozen=True)
class EntropyTerm:
    """-lambda_entropy H[q] = lambda_entropy sum_k q_k log q_k, q_k = mean over rows of p(k | x_i).

    p(k | x_i) is the share of splat k in the density at x_i among the K splats nearest to it, of
    the mixture at its temperature, which is the model there. The term is low where a batch makes
    use of many splats evenly, and zero where all rows sit on one. A row's value is its part
    sum_k p(k | x_i) log q_k / B of the sum.

    Attributes:
        weight: lambda_entropy.
        n_neighbours: K, 1 to 128.
    """

    weight: float
    n_neighbours: int = 8
    name: ClassVar[str] = "the entropy term"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a negative weight."""
        if not 0 <= self.weight < np.inf:
            raise ConfigError(f"weight = {self.weight} of {self.name}: use 0 or more")

    def value_and_gradient(
        self, x: ArrayLike, splats: Mixture, near: NDArray[np.integer]
    ) -> tuple[Float64Array, Float64Array]:
        """The term's share of each row, (B,), and the Riemannian gradient of their sum, (B, d).

        x: (B, d) unit rows. near: (B, K) indices of the splats nearest to each.
        """
        points = np.asarray(x, np.float64)
        p, level = self._usage(points, splats, near)
        value = np.sum(p * level, axis=1, keepdims=True)
        # dp_k/dx = p_k (a_k mu_k - sum_j p_j a_j mu_j); the 1 of d(q log q) cancels in the sum.
        pull = self.weight / len(points) * p * (level - value) * splats.concentration[near]
        slope = np.einsum("bk,bkd->bd", pull, splats.mu[near].astype(np.float64))
        gradient = proju(points, slope)
        return self.weight / len(points) * value[:, 0], gradient.astype(np.float64)

    def parameter_gradients(
        self, x: ArrayLike, splats: Mixture, near: NDArray[np.integer]
    ) -> dict[str, Float64Array]:
        """The derivative of the term's energy by its weight: -H[q]; arguments as above."""
        p, level = self._usage(np.asarray(x, np.float64), splats, near)
        return {"weight": np.asarray(np.sum(p * level) / len(p))}

    def _usage(
        self, x: Float64Array, splats: Mixture, near: NDArray[np.integer]
    ) -> tuple[Float64Array, Float64Array]:
        """p(k | x_i) and log q_k of the splats near each row, (B, K) both."""
        a = splats.concentration[near]
        cosine = np.einsum("bkd,bd->bk", splats.mu[near].astype(np.float64), x)
        logs = splats.log_pi[near] + a * cosine - log_z0(a, splats.dimension)
        p = softmax(logs, axis=1)
        used, place = np.unique(near, return_inverse=True)
        q = np.bincount(place.ravel(), p.ravel(), len(used)) / len(x)
        # Splats of a share that underflows have no part in the sum.
        level = np.log(np.maximum(q, np.finfo(np.float64).tiny))
        return p, level[place.reshape(near.shape)]
