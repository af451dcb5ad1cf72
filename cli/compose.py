"""`ebm compose`: two texts added, mixed or negated as points of the sphere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import _embedding, _options, _splat_files

_METHODS = ("tangent", "geodesic", "learned")


@click.command("compose")
@click.argument("a", required=False)
@click.argument("b", required=False)
@_options.checkpoint
@_options.model
@click.option(
    "--method",
    type=click.Choice(_METHODS),
    default="tangent",
    show_default=True,
    help="tangent: sum in the tangent space at the base point; geodesic: a point between the two; "
    "learned: by the net that --fit trained.",
)
@click.option(
    "--fit",
    is_flag=True,
    help="Learn composition from phrases of the run's own text (or of --corpus), judge it on "
    "phrases held out, and keep it in the run folder for --method learned.",
)
@click.option(
    "--phrases",
    type=click.IntRange(min=2),
    default=4000,
    show_default=True,
    help="With --fit: most frequent phrases to use.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=600,
    show_default=True,
    help="With --fit: steps of training.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="With --fit: its seed.")
@click.option(
    "--share",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="How much of B.",
)
@click.option(
    "--negate",
    type=click.Choice(["a", "b"]),
    multiple=True,
    help="Reflect a text in the base point first; may be repeated.",
)
@click.option(
    "--base",
    metavar="TEXT",
    help="Text whose latent is the base point. [the mean of all splats]",
)
@_embedding.corpus
@_embedding.max_texts
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Nearest tokens, splats and texts to print.",
)
@_splat_files.output("Write the direction (.npy) or everything (.json).", required=False)
@_splat_files.force
@_options.device
@_options.as_json
def command(
    a: str | None,
    b: str | None,
    checkpoint: Path | None,
    family: str | None,
    method: str,
    fit: bool,
    phrases: int,
    steps: int,
    seed: int,
    share: float,
    negate: tuple[str, ...],
    base: str | None,
    corpus: Path | None,
    max_texts: int,
    limit: int,
    output: Path | None,
    force: bool,
    device: str,
    as_json: bool,
) -> None:
    """Compose the latents of the texts A and B, and say what the result is near to.

    Without B, A is negated: ebm compose "the war" --negate a. Learned composition is fitted once
    for a checkpoint: ebm compose --fit, then ebm compose "the war" "the river" --method learned.
    """
    if fit:
        _fit((a, b), checkpoint, family, corpus, phrases, steps, seed, device, as_json)
        return
    import json

    import numpy as np

    from ebm_wgpu import composition
    from ebm_wgpu.energy import Energy
    from ebm_wgpu.errors import ConfigError
    from ebm_wgpu.sphere import dist

    if a is None or (b is None and negate != ("a",)):
        raise ConfigError("give two texts to compose, or one with --negate a")
    if output is not None:
        _splat_files.check_output(output, force)
    run, opened = _embedding.load(checkpoint, device, family)
    embedder = _embedding.embedder_of(run, opened)
    texts = {"a": a} if b is None else {"a": a, "b": b}
    points = dict(zip(texts, embedder.embed(list(texts.values())).direction, strict=True))
    middle: Any = embedder.base_point() if base is None else embedder.embed([base]).direction[0]
    parts = {
        name: composition.negate(x, middle) if name in negate else np.asarray(x, np.float64)
        for name, x in points.items()
    }
    result, net = parts["a"], None
    if b is not None:
        if method == "learned":
            from ebm_wgpu.training.composition_fitting import stored_composition

            net = stored_composition(run)
        by = method if net is None else net.composer()
        result = composition.compose(parts["a"], parts["b"], middle, method=by, share=share)
    terms = embedder.model.energy_terms
    energy = Energy.from_config(
        embedder.model.to_store(),
        opened,
        run.config.energy if terms is None else terms.configuration(),
    )
    angles = {name: np.degrees(dist(result, x / np.linalg.norm(x))) for name, x in points.items()}
    record: dict[str, Any] = {
        **texts,
        "method": method if b is not None else "negation",
        "share": share,
        "negated": sorted(set(negate)),
        "base": base,
        "degrees_to": {
            **{name: float(angle) for name, angle in angles.items()},
            "base": float(np.degrees(dist(result, middle / np.linalg.norm(middle)))),
        },
        "energy": float(energy.value(result[None].astype(np.float32))[0]),
        "nearest_tokens": _embedding.near_tokens(embedder, result, limit),
        "direction": result.tolist(),
    }
    if net is not None:
        record["learned"] = net.record
    if corpus is not None:
        near = _embedding.near_texts(embedder, corpus, result, limit, max_texts)
        record["nearest_texts"] = near
    if output is not None:
        _embedding.write_latent(output, result, record, force)
    if as_json:
        click.echo(json.dumps(record, indent=1))
        return
    _print(record, corpus)


def _print(record: dict[str, Any], corpus: Path | None) -> None:
    parts = [
        f"{'not ' if name in record['negated'] else ''}{record[name]!r}"
        for name in ("a", "b")
        if name in record
    ]
    degrees = ", ".join(
        f"{angle:.1f} degrees from {name}" for name, angle in record["degrees_to"].items()
    )
    click.echo(f"{' and '.join(parts)} by {record['method']}: {degrees}")
    if "learned" in record:
        phrase = record["learned"]["phrase"]
        found = phrase["scores"]["learned"]["reciprocal_rank"]
        click.echo(
            f"learned from {record['learned']['learned_from']:,} phrases: names a phrase held out "
            f"by its parts with reciprocal rank {found:.3f}, chance {phrase['chance']:.3f}"
        )
    click.echo(f"energy without context {record['energy']:.2f} nats")
    _embedding.print_near("nearest tokens", record["nearest_tokens"], "token")
    if corpus is not None:
        _embedding.print_near(f"nearest lines of {corpus}", record["nearest_texts"], "text")


def _fit(
    texts: tuple[str | None, str | None],
    checkpoint: Path | None,
    family: str | None,
    corpus: Path | None,
    phrases: int,
    steps: int,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Train the composition net of a run, keep it, and print how well it does."""
    import json

    from ebm_wgpu.errors import ConfigError
    from ebm_wgpu.text.corpora import load_corpus
    from ebm_wgpu.training.composition_fitting import fit_composition, store_composition

    if texts != (None, None):
        raise ConfigError("--fit takes no texts to compose: compose them with --method learned")
    run, opened = _embedding.load(checkpoint, device, family)
    embedder, data = _embedding.embedder_of(run, opened), run.config.data
    if corpus is None:
        name, text = data.dataset, load_corpus(data.dataset, "train", data.data_dir)
    else:
        name, text = str(corpus), load_corpus(corpus)
    with _splat_files.progress(None, "learning from phrases") as advance:
        fit = fit_composition(
            embedder, text, phrases=phrases, steps=steps, seed=seed, on_texts=advance
        )
    path = store_composition(run, fit, name)
    record = {"run": str(run.run.path), "file": str(path), **fit.net.record}
    if as_json:
        click.echo(json.dumps(record, indent=1))
        return
    click.echo(
        f"{run.run.path}, step {run.step:,}: learned from {fit.learned_from:,} phrases of {name}, "
        f"{fit.held_out:,} others held out with all phrases of their first words"
    )
    for line in _score_lines(record):
        click.echo(line)
    click.echo(f"written: {path}")


def _score_lines(record: dict[str, Any]) -> list[str]:
    """The table of held-out retrieval, with what blind guessing scores."""
    from ._tables import aligned

    rows = []
    for task, question in (("phrase", "phrase of its parts"), ("part", "part left of a phrase")):
        found = record[task]
        n = found["candidates"]
        for name, score in found["scores"].items():
            figures = (score["reciprocal_rank"], score["top_1"], score["top_10"])
            rows.append([question, name, *(f"{figure:.3f}" for figure in figures), f"{n:,}"])
        chance = (found["chance"], 1 / n, min(10 / n, 1))
        rows.append([question, "chance", *(f"{figure:.3f}" for figure in chance), f"{n:,}"])
    head = ["held out", "named by", "reciprocal rank", "top 1", "top 10", "of candidates"]
    return aligned(head, rows)
