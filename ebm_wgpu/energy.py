"""The energy of positions on the sphere: splats, context tilt, geometry, composition, entropy.

    E(x | c) = E_splats(x) - h(c).x + lambda_geom E_geom(x) + lambda_comp E_comp(x)
               - lambda_entropy H[q]

The first two terms are a tilted mixture of von Mises-Fisher densities relative to the uniform
probability, and exactly solvable: with eta_k = a_k mu_k + h and r_k = |eta_k|,

    log W_k = log w_k - a_k + log Z0(r_k),
    p(k|c) = softmax_k log W_k,                 log Z(c) = logsumexp_k log W_k,
    E[x|c] = sum_k p(k|c) A(r_k) eta_k/r_k,     log p(x|c) = -E(x|c) - log Z(c).

All hot loops are kernels that run on the device the energy was made for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self, TypedDict, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.config import EnergyConfig
from ebm_wgpu.energy_terms import CompositionTerm, EntropyTerm, GeometryTerm
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import DeviceArray, KernelDevice
from ebm_wgpu.kernels.topk import similarity_topk
from ebm_wgpu.splats import SplatStore
from ebm_wgpu.vmf import log_z0

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Points = TypeVar("Points", DeviceArray, Float32Array)

FORMS = ("normalized", "published")
MAX_NEIGHBOURS = 128


@dataclass(frozen=True, eq=False)
class TemperedMixture:
    """The densities that an energy is the mixture of, see `energy_terms.Mixture`.

    Attributes:
        mu: (N, d) float32 unit rows.
        concentration: (N,) float64, natural units, divided by the temperature.
        log_pi: (N,) float64, log weights up to a constant, nats; of the published form, whose terms
            are not densities, log alpha_k - (a_k - log Z0(a_k)).
    """

    mu: Float32Array
    concentration: Float64Array
    log_pi: Float64Array

    @property
    def dimension(self) -> int:
        """d."""
        return int(self.mu.shape[1])


class Energy:
    """E(x | c) over the splats of a store, on one device.

    "normalized" is a mixture of densities, -log sum_k w_k exp(a_k (mu_k.x - 1)) with a_k =
    (d-1) kappa_k and log w_k = log pi_k + a_k - log Z0(a_k). "published" is the literal
    -log sum_k alpha_k exp(alpha_k (x.mu_k - 1)/tau) over the K splats nearest to x.

    The temperature divides a_k and h inside the logarithm, and the weights are normalised for it:
    high temperatures give the uniform density, low ones the splats themselves. The further terms
    are over that mixture.

    Attributes:
        store: the splats; their arrays are copied to the device when the energy is made.
        device: where kernels run.
        form: "normalized" or "published".
        temperature: T.
        n_neighbours: K of the published form.
        geometry, composition, entropy: the additional terms, if any.
        concentration: (N,) float64, a_k / T in natural units (published: alpha_k / (tau T)).
        log_weight: (N,) float64, log w_k (published: log alpha_k), nats.
        mixture: the densities that all terms are over.
        arrays: mu (N,d), a (N,) and log_w (N,) float32 on the device, as the kernels take them.
    """

    def __init__(
        self,
        store: SplatStore,
        device: KernelDevice,
        *,
        form: Literal["normalized", "published"] = "normalized",
        temperature: float = 1.0,
        tau: float = 0.1,
        n_neighbours: int = 64,
        geometry: GeometryTerm | None = None,
        composition: CompositionTerm | None = None,
        entropy: EntropyTerm | None = None,
    ) -> None:
        """Copy the splats to the device.

        Raises:
            ConfigError: an unknown form, a temperature or tau that is not positive, or more
                neighbours than there are splats or than the search kernel keeps.
        """
        if form not in FORMS:
            raise ConfigError(f"unknown energy form {form!r}: use one of {', '.join(FORMS)}")
        for name, value in (("temperature", temperature), ("tau", tau)):
            if not 0 < value < np.inf:
                raise ConfigError(f"energy {name} = {value}: it must be positive and finite")
        if form == "published":
            check_neighbours("n_neighbours", n_neighbours, len(store))
        self._terms = [term for term in (geometry, composition, entropy) if term is not None]
        for term in self._terms:
            check_neighbours(f"n_neighbours of {term.name}", term.n_neighbours, len(store))
        self.store = store
        self.device = device
        self.form = form
        self.temperature = temperature
        self.n_neighbours = n_neighbours
        self.geometry = geometry
        self.composition = composition
        self.entropy = entropy
        if form == "normalized":
            self.concentration: Float64Array = store.concentration / temperature
            self.log_weight: Float64Array = (
                store.log_pi + self.concentration - log_z0(self.concentration, store.dimension)
            )
        else:
            alpha = store.alpha.astype(np.float64)
            self.concentration = alpha / (tau * temperature)
            self.log_weight = np.log(alpha)
        # log of the mass that a splat has without a tilt.
        log_mass = self.log_weight - self.concentration
        log_mass += log_z0(self.concentration, store.dimension)
        self.mixture = TemperedMixture(store.mu, self.concentration, log_mass)
        self.arrays = {
            "mu": device.array(store.mu),
            "a": device.array(self.concentration),
            "log_w": device.array(self.log_weight),
        }
        self._log_pi = device.array(log_mass)

    @classmethod
    def from_config(cls, store: SplatStore, device: KernelDevice, config: EnergyConfig) -> Self:
        """The energy that a configuration describes; a term of weight zero is left out.

        Raises:
            ConfigError: as the constructor.
        """
        return cls(
            store,
            device,
            form=config.form,
            temperature=config.temperature,
            tau=config.tau,
            n_neighbours=config.n_neighbours,
            **terms_of(config),
        )

    @property
    def dimension(self) -> int:
        """The dimension d of the space the sphere lies in."""
        return self.store.dimension

    @property
    def is_mixture(self) -> bool:
        """Whether the energy is the tilted mixture over all splats and nothing else."""
        return self._is_full_sum and not self._terms

    def value_and_gradient(
        self, x: Points, h: ArrayLike | DeviceArray | None = None
    ) -> tuple[Points, Points]:
        """E(x|c) and its Riemannian gradient P_x dE/dx.

        The geometric term lets rows of x interact: values then share it out among them, and row i
        of the gradient belongs to the sum of all values.

        Args:
            x: (B, d) float32 unit rows, on this device or on the host.
            h: context tilts (B, d), or (d,) for all rows; none by default.

        Returns:
            Values (B,) in nats and gradients (B, d), on the device if x is there.

        Raises:
            ConfigError: an h that does not fit x.
        """
        if isinstance(x, DeviceArray):
            value, gradient = self._evaluate(x, h)
            return value, gradient
        value, gradient = self._evaluate(self.device.array(x), h)
        return value.numpy(), gradient.numpy()

    def value(self, x: Points, h: ArrayLike | DeviceArray | None = None) -> Points:
        """E(x|c) in nats, (B,); arguments as `value_and_gradient`."""
        return self.value_and_gradient(x, h)[0]

    def gradient(self, x: Points, h: ArrayLike | DeviceArray | None = None) -> Points:
        """P_x dE/dx, (B, d); arguments as `value_and_gradient`."""
        return self.value_and_gradient(x, h)[1]

    def log_partition(self, h: ArrayLike | None = None) -> Float32Array:
        """log Z(c) = log integral of exp(-E(x|c)) over the uniform probability, nats.

        Args:
            h: context tilts (B, d) or (d,); one row of zeros by default.

        Returns:
            (B,), with B = 1 for a single tilt.

        Raises:
            ConfigError: the energy is not a plain mixture over all splats, or h does not fit.
        """
        return self._moments(h)[1]

    def mean(self, h: ArrayLike | None = None) -> Float32Array:
        """E[x|c] = T grad_h log Z(c), (B, d); arguments and errors as `log_partition`."""
        return self._moments(h)[0]

    def posterior(self, h: ArrayLike | None = None) -> Float32Array:
        """p(k|c), the probability that splat k made x, (B, N).

        It belongs to the mixture over all splats: with a truncated sum or further terms it is an
        approximation, and where Langevin sampling starts.

        Args:
            h: context tilts (B, d) or (d,); one row of zeros by default.

        Raises:
            ConfigError: an h that does not fit.
        """
        if h is None:
            log_mass = self._log_pi.numpy()[None]
            return self.device.run("mixture_posterior", log_W=log_mass)["p"].numpy()
        tilts = self._tilts(h)
        s = self.device.run("similarity", x=tilts, mu=self.arrays["mu"])["out"]
        weights = self.device.run(
            "mixture_log_weights",
            s=s,
            a=self.arrays["a"],
            log_pi=self._log_pi,
            h2=np.sum(tilts.astype(np.float64) ** 2, axis=1),
            dimension=self.store.dimension,
        )
        return self.device.run("mixture_posterior", **weights)["p"].numpy()

    def log_density(self, x: ArrayLike, h: ArrayLike | None = None) -> Float32Array:
        """log p(x|c) = -E(x|c) - log Z(c) relative to the uniform probability, nats.

        Args:
            x: (B, d) unit rows.
            h: context tilts (B, d), or (d,) for all rows; none by default.

        Returns:
            (B,).

        Raises:
            ConfigError: as `log_partition`.
        """
        points = np.asarray(x, np.float32)
        log_z = self.log_partition(h)
        return -self.value(points, h) - log_z

    def token_readout(self, h: ArrayLike | None, vocab_size: int) -> Float32Array:
        """p_splat(w|c) = sum of p(k|c) over the splats with sid_k = w, exact, without sampling.

        Args:
            h: context tilts (B, d) or (d,); None for no context.
            vocab_size: number of tokens V, above every sid.

        Returns:
            (B, V) probabilities.

        Raises:
            ConfigError: a sid that is no token, or as `log_partition`.
        """
        highest = int(self.store.sid.max())
        if highest >= vocab_size:
            raise ConfigError(
                f"a splat belongs to token {highest}, but the vocabulary ends at {vocab_size - 1}: "
                "use the tokenizer the splats were made with"
            )
        self._refuse_unless_mixture("token_readout")
        rows = self.posterior(h).astype(np.float64)
        return np.stack([np.bincount(self.store.sid, p, vocab_size) for p in rows]).astype(
            np.float32
        )

    def heaviest(self, x: ArrayLike) -> NDArray[np.int64]:
        """The splat of the largest term log w_k + a_k (mu_k.x - 1) for each row of x, (B,)."""
        points = np.asarray(x, np.float32)
        cosine = self.device.run("similarity", x=points, mu=self.arrays["mu"])["out"].numpy()
        return np.argmax(self.log_weight + self.concentration * (cosine - 1), axis=1)

    def scale_tilt(self, h: ArrayLike) -> Float32Array:
        """h / T, what the kernels take for a context tilt h."""
        return (np.asarray(h, np.float64) / self.temperature).astype(np.float32)

    @property
    def _is_full_sum(self) -> bool:
        return self.form == "normalized" or self.n_neighbours == len(self.store)

    def _evaluate(
        self, x: DeviceArray, h: ArrayLike | DeviceArray | None
    ) -> tuple[DeviceArray, DeviceArray]:
        tilts = self._device_tilts(h, x.shape[0])
        if self._is_full_sum:
            found = self.device.run("splat_energy", x=x, h=tilts, **self.arrays)
        else:
            _, idx = similarity_topk(self.device, x, self.arrays["mu"], self.n_neighbours)
            found = self.device.run("splat_energy_list", x=x, h=tilts, idx=idx, **self.arrays)
        value, gradient = found["energy"], found["grad"]
        if self._terms:
            points, total, slope = x.numpy(), value.numpy(), gradient.numpy()
            most = max(term.n_neighbours for term in self._terms)
            near = similarity_topk(self.device, x, self.arrays["mu"], most)[1].numpy()
            for term in self._terms:
                more = term.value_and_gradient(points, self.mixture, near[:, : term.n_neighbours])
                total, slope = total + more[0], slope + more[1]
            value.write(total)
            gradient.write(slope)
        return value, gradient

    def _device_tilts(self, h: ArrayLike | DeviceArray | None, rows: int) -> DeviceArray:
        if isinstance(h, DeviceArray):
            if self.temperature == 1:
                return h
            h = h.numpy()
        tilts = self._tilts(h)
        if len(tilts) not in (1, rows):
            raise ConfigError(f"h has {len(tilts)} rows for {rows} positions: give 1 or {rows}")
        return self.device.array(np.broadcast_to(tilts, (rows, tilts.shape[1])))

    def _tilts(self, h: ArrayLike | None) -> Float32Array:
        """h / T as (B, d) rows; one row of zeros if there is none."""
        d = self.store.dimension
        rows = np.zeros((1, d)) if h is None else np.atleast_2d(np.asarray(h))
        if rows.ndim != 2 or rows.shape[1] != d:
            raise ConfigError(f"h has shape {rows.shape}: give ({d},) or (B, {d})")
        return self.scale_tilt(rows)

    def _moments(self, h: ArrayLike | None) -> tuple[Float32Array, Float32Array]:
        self._refuse_unless_mixture("the closed form")
        found = self.device.run(
            "mixture_mean",
            mu=self.arrays["mu"],
            a=self.arrays["a"],
            log_pi=self._log_pi,
            h=self._tilts(h),
        )
        return found["mean"].numpy(), found["log_z"].numpy()

    def _refuse_unless_mixture(self, what: str) -> None:
        if not self.is_mixture:
            raise ConfigError(
                f"{what} needs the mixture over all splats: use form=normalized and "
                "lambda_geom=lambda_comp=lambda_entropy=0, or estimate it from Langevin samples"
            )


class Terms(TypedDict):
    """The further terms of an energy, each None if it is switched off."""

    geometry: GeometryTerm | None
    composition: CompositionTerm | None
    entropy: EntropyTerm | None


def terms_of(config: EnergyConfig) -> Terms:
    """The further terms that a configuration describes; a weight of zero switches one off."""
    k = config.term_neighbours
    geometry = GeometryTerm(
        config.lambda_geom,
        config.lambda_spread,
        config.lambda_cover,
        config.rho_min,
        n_neighbours=k,
        sharpness=config.sharpness,
    )
    composition = CompositionTerm(
        config.lambda_comp, config.pair_coefficients, config.pair_bias, n_neighbours=k
    )
    return {
        "geometry": geometry if config.lambda_geom > 0 else None,
        "composition": composition if config.lambda_comp > 0 else None,
        "entropy": EntropyTerm(config.lambda_entropy, k) if config.lambda_entropy > 0 else None,
    }


def check_neighbours(name: str, count: int, splats: int) -> None:
    """Raise `ConfigError` unless 1 <= count <= min(splats, 128)."""
    if not 1 <= count <= min(splats, MAX_NEIGHBOURS):
        raise ConfigError(
            f"{name} = {count}: use 1 to {min(splats, MAX_NEIGHBOURS)}, there are {splats} splats "
            f"and the search keeps at most {MAX_NEIGHBOURS}"
        )
