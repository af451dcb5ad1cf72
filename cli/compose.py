"""`ebm compose`: two texts added, mixed or negated as points of the sphere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import _embedding, _options, _splat_files

_METHODS = ("tangent", "geodesic")


@click.command("compose")
@click.argument("a")
@click.argument("b", required=False)
@_embedding.checkpoint
@click.option(
    "--method",
    type=click.Choice(_METHODS),
    default="tangent",
    show_default=True,
    help="tangent: sum in the tangent space at the base point; geodesic: a point between the two.",
)
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
    a: str,
    b: str | None,
    checkpoint: Path | None,
    method: str,
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

    Without B, A is negated: ebm compose "the war" --negate a.
    """
    import json

    import numpy as np

    from ebm_wgpu import composition
    from ebm_wgpu.energy import Energy
    from ebm_wgpu.errors import ConfigError
    from ebm_wgpu.sphere import dist

    if b is None and negate != ("a",):
        raise ConfigError("give two texts to compose, or one with --negate a")
    if output is not None:
        _splat_files.check_output(output, force)
    run, opened = _embedding.load(checkpoint, device)
    embedder = _embedding.embedder_of(run, opened)
    texts = {"a": a} if b is None else {"a": a, "b": b}
    points = dict(zip(texts, embedder.embed(list(texts.values())).direction, strict=True))
    middle: Any = embedder.base_point() if base is None else embedder.embed([base]).direction[0]
    parts = {
        name: composition.negate(x, middle) if name in negate else np.asarray(x, np.float64)
        for name, x in points.items()
    }
    result = parts["a"]
    if b is not None:
        result = composition.compose(parts["a"], parts["b"], middle, method=method, share=share)
    energy = Energy.from_config(embedder.model.to_store(), opened, run.config.energy)
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
    click.echo(f"energy without context {record['energy']:.2f} nats")
    _embedding.print_near("nearest tokens", record["nearest_tokens"], "token")
    if corpus is not None:
        _embedding.print_near(f"nearest lines of {corpus}", record["nearest_texts"], "text")
