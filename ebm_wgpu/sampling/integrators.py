"""Langevin steps that evaluate the whole energy: geodesic BAOAB and the published scheme.

Both count forces: force i = 0 .. n_steps is the one at x_i, so that a run of n steps uses n + 1 of
them, and a run that was broken off before force i goes on with force i. Noise depends on the seed,
the chain and the step alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ebm_wgpu.energy import Energy
from ebm_wgpu.kernels import DeviceArray, KernelDevice

Float32Array = NDArray[np.float32]


class Potential(Protocol):
    """What chains go down in: an `Energy`, or one energy a row (`row_mixtures.RowMixtures`)."""

    @property
    def device(self) -> KernelDevice:
        """Where chains move."""

    @property
    def dimension(self) -> int:
        """The dimension d."""

    @property
    def concentration(self) -> NDArray[np.float64]:
        """Concentrations of the splats, natural units."""

    @property
    def temperature(self) -> float:
        """What tilts are divided by."""

    def value_and_gradient(
        self, x: Float32Array, h: Float32Array
    ) -> tuple[Float32Array, Float32Array]:
        """Energies (B,) at unit rows x (B, d) under tilts h (B, d), and P_x dE/dx (B, d)."""


@dataclass(frozen=True)
class Schedule:
    """How long to integrate and with what constants.

    Attributes:
        n_steps: steps of a run.
        dt: time step.
        gamma: friction, per unit of time.
        temperature: of the thermostat; the energy's own temperature is part of the energy.
        seed: of the noise, 0 <= seed < 2^64.
    """

    n_steps: int
    dt: float
    gamma: float
    temperature: float
    seed: int

    @property
    def decay(self) -> float:
        """exp(-gamma dt): what the thermostat of a BAOAB step leaves of a velocity."""
        return math.exp(-self.gamma * self.dt)

    @property
    def noise(self) -> float:
        """sqrt(T (1 - decay^2)): what it adds to each tangent coordinate."""
        return math.sqrt(-math.expm1(-2 * self.gamma * self.dt) * self.temperature)


@dataclass(eq=False)
class Chains:
    """B chains on the host.

    Attributes:
        x, v: (B, d) float32 positions on the sphere and tangent velocities.
        h: (B, d) float32 tilts.
        ids: (B,) int32, the chains' numbers in the random stream.
    """

    x: Float32Array
    v: Float32Array
    h: Float32Array
    ids: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.x)


class _Force:
    """Energy and Riemannian gradient of chains on a device; each call evaluates them once more."""

    def __init__(self, energy: Potential, x: DeviceArray, h: Float32Array) -> None:
        device = energy.device
        # The energy divides a tilt by its temperature; here that is done already.
        self._energy, self._x, self._h = energy, x, np.float32(energy.temperature) * h
        self._launch = None
        if isinstance(energy, Energy) and energy.is_mixture:
            self._launch = device.prepare("splat_energy", x=x, h=device.array(h), **energy.arrays)
            self.value = self._launch.outputs["energy"]
            self.grad = self._launch.outputs["grad"]
        else:
            self.value, self.grad = device.empty(x.shape[:1]), device.empty(x.shape)

    def __call__(self) -> None:
        if self._launch is not None:
            self._launch()
            return
        value, grad = self._energy.value_and_gradient(self._x.numpy(), self._h)
        self.value.write(value)
        self.grad.write(grad)


Arrays = Mapping[str, DeviceArray]


def _baoab(
    device: KernelDevice, arrays: Arrays, force: Callable[[], None], s: Schedule, forces: range
) -> None:
    half = s.dt / 2
    move = device.prepare(
        "langevin_baoab",
        **arrays,
        kick=half,
        half_step=half,
        decay=s.decay,
        noise=s.noise,
        seed=s.seed,
        step=0,
    )
    close = device.prepare(
        "langevin_kick", **arrays, kick=half, decay=1.0, noise=0.0, seed=s.seed, step=0
    )
    for i in forces:
        force()
        if i < s.n_steps:
            move(kick=half if i == 0 else s.dt, step=i)
        else:
            close()


def _published(
    device: KernelDevice, arrays: Arrays, force: Callable[[], None], s: Schedule, forces: range
) -> None:
    half = {"kick": s.dt / 2, "decay": 1 - s.gamma * s.dt / 2}
    noise = math.sqrt(2 * s.gamma * s.temperature * s.dt)
    still = {name: array for name, array in arrays.items() if name != "chain"}
    begin = device.prepare("langevin_published", **still, **half, dt=s.dt)
    close = device.prepare("langevin_kick", **arrays, **half, noise=noise, seed=s.seed, step=0)
    for i in forces:
        force()
        if i > 0:
            close(step=i - 1)
        if i < s.n_steps:
            begin()


INTEGRATORS = {"baoab": _baoab, "published": _published}


def integrate(
    energy: Potential, chains: Chains, schedule: Schedule, forces: range, integrator: str = "baoab"
) -> Float32Array:
    """Move chains through a range of forces, evaluating the whole energy for each.

    Args:
        energy: what to go down in.
        chains: updated in place.
        schedule: constants of the run.
        forces: the forces to use; range(n_steps + 1) is a whole run.
        integrator: "baoab" or "published".

    Returns:
        (B,) energies at the last force.
    """
    device = energy.device
    x, v = device.array(chains.x), device.array(chains.v)
    force = _Force(energy, x, chains.h)
    arrays = {"x": x, "v": v, "grad": force.grad, "chain": device.array(chains.ids, "i32")}
    INTEGRATORS[integrator](device, arrays, force, schedule, forces)
    chains.x[...], chains.v[...] = x.numpy(), v.numpy()
    return force.value.numpy()
