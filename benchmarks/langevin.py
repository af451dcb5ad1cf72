"""Langevin steps over 50,000 clustered splats: certified lists against evaluating everything.

All contenders move 16 chains from exact draws. Certified lists (with the exact draws and all list
building) run all 200 steps; the others run fewer, and their time is scaled up: full evaluation by
our kernels, the same BAOAB in torch over the 64 nearest (matrix product and topk), and the original
`sample_langevin` of ebm-splats (`pip install ebm-splats`), with FAISS and without. What ebm-splats
does in a step does not depend on kappa, so it is timed once; --original-steps 0 leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from _common import Claim, compare_seconds, median, parse_arguments, print_table, write_result
from scipy import stats

from ebm_wgpu.energy import Energy
from ebm_wgpu.errors import DataError
from ebm_wgpu.kernels import open_device
from ebm_wgpu.sampling import sample_exact, sample_langevin
from ebm_wgpu.sampling.langevin import default_dt_omega, natural_frequency
from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.splats import SplatStore
from ebm_wgpu.vmf import vmf_cosine_cdf

CLAIMED_KAPPA = 5.0
KAPPAS = (1.0, CLAIMED_KAPPA, 10.0)
NEIGHBOURS = 64


def clustered(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Splats in clusters of about 100, with a cosine of .64 within a cluster."""
    clusters = max(1, n // 100)
    centres = random_uniform(rng, clusters, d)
    return centres[np.arange(n) % clusters] + 0.75 * rng.standard_normal((n, d)) / np.sqrt(d)


def torch_baoab(
    mu: torch.Tensor, a: float, dt: float, gamma: float, x: torch.Tensor, n: int
) -> None:
    """BAOAB over the 64 nearest splats by matrix product and topk, float32."""

    def force(x: torch.Tensor) -> torch.Tensor:
        cosine, near = (x @ mu.T).topk(NEIGHBOURS, dim=1)
        pull = torch.softmax(a * cosine, dim=1) * a
        f = torch.bmm(pull[:, None], mu[near])[:, 0]
        return f - (f * x).sum(1, keepdim=True) * x

    def drift(x: torch.Tensor, v: torch.Tensor, t: float) -> tuple[torch.Tensor, torch.Tensor]:
        speed = v.norm(dim=1, keepdim=True).clamp_min(1e-12)
        c, s = torch.cos(speed * t), torch.sin(speed * t)
        return c * x + s * v / speed, c * v - s * speed * x

    decay = float(np.exp(-gamma * dt))
    v = torch.randn_like(x)
    v -= (v * x).sum(1, keepdim=True) * x
    with torch.no_grad():
        f = force(x)
        for _ in range(n):
            x, v = drift(x, v + dt / 2 * f, dt / 2)
            v = decay * v + (1 - decay**2) ** 0.5 * torch.randn_like(v)
            x, v = drift(x, v - (v * x).sum(1, keepdim=True) * x, dt / 2)
            x = x / x.norm(dim=1, keepdim=True)
            f = force(x)
            v = v + dt / 2 * f


def original(mu: np.ndarray, x: np.ndarray, n: int, with_faiss: bool) -> Callable[[], object]:
    """`sample_langevin` of ebm-splats over the same splats, n steps."""
    try:
        from ebm import splats
        from ebm.config import EBMConfig
        from ebm.energy import EnergyFunction
        from ebm.langevin import sample_langevin as sample_original
    except ImportError as error:
        raise DataError("ebm-splats is not installed: pip install 'ebm-wgpu[bench]'") from error
    # It looks for FAISS once and remembers; forgetting or pretending to have looked selects it.
    splats._FAISS_RESOLVED, splats._FAISS_MODULE = not with_faiss, None
    config = EBMConfig(n_splats_init=len(mu), max_splats=len(mu), langevin_steps=n)
    storage = splats.SplatStorage(config)
    with torch.no_grad():
        storage.mu.data.copy_(torch.from_numpy(mu))
        storage.normalize()
    energy = EnergyFunction(config, storage)
    start = torch.from_numpy(x)

    def run() -> object:
        splats._FAISS_RESOLVED = splats._FAISS_MODULE is not None or not with_faiss
        with torch.no_grad():
            return sample_original(start, energy, config)

    return run


def agreement(energy: Energy, kappa: float, n: int) -> tuple[float, float]:
    """p-values (KS) of n chains: cosine to their splat, and energy against as many exact draws."""
    d = energy.store.dimension
    chains = sample_langevin(energy, n, seed=5)
    drawn = sample_exact(energy, n, seed=5).component
    cosine = np.einsum("nd,nd->n", chains.x.astype(np.float64), energy.store.mu[drawn])
    exact = energy.value(sample_exact(energy, n, seed=6).x)
    return (
        float(stats.kstest(cosine, lambda t: vmf_cosine_cdf(t, kappa * (d - 1), d)).pvalue),
        float(stats.ks_2samp(chains.energy, exact).pvalue),
    )


def main() -> None:
    arguments = parse_arguments(
        "langevin",
        __doc__,
        device="numba",
        splats=50000,
        dimension=640,
        chains=16,
        steps=200,
        slow_steps=10,
        original_steps=2,
        agreement_chains=300,
        repeats=3,
    )
    device = open_device(arguments.device)
    rng = np.random.default_rng(5)
    steps, slow = arguments.steps, arguments.slow_steps
    mu = clustered(rng, arguments.splats, arguments.dimension)
    rows, claims, scaled = [], [], {}
    store = SplatStore.from_directions(mu)
    x0 = np.ascontiguousarray(store.mu[rng.integers(0, len(store), arguments.chains)])
    for with_faiss in (True, False) if arguments.original_steps else ():
        run = original(store.mu, x0, arguments.original_steps, with_faiss)
        taken = compare_seconds({"original": run}, 1)["original"]
        name = "ebm-splats, FAISS" if with_faiss else "ebm-splats"
        scaled[name] = median(taken) * steps / arguments.original_steps
    mu_torch = torch.from_numpy(store.mu)
    for kappa in KAPPAS:
        store = SplatStore.from_directions(mu, kappa=kappa)
        energy = Energy(store, device)
        start = sample_exact(energy, arguments.chains, seed=1).x
        omega = natural_frequency(energy)
        dt, a = default_dt_omega(energy) / omega, kappa * (arguments.dimension - 1)
        built: list[int] = []

        def lists(energy: Energy = energy, built: list[int] = built) -> None:
            result = sample_langevin(energy, arguments.chains, n_steps=steps, seed=1)
            built.append(result.list_builds)

        def full(energy: Energy = energy, start: np.ndarray = start) -> None:
            sample_langevin(energy, start, n_steps=slow, use_lists=False, seed=1)

        def in_torch(
            start: np.ndarray = start, a: float = a, dt: float = dt, omega: float = omega
        ) -> None:
            torch_baoab(mu_torch, a, dt, omega, torch.from_numpy(start), slow)

        times = compare_seconds(
            {"lists": lists, "full": full, "torch": in_torch}, arguments.repeats
        )
        ours = median(times["lists"])
        p_cosine, p_energy = agreement(energy, kappa, arguments.agreement_chains)
        # A run of n steps evaluates n + 1 forces.
        full_s = median(times["full"]) * (steps + 1) / (slow + 1)
        torch_s = median(times["torch"]) * (steps + 1) / (slow + 1)
        rows.append(
            {
                "kappa": kappa,
                "lists s": ours,
                "lists built": built[-1],
                "full s": full_s,
                "torch s": torch_s,
                **{f"{name} s": value for name, value in scaled.items()},
                "torch / lists": torch_s / ours,
                **({"ebm-splats / lists": min(scaled.values()) / ours} if scaled else {}),
                "p cosine": p_cosine,
                "p energy": p_energy,
            }
        )
        if kappa == CLAIMED_KAPPA:
            claims = [
                Claim("times faster than torch, kappa 5", torch_s / ours, 25),
                Claim("p of cosines against the exact law, kappa 5", p_cosine, 0.01),
                Claim("p of energies against exact draws, kappa 5", p_energy, 0.01),
            ]
            if scaled:
                ratio = min(scaled.values()) / ours
                claims.insert(1, Claim("times faster than ebm-splats, kappa 5", ratio, 300))
    print_table(
        f"{arguments.chains} chains, {steps} steps, {arguments.splats} splats, "
        f"d = {arguments.dimension}, {device.description}",
        [
            {"": key} | {f"{row['kappa']:g}": row[key] for row in rows}
            for key in rows[0]
            if key != "kappa"
        ],
    )
    payload = {
        "settings": {k: v for k, v in vars(arguments).items() if k != "output"},
        "scaled": "full, torch and ebm-splats ran slow_steps or original_steps, scaled to steps",
        "torch_threads": torch.get_num_threads(),
        "statistic": "median, contenders in turn",
        "rows": rows,
    }
    write_result("langevin", payload, device, claims=claims, output=arguments.output)


if __name__ == "__main__":
    main()
