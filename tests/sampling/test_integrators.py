"""Steps against a float64 integrator written down independently, and breaking runs off."""

from __future__ import annotations

import numpy as np
import pytest

from ebm_wgpu.energy import Energy
from ebm_wgpu.energy_terms import GeometryTerm
from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.kernels._philox import STREAM_LANGEVIN, normal_reference
from ebm_wgpu.sampling.integrators import Chains, Schedule, integrate
from ebm_wgpu.sphere import expmap, proju, projx, random_tangent, random_uniform, transp
from ebm_wgpu.splats import SplatStore

D, N, B = 24, 15, 5


def _store() -> SplatStore:
    rng = np.random.default_rng(1)
    return SplatStore.from_directions(random_uniform(rng, N, D), kappa=rng.uniform(1, 4, N))


def _chains(speed: float = 1.0) -> Chains:
    rng = np.random.default_rng(2)
    x = random_uniform(rng, B, D).astype(np.float32)
    v = (speed * random_tangent(rng, x)).astype(np.float32)
    h = (4 * random_uniform(rng, B, D)).astype(np.float32)
    return Chains(x, v, h, np.arange(10, 10 + B, dtype=np.int32))


def _gradient(store: SplatStore, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    exponent = store.log_weight + store.concentration * (x @ store.mu.T - 1)
    share = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    return proju(x, -(share * store.concentration) @ store.mu.astype(np.float64) - h)


def _move(x: np.ndarray, v: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
    end = expmap(x, time * v)
    return end, transp(x, end, v)


def _reference(chains: Chains, s: Schedule, published: bool) -> tuple[np.ndarray, np.ndarray]:
    store, h = _store(), chains.h.astype(np.float64)
    x, v = chains.x.astype(np.float64), chains.v.astype(np.float64)
    decay = np.exp(-s.gamma * s.dt)
    for step in range(s.n_steps):
        g = normal_reference(chains.ids, D, step, STREAM_LANGEVIN, s.seed)
        if published:
            v = v - s.dt / 2 * (_gradient(store, x, h) + s.gamma * v)
            x = projx(np.cos(speed := np.linalg.norm(s.dt * v, axis=1, keepdims=True)) * x
                      + np.sinc(speed / np.pi) * s.dt * v)  # fmt: skip
            v = v - s.dt / 2 * (_gradient(store, x, h) + s.gamma * v)
            v = proju(x, v + np.sqrt(2 * s.gamma * s.temperature * s.dt) * g)
        else:
            v = v - s.dt / 2 * _gradient(store, x, h)
            x, v = _move(x, v, s.dt / 2)
            v = proju(x, decay * v + np.sqrt(s.temperature * (1 - decay**2)) * g)
            x, v = _move(x, v, s.dt / 2)
            v = v - s.dt / 2 * _gradient(store, x, h)
    return x, v


@pytest.mark.parametrize("integrator", ["baoab", "published"])
def test_steps_agree_with_float64(any_device: KernelDevice, integrator: str) -> None:
    schedule = Schedule(n_steps=6, dt=0.02, gamma=5.0, temperature=0.7, seed=2**33 + 1)
    chains = _chains()
    x, v = _reference(chains, schedule, integrator == "published")
    energy = Energy(_store(), any_device)
    values = integrate(energy, chains, schedule, range(7), integrator)
    # Six steps of forces of size 100 from float32 logits: errors of 1e-6 in x and 50 times it in v.
    np.testing.assert_allclose(chains.x, x, atol=3e-6)
    np.testing.assert_allclose(chains.v, v, atol=1e-4)
    np.testing.assert_allclose(values, energy.value(chains.x, chains.h), atol=1e-4)


@pytest.mark.parametrize("integrator", ["baoab", "published"])
def test_a_run_in_two_parts_is_the_run(numba_device: KernelDevice, integrator: str) -> None:
    schedule = Schedule(n_steps=8, dt=0.02, gamma=5.0, temperature=1.0, seed=3)
    energy = Energy(_store(), numba_device)
    whole, parts = _chains(), _chains()
    integrate(energy, whole, schedule, range(9), integrator)
    integrate(energy, parts, schedule, range(3), integrator)
    integrate(energy, parts, schedule, range(3, 9), integrator)
    np.testing.assert_array_equal(whole.x, parts.x)
    np.testing.assert_array_equal(whole.v, parts.v)


def test_further_terms_and_temperature_reach_the_force(any_device: KernelDevice) -> None:
    """Without noise and friction the total energy of a batch is kept, whatever its terms."""
    energy = Energy(
        _store(), any_device, temperature=2.0, geometry=GeometryTerm(5.0, lambda_cover=0.0)
    )
    chains = _chains()
    chains.h = energy.scale_tilt(chains.h)

    def total() -> float:
        potential = energy.value(chains.x, 2.0 * chains.h).sum(dtype=np.float64)
        return float(potential + 0.5 * np.sum(chains.v.astype(np.float64) ** 2))

    before, start = total(), chains.x.copy()
    integrate(energy, chains, Schedule(40, 0.004, 0.0, 1.0, 0), range(41))
    assert np.abs(chains.x - start).max() > 0.05
    assert abs(total() - before) < 0.02


def test_geodesics_keep_their_speed(any_device: KernelDevice) -> None:
    store = SplatStore.from_directions(np.eye(1, D), kappa=1.0)
    energy = Energy(store, any_device, temperature=1e9)
    chains = _chains(speed=4.0)
    speed = np.linalg.norm(chains.v, axis=1)
    x, v = chains.x.astype(np.float64), chains.v.astype(np.float64)
    chains.h[...] = 0
    integrate(energy, chains, Schedule(20, 0.05, 0.0, 0.0, 0), range(21))
    np.testing.assert_allclose(np.linalg.norm(chains.v, axis=1), speed, rtol=2e-5)
    np.testing.assert_allclose(chains.x, expmap(x, v), atol=2e-5)
