"""Laws of the mixture and splat energy kernels beyond their case tables."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.kernels import KernelDevice
from ebm_wgpu.kernels._cases import unit_rows
from ebm_wgpu.kernels._mixture import tilt_change_row, tilt_row
from ebm_wgpu.vmf import mean_cosine, mean_cosine_derivative


def test_a_list_of_all_splats_gives_the_full_sum(any_device: KernelDevice) -> None:
    rng = np.random.default_rng(0)
    inputs = {
        "x": unit_rows(rng, 3, 20),
        "mu": unit_rows(rng, 300, 20),
        "a": rng.uniform(19, 60, 300),
        "log_w": rng.standard_normal(300),
        "h": rng.standard_normal((3, 20)),
    }
    full = any_device.run("splat_energy", **inputs)
    idx = rng.permuted(np.tile(np.arange(300, dtype=np.int32), (3, 1)), axis=1)
    listed = any_device.run("splat_energy_list", idx=idx, **inputs)
    np.testing.assert_allclose(listed["energy"].numpy(), full["energy"].numpy(), atol=2e-5)
    np.testing.assert_allclose(listed["grad"].numpy(), full["grad"].numpy(), atol=5e-4)


def test_no_splats_give_infinite_energy_and_the_tilt(any_device: KernelDevice) -> None:
    rng = np.random.default_rng(1)
    x, h = unit_rows(rng, 2, 16), rng.standard_normal((2, 16)).astype(np.float32)
    found = any_device.run(
        "splat_energy_list",
        x=x,
        mu=unit_rows(rng, 5, 16),
        a=np.full(5, 20.0),
        log_w=np.zeros(5),
        h=h,
        idx=np.array([[-1, -1], [5, -7]], np.int32),
    )
    np.testing.assert_array_equal(found["energy"].numpy(), np.inf)
    tangent = -h + np.sum(h * x, axis=1, keepdims=True) * x
    np.testing.assert_allclose(found["grad"].numpy(), tangent, atol=1e-6)


def test_no_mass_gives_no_posterior(any_device: KernelDevice) -> None:
    log_W = np.full((2, 70), -np.inf, np.float32)
    log_W[1, 3] = 2
    found = any_device.run("mixture_posterior", log_W=log_W)
    np.testing.assert_array_equal(found["log_z"].numpy(), [-np.inf, 2])
    np.testing.assert_array_equal(found["p"].numpy().sum(axis=1), [0, 1])


def test_a_context_that_cancels_a_splat_has_no_mean(any_device: KernelDevice) -> None:
    """h = -a mu leaves the uniform density: finite log Z, mean zero, F = 1/d."""
    mu = np.eye(1, 32, dtype=np.float32)
    found = any_device.run("mixture_mean", mu=mu, a=[40.0], log_pi=[0.0], h=-40 * mu)
    np.testing.assert_array_equal(found["mean"].numpy(), 0)
    assert np.isfinite(found["log_z"].numpy()).all()
    found = any_device.run(
        "mixture_coefficients", p=[[1.0]], s=[[-40.0]], a=[40.0], h2=[1600.0], dimension=32
    )
    np.testing.assert_allclose(found["tilt"].numpy(), [1 / 32], rtol=1e-6)


def test_parts_make_the_fused_mean(any_device: KernelDevice) -> None:
    rng = np.random.default_rng(2)
    mu, h = unit_rows(rng, 90, 33), 10 * unit_rows(rng, 4, 33)
    a = rng.uniform(32, 200, 90).astype(np.float32)
    log_pi = np.log(rng.dirichlet(np.ones(90))).astype(np.float32)
    tilt = {"s": h @ mu.T, "a": a, "h2": np.sum(h**2, axis=1), "dimension": 33}
    log_W = any_device.run("mixture_log_weights", log_pi=log_pi, **tilt)["log_W"]
    posterior = any_device.run("mixture_posterior", log_W=log_W)
    parts = any_device.run("mixture_coefficients", p=posterior["p"], **tilt)
    mean = parts["weight"].numpy() @ mu + parts["tilt"].numpy()[:, None] * h
    fused = any_device.run("mixture_mean", mu=mu, a=a, log_pi=log_pi, h=h)
    np.testing.assert_allclose(fused["mean"].numpy(), mean, atol=2e-6)
    np.testing.assert_allclose(fused["log_z"].numpy(), posterior["log_z"].numpy(), atol=2e-5)


@given(
    d=st.integers(8, 700),
    kappa=st.floats(0.01, 50),
    cosine=st.floats(-0.9, 1),
    length=st.floats(0, 600),
)
def test_slopes_of_a_tilted_splat(d: int, kappa: float, cosine: float, length: float) -> None:
    """F, dF/dq and F(q) - F(a^2) against float64, with relative accuracy for each."""
    a = np.array([(d - 1) * kappa], np.float32)
    s = np.array([length * cosine], np.float32)
    h2 = np.float32(length) ** 2
    f, slope, change = (np.empty(1, np.float32) for _ in range(3))
    tilt_row(a, s, h2, d, f, slope)
    q = a.astype(np.float64) ** 2 + 2 * a.astype(np.float64) * s + float(h2)
    r = np.sqrt(q)
    truth = mean_cosine(r, d) / r
    np.testing.assert_allclose(f, truth, rtol=3e-6)
    exact_slope = (mean_cosine_derivative(r, d) - truth) / (2 * q)
    # The float64 difference itself loses digits where q is small against d^2.
    lost = 1e-15 * d**2 / q[0]
    np.testing.assert_allclose(slope, exact_slope, rtol=1e-5 + lost)
    tilt_change_row(a, s, h2, d, f, change)
    base = a.astype(np.float64)
    exact_change = truth - mean_cosine(base, d) / base
    np.testing.assert_allclose(f, truth, rtol=3e-6)
    # Rounding of q - a^2 and of C, which is 1/nu of F; float64 itself where the two are close.
    lost = 3e-7 * (2 * abs(base * s) + float(h2)) * abs(exact_slope)
    lost += 1e-6 * truth / max(d, 64) ** 2 + 1e-14 * truth
    np.testing.assert_allclose(change, exact_change, rtol=1e-5, atol=float(lost[0]))
