"""Underdamped Langevin dynamics on the sphere, started from exact draws.

dx = v dt,  dv = (-gamma v - grad E) dt + sqrt(2 gamma T) dW, x on the sphere and v tangent to it.
The default integrator is geodesic BAOAB over certified neighbour lists, so that the cost of a step
does not depend on the number of splats. Splats do not mix by diffusion: which splat a chain belongs
to is decided by the exact draw it starts from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebm_wgpu.config import SamplerConfig
from ebm_wgpu.energy import Energy
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels._philox import STREAM_VELOCITY, normal_reference
from ebm_wgpu.kernels.langevin_baoab_list import MAX_D
from ebm_wgpu.sampling.exact import check_seed, sample_exact, tilts
from ebm_wgpu.sampling.integrators import INTEGRATORS, Chains, Potential, Schedule, integrate
from ebm_wgpu.sampling.neighbour_lists import MAX_LIST_SIZE, NeighbourLists, follow
from ebm_wgpu.sphere import proju, projx

Float32Array = NDArray[np.float32]

PUBLISHED_STEPS = 200
PUBLISHED_DT = 1e-3
PUBLISHED_GAMMA = 0.1
_BAOAB_STEPS = 50
_PATIENCE = 2


@dataclass(frozen=True, eq=False)
class LangevinResult:
    """Where chains ended.

    Attributes:
        x: (n, d) float32 positions on the sphere.
        v: (n, d) float32 tangent velocities.
        component: (n,) int64 splat with the largest share of the mass at x.
        energy: (n,) float32 energies at x, nats.
        steps: steps taken.
        list_builds: neighbour lists searched for.
    """

    x: Float32Array
    v: Float32Array
    component: NDArray[np.int64]
    energy: Float32Array
    steps: int
    list_builds: int


def natural_frequency(energy: Potential) -> float:
    """omega = sqrt(max(a_max, d - 1)), the fastest oscillation of a chain around a splat."""
    return math.sqrt(max(float(energy.concentration.max()), energy.dimension - 1))


def default_dt_omega(energy: Potential) -> float:
    """Step times omega: 0.25 for kappa = a_max/(d-1) up to 2, 0.5 from 5 on, linear between.

    At d = 640 it biases the cosine to the splat by -0.07 (kappa 1), -0.08 (5) and -0.02 (20) of its
    standard deviation; the bias falls with the square of the step, and with d.
    """
    kappa = energy.concentration.max() / (energy.dimension - 1)
    return float(np.interp(kappa, [2, 5], [0.25, 0.5]))


def sample_langevin(
    energy: Energy,
    start: int | ArrayLike,
    h: ArrayLike | None = None,
    *,
    n_steps: int | None = None,
    integrator: Literal["baoab", "published"] = "baoab",
    dt_omega: float | None = None,
    gamma_omega: float = 1.0,
    dt: float | None = None,
    gamma: float | None = None,
    temperature: float = 1.0,
    use_lists: bool | Literal["auto"] = "auto",
    list_size: int = MAX_LIST_SIZE,
    list_eps: float = 1e-6,
    lists: NeighbourLists | None = None,
    seed: int = 0,
) -> LangevinResult:
    """Run Langevin chains and return where they end.

    "baoab" is geodesic BAOAB: exact thermostat, parallel transport, thermal initial velocities,
    dt = dt_omega / omega and gamma = gamma_omega omega with omega of `natural_frequency`.
    "published" is the original Stoermer-Verlet scheme with its constants (200 steps, dt 0.001,
    gamma 0.1, no initial velocity, no transport); it is biased, and there to be compared with.

    Chain i draws the same random numbers whatever the device, the number of chains and the lists.

    Args:
        energy: what to go down in, and the device to do it on.
        start: a number of chains, each to be started from an exact draw, or positions (n, d), which
            are normalised.
        h: context tilts, (d,) for all chains or (n, d); none by default.
        n_steps: steps; 50 for "baoab" and 200 for "published" by default.
        integrator: "baoab" or "published".
        dt_omega: step times omega, below 2; by default `default_dt_omega`.
        gamma_omega: friction over omega.
        dt: step, instead of dt_omega; 0.001 for "published" unless dt_omega is given.
        gamma: friction, instead of gamma_omega; 0.1 for "published" unless dt_omega is given.
        temperature: of the thermostat.
        use_lists: whether "baoab" runs over certified neighbour lists. True renews a list whenever
            it fails; "auto" goes over to full evaluations where lists do not last.
        list_size: splats a list, up to 128.
        list_eps: fraction of the mass that a list may lose.
        lists: lists of this energy to use and add to, so that calls can share them.
        seed: of everything random.

    Raises:
        ConfigError: values out of range, a tilt or start that does not fit, lists asked for where
            they cannot be used.
    """
    positions = None if isinstance(start, int | np.integer) else np.asarray(start, np.float32)
    count = int(start) if positions is None else len(positions)  # type: ignore[arg-type]
    schedule = make_schedule(
        energy,
        integrator,
        n_steps=n_steps,
        dt_omega=dt_omega,
        gamma_omega=gamma_omega,
        dt=dt,
        gamma=gamma,
        temperature=temperature,
        seed=seed,
    )
    listed = _may_use_lists(energy, integrator, use_lists)
    if not 0 < list_eps < 1:
        raise ConfigError(f"list_eps = {list_eps}: use a fraction between 0 and 1")
    if positions is None:
        draws = sample_exact(energy, count, h, seed=seed)
        x, splats = draws.x, draws.component
    else:
        x, splats = _positions(positions, energy), np.full(count, -1, np.int64)
    ids = np.arange(count, dtype=np.int32)
    h = energy.scale_tilt(tilts(energy, h, count))
    chains = start_chains(x, h, ids, schedule, integrator)

    forces = np.zeros(count, np.int64)
    values = np.zeros(count, np.float32)
    component = splats.copy()
    built = 0
    if listed:
        lists = NeighbourLists(energy, list_size) if lists is None else lists
        before = lists.builds
        patience = _PATIENCE if use_lists == "auto" else 1
        followed = follow(lists, chains, schedule, splats, math.log(list_eps), patience)
        forces, component, values = followed.forces, followed.component, followed.energy.copy()
        built = lists.builds - before
    left = forces <= schedule.n_steps
    _finish(energy, chains, schedule, integrator, forces, values)
    if left.any():
        component[left] = energy.heaviest(chains.x[left])
    return LangevinResult(chains.x, chains.v, component, values, schedule.n_steps, built)


def langevin_options(sampler: SamplerConfig) -> dict[str, Any]:
    """What a configuration says of chains, as keyword arguments of `sample_langevin`."""
    if sampler.integrator == "published":
        return {
            "integrator": "published",
            "n_steps": sampler.published_steps,
            "dt": sampler.published_dt,
            "gamma": sampler.published_gamma,
            "temperature": sampler.published_temperature,
        }
    return {
        "integrator": "baoab",
        "n_steps": sampler.n_steps,
        "dt_omega": sampler.dt_omega,
        "gamma_omega": sampler.gamma_omega,
    }


def make_schedule(
    energy: Potential,
    integrator: str = "baoab",
    *,
    n_steps: int | None = None,
    dt_omega: float | None = None,
    gamma_omega: float = 1.0,
    dt: float | None = None,
    gamma: float | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> Schedule:
    """The constants of a run; arguments and errors as `sample_langevin`."""
    if integrator not in INTEGRATORS:
        raise ConfigError(f"unknown integrator {integrator!r}: use {' or '.join(INTEGRATORS)}")
    check_seed(seed)
    original = integrator == "published" and dt_omega is None
    if n_steps is None:
        n_steps = PUBLISHED_STEPS if original else _BAOAB_STEPS
    omega = natural_frequency(energy)
    if dt_omega is None:
        dt_omega = default_dt_omega(energy)
    if dt is None:
        dt = PUBLISHED_DT if original else dt_omega / omega
    if gamma is None:
        gamma = PUBLISHED_GAMMA if original else gamma_omega * omega
    if n_steps < 1:
        raise ConfigError(f"n_steps = {n_steps}: use at least 1")
    if not 0 < dt * omega < 2:
        raise ConfigError(
            f"a step of {dt:g} is {dt * omega:.3g} over the natural frequency {omega:.4g}: "
            "use between 0 and 2"
        )
    for name, value in (("gamma", gamma), ("temperature", temperature)):
        if not 0 <= value < math.inf:
            raise ConfigError(f"{name} = {value}: use a number of at least 0")
    return Schedule(n_steps, dt, gamma, temperature, seed)


def start_chains(
    x: Float32Array,
    h: Float32Array,
    ids: NDArray[np.int32],
    schedule: Schedule,
    integrator: str,
) -> Chains:
    """Chains at x (B, d) under tilts h (B, d): thermal velocities for "baoab", else at rest.

    ids: (B,), their numbers in the random stream.
    """
    v = np.zeros_like(x)
    if integrator == "baoab":
        normals = normal_reference(ids, x.shape[1], 0, STREAM_VELOCITY, schedule.seed)
        v = proju(x, math.sqrt(schedule.temperature) * normals).astype(np.float32)
    return Chains(x.copy(), v, h, ids)


def _may_use_lists(energy: Energy, integrator: str, use_lists: bool | str) -> bool:
    if use_lists not in (True, False, "auto"):
        raise ConfigError(f"use_lists = {use_lists!r}: use true, false or 'auto'")
    obstacles = {
        "the integrator is 'published'": integrator != "baoab",
        "the energy has terms beside the mixture": not energy.is_mixture,
        f"there are more than {MAX_D} dimensions": energy.store.dimension > MAX_D,
    }
    found = [obstacle for obstacle, present in obstacles.items() if present]
    if found and use_lists is True:
        raise ConfigError(f"neighbour lists cannot be used: {found[0]}; leave use_lists at 'auto'")
    return bool(use_lists) and not found


def _positions(given: Float32Array, energy: Energy) -> Float32Array:
    d = energy.store.dimension
    if given.ndim != 2 or given.shape[1] != d or not len(given):
        raise ConfigError(f"start has shape {given.shape}: give a number or positions (n, {d})")
    bad = ~np.isfinite(given).all(axis=1) | ~given.any(axis=1)
    if bad.any():
        raise ConfigError(f"start row {int(bad.argmax())} is zero or not finite: give a direction")
    return projx(given).astype(np.float32)


def _finish(
    energy: Energy,
    chains: Chains,
    schedule: Schedule,
    integrator: str,
    forces: NDArray[np.int64],
    values: Float32Array,
) -> None:
    """Bring all chains to the end by full evaluations, those that are behind joining on the way."""
    stops = [*np.unique(forces[forces <= schedule.n_steps]).tolist(), schedule.n_steps + 1]
    for first, last in pairwise(stops):
        rows = np.flatnonzero(forces == first)
        part = Chains(chains.x[rows], chains.v[rows], chains.h[rows], chains.ids[rows])
        values[rows] = integrate(energy, part, schedule, range(first, last), integrator)
        chains.x[rows], chains.v[rows] = part.x, part.v
        forces[rows] = last
