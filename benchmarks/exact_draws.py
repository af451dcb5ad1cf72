"""64 exact draws over 50,000 splats: from the prior, under one context, and under 64 contexts.

One context costs one product with all splats; a context of its own for every draw costs 64.
"""

from __future__ import annotations

import numpy as np
from _common import Claim, compare_seconds, median, parse_arguments, print_table, write_result
from scipy import stats

from ebm_wgpu.energy import Energy
from ebm_wgpu.kernels import open_device
from ebm_wgpu.sampling import sample_exact
from ebm_wgpu.sphere import random_uniform
from ebm_wgpu.splats import SplatStore
from ebm_wgpu.vmf import vmf_cosine_cdf


def main() -> None:
    arguments = parse_arguments(
        "exact_draws",
        __doc__,
        device="numba",
        splats=50000,
        dimension=640,
        draws=64,
        kappa=5.0,
        tilt=16.0,
        repeats=15,
    )
    device = open_device(arguments.device)
    rng = np.random.default_rng(0)
    d, draws = arguments.dimension, arguments.draws
    mu = random_uniform(rng, arguments.splats, d)
    energy = Energy(SplatStore.from_directions(mu, kappa=arguments.kappa), device)
    contexts = arguments.tilt * random_uniform(rng, draws, d)
    times = compare_seconds(
        {
            "none": lambda: sample_exact(energy, draws, seed=1),
            "one": lambda: sample_exact(energy, draws, contexts[0], seed=1),
            f"{draws}": lambda: sample_exact(energy, draws, contexts, seed=1),
        },
        arguments.repeats,
    )
    rows = [
        {
            "contexts": name,
            "median ms": 1e3 * median(values),
            "fastest ms": 1e3 * min(values),
            "draws a second": draws / median(values),
        }
        for name, values in times.items()
    ]
    print_table(
        f"{draws} exact draws over {arguments.splats} splats, d = {d}, {device.description}", rows
    )
    many = sample_exact(energy, 4000, seed=2)
    cosine = np.einsum("nd,nd->n", many.x.astype(np.float64), energy.store.mu[many.component])
    p = stats.kstest(cosine, lambda t: vmf_cosine_cdf(t, arguments.kappa * (d - 1), d)).pvalue
    claims = [
        Claim("64 draws under one context", median(times["one"]), 0.05, "s", at_most=True),
        Claim("p of the cosines to the splats drawn from (KS, 4000 draws)", float(p), 0.01),
    ]
    settings = {k: v for k, v in vars(arguments).items() if k != "output"}
    payload = {"settings": settings, "statistic": "median, contenders in turn", "rows": rows}
    write_result("exact_draws", payload, device, claims=claims, output=arguments.output)


if __name__ == "__main__":
    main()
