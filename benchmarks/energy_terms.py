"""What the terms without a normaliser add to a splat model, by score matching on held-out text.

A splat model (a run given, or one trained here) stays as it is; its clean points are directions of
the next tokens, tilted by their contexts. Each term is fitted on training text, alone and with the
others, and judged on validation text, by the same noise for all, at each noise level. Spread,
coverage and entropy shape a batch, not the density of a token: where they fade, that is the result.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from _common import Claim, parse_arguments, print_table, write_result
from language_model import given_or_trained

from ebm_wgpu.config import EnergyConfig
from ebm_wgpu.errors import ConfigError
from ebm_wgpu.kernels import open_device
from ebm_wgpu.models.energy_ops import EnergyTerms
from ebm_wgpu.text.corpora import load_corpus
from ebm_wgpu.training.loading import LoadedRun
from ebm_wgpu.training.score_matching import Mixture
from ebm_wgpu.training.term_fitting import fit_terms, score_terms

START = 0.1
WINDOW = 128


def clean_points(loaded: LoadedRun, count: int) -> dict[str, Any]:
    """Directions of next tokens and the mixtures they should come from, by split."""
    model = loaded.model.splat_model
    if model is None:
        raise ConfigError(
            f"{loaded.run.path} is no run of a splat model: train one with model.family=splat"
        )
    found: dict[str, Any] = {}
    with torch.no_grad():
        splats = model.splats()
        for split in ("train", "valid"):
            ids = loaded.tokenizer.encode(load_corpus("wikitext-2", split)[: 20 * count])
            rows = len(ids) // (WINDOW + 1)
            tokens = torch.from_numpy(ids[: rows * (WINDOW + 1)].astype("int64"))
            tokens = tokens.view(rows, WINDOW + 1)
            keep = torch.randperm(rows * WINDOW, generator=torch.Generator().manual_seed(0))[:count]
            h = model.features(tokens[:, :-1]).h.flatten(0, 1)[keep]
            x = model.token_latents(tokens[:, 1:]).flatten(0, 1)[keep]
            found[split] = (x, Mixture(splats.mu, splats.a, splats.log_pi, h))
    return found


def main() -> None:
    arguments = parse_arguments(
        "energy_terms",
        __doc__,
        device="numba",
        run="",
        preset="nano",
        minutes=3.0,
        points=2000,
        steps=300,
        kappas="1,5,20",
    )
    device = open_device(arguments.device)
    kappas = [float(kappa) for kappa in arguments.kappas.split(",")]
    points = clean_points(given_or_trained(arguments, device), arguments.points)
    weights = {"geometry": "lambda_geom", "composition": "lambda_comp", "entropy": "lambda_entropy"}
    ablations: dict[str, tuple[str, ...]] = {
        "mixture alone": (),
        **{name: (name,) for name in weights},
        "all three": tuple(weights),
    }
    rows, learned = [], {}
    for name, present in ablations.items():
        changes: dict[str, Any] = {weights[term]: START for term in present}
        terms = EnergyTerms(dataclasses.replace(EnergyConfig(), **changes))
        if present:
            x, mixture = points["train"]
            fit_terms(terms, mixture, x, kappas, steps=arguments.steps)
            learned[name] = dataclasses.asdict(terms.configuration())
        row: dict[str, Any] = {"energy": name}
        x, mixture = points["valid"]
        for level in score_terms(terms, mixture, x, kappas):
            row[f"loss, kappa {level.kappa:g}"] = level.loss
            row[f"explained, kappa {level.kappa:g}"] = level.explained
        rows.append(row)
    print_table(f"score matching on validation text, {device.description}", rows)
    total = {
        row["energy"]: sum(value for key, value in row.items() if key.startswith("loss"))
        for row in rows
    }
    claims = [
        Claim(
            f"held-out loss with {name} over that of the mixture alone",
            total[name] / total["mixture alone"],
            1.0,
            at_most=True,
        )
        for name in ("composition", "all three")
    ]
    settings = {key: value for key, value in vars(arguments).items() if key != "output"}
    payload = {"settings": settings, "rows": rows, "learned": learned}
    write_result("energy_terms", payload, device, claims=claims, output=arguments.output)


if __name__ == "__main__":
    main()
