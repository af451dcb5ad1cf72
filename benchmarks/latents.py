"""Do mean, exact and Langevin latents tell the same perplexity, within their error, as draws grow?

A SplatLM over a transformer (a run given, or one trained here) scores the first --tokens words of
WikiText-2's validation text with its closed-form mean and with growing numbers of draws, exact or
by Langevin dynamics. A draw of the splats' posterior predicts the token of its splat, so that the
mean over draws goes to the closed form. "ever more draws" takes off the bias that the jackknife
finds; "off by" is its distance from the closed form, in standard errors over draws.
"""

from __future__ import annotations

from typing import Any

from _common import Claim, parse_arguments, print_table, write_result
from language_model import given_or_trained

from ebm_wgpu.config import Latent
from ebm_wgpu.evaluation.perplexity import PerplexityReport, evaluate_perplexity
from ebm_wgpu.kernels import open_device
from ebm_wgpu.training.run_data import RunData

RANDOM: tuple[Latent, ...] = ("exact", "langevin")
WITHIN = 3.0
"""Standard errors that an estimate may be off by."""


def row(report: PerplexityReport, closed_form: float) -> dict[str, Any]:
    """A line of the table; `closed_form` is the perplexity of the mean."""
    limit, error = report.extrapolated_perplexity, report.standard_error
    assert limit is not None
    assert error is not None
    return {
        "latent": report.latent,
        "draws": report.draws,
        "ppl": report.token_perplexity,
        "standard error": error,
        "ever more draws": limit,
        "off by": (limit - closed_form) / error if error else 0.0,
    }


def main() -> None:
    arguments = parse_arguments(
        "latents",
        __doc__,
        device="numba",
        run="",
        preset="wikitext-splat",
        minutes=5.0,
        tokens=512,
        draws="4,16,64",
        seed=0,
    )
    device = open_device(arguments.device)
    loaded = given_or_trained(arguments, device)
    data = RunData.load(loaded.config, loaded.tokenizer)
    text, _ = data.valid_prefix(arguments.tokens)

    def perplexity(latent: Latent, draws: int) -> PerplexityReport:
        return evaluate_perplexity(
            loaded.model, text, loaded.config, start_id=loaded.tokenizer.start_id,
            latent=latent, draws=draws, seed=arguments.seed,
        )  # fmt: skip

    mean = perplexity("mean", 1)
    rows = [row(mean, mean.token_perplexity)]
    for draws in map(int, arguments.draws.split(",")):
        for latent in RANDOM:
            rows.append(row(perplexity(latent, draws), mean.token_perplexity))
            print(rows[-1], flush=True)
    print_table(f"step {loaded.step:,}, {len(text):,} words, {device.description}", rows)
    most = {line["latent"]: line for line in rows}
    claims = [
        Claim(f"{latent}: standard errors from the closed form, most draws",
              abs(most[latent]["off by"]), WITHIN, at_most=True)
        for latent in RANDOM
    ]  # fmt: skip
    settings = {key: value for key, value in vars(arguments).items() if key != "output"}
    payload = {
        "settings": settings,
        "step": loaded.step,
        "parameters": loaded.model.n_parameters(),
        "context": {"context": mean.context, "stride": mean.stride},
        "rows": rows,
    }
    write_result("latents", payload, device, claims=claims, output=arguments.output)


if __name__ == "__main__":
    main()
