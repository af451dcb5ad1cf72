"""Composition and negation learned from phrases of WikiText-2, judged by retrieval on others.

A splat model (a run given, or one trained here) places frequent phrases of two words and their
parts on the sphere. Phrases whose first word is held out are what is composed; each guess is
compared with the latents of all of them. Beside the net: one part alone, which is most of what a
language model remembers, and the two maps that need no learning. What `ebm compose --fit` prints.
"""

from __future__ import annotations

from dataclasses import asdict

from _common import Claim, parse_arguments, print_table, write_result
from language_model import given_or_trained

from ebm_wgpu.embedding import TextEmbedder
from ebm_wgpu.kernels import open_device
from ebm_wgpu.text.corpora import load_corpus
from ebm_wgpu.training.composition_fitting import LEARNED, fit_composition


def main() -> None:
    arguments = parse_arguments(
        "composition",
        __doc__,
        device="numba",
        run="",
        preset="nano",
        minutes=3.0,
        phrases=4000,
        steps=600,
    )
    device = open_device(arguments.device)
    loaded = given_or_trained(arguments, device)
    context = loaded.config.data.eval_context
    embedder = TextEmbedder(loaded.model, loaded.tokenizer, device, context)
    fit = fit_composition(
        embedder,
        load_corpus("wikitext-2", "train"),
        phrases=arguments.phrases,
        steps=arguments.steps,
    )
    tasks = {"phrase": fit.phrase, "part": fit.part}
    rows = [
        {
            "composition": name,
            **{
                f"{kind} {key}": v for kind in tasks for key, v in asdict(tasks[kind][name]).items()
            },
        }
        for name in fit.phrase
    ]
    print_table(
        f"{fit.learned_from} phrases learned from, {fit.held_out} held out, {device.description}",
        [{"": key} | {row["composition"]: row[key] for row in rows} for key in list(rows[0])[1:]],
    )
    claims = [
        Claim(
            f"held-out {kind}s, reciprocal rank of the net over the best other",
            scores[LEARNED].reciprocal_rank
            / max(score.reciprocal_rank for name, score in scores.items() if name != LEARNED),
            1.0,
        )
        for kind, scores in tasks.items()
    ]
    settings = {key: value for key, value in vars(arguments).items() if key != "output"}
    payload = {
        "settings": settings,
        "learned_from": fit.learned_from,
        "held_out": fit.held_out,
        "chance": {kind: scores[LEARNED].chance for kind, scores in tasks.items()},
        "rows": rows,
    }
    write_result("composition", payload, device, claims=claims, output=arguments.output)


if __name__ == "__main__":
    main()
