"""`ebm embed`: a text as a latent on the sphere, its energies, and the texts nearest to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import _embedding, _options, _splat_files

if TYPE_CHECKING:
    from ebm_wgpu.embedding import TextEmbedder

_COLOURS = ("energy", "latent", "surprise")
_COOL, _WARM = (70, 150, 230), (235, 90, 60)


@click.command("embed")
@click.argument("text")
@_options.checkpoint
@_options.model
@_splat_files.output("Write the direction (.npy) or everything (.json).", required=False)
@_splat_files.force
@_embedding.corpus
@_embedding.max_texts
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Nearest tokens, splats and texts to print.",
)
@click.option(
    "--energy", "by_token", is_flag=True, help="Show the energy of each token, in colour."
)
@click.option(
    "--color",
    type=click.Choice(_COLOURS),
    default="latent",
    show_default=True,
    help="With --energy: E(e_w|c), -log p(e_w|c) = E + log Z(c), or -log p(w|c).",
)
@_options.device
@_options.as_json
def command(
    text: str,
    checkpoint: Path | None,
    family: str | None,
    output: Path | None,
    force: bool,
    corpus: Path | None,
    max_texts: int,
    limit: int,
    by_token: bool,
    color: str,
    device: str,
    as_json: bool,
) -> None:
    """Place TEXT on the sphere: the mean latent E[x|c] that a splat model expects after it."""
    import json

    if output is not None:
        _splat_files.check_output(output, force)
    embedder = _embedding.open_embedder(checkpoint, device, family)
    record, direction = _latent_record(embedder, text, limit)
    if by_token:
        record["token_energies"] = _energy_rows(embedder, text)
    if corpus is not None:
        texts = _embedding.near_texts(embedder, corpus, direction, limit, max_texts)
        record["nearest_texts"] = texts
    if output is not None:
        _embedding.write_latent(output, direction, record, force)
    if as_json:
        click.echo(json.dumps(record, indent=1))
        return
    _print_latent(record)
    if by_token:
        _print_energies(record["token_energies"], color)
    if corpus is not None:
        _embedding.print_near(f"nearest lines of {corpus}", record["nearest_texts"], "text")


def _latent_record(embedder: TextEmbedder, text: str, limit: int) -> tuple[dict[str, Any], Any]:
    import numpy as np

    latents = embedder.embed([text])
    direction = latents.direction[0]
    posterior = embedder.posterior(latents.tilt[0]).astype(np.float64)
    held = posterior[posterior > 0]
    heaviest = np.argsort(-posterior, kind="stable")[:limit]
    store = embedder.model.to_store()
    cosines = store.mu[heaviest] @ direction
    record: dict[str, Any] = {
        "text": text,
        "tokens": int(latents.tokens[0]),
        "tokens_read": int(latents.tokens_read[0]),
        "dimension": int(direction.size),
        "mean_length": float(np.linalg.norm(latents.mean[0].astype(np.float64))),
        "tilt_length": float(np.linalg.norm(latents.tilt[0].astype(np.float64))),
        "log_partition": float(latents.log_partition[0]),
        "effective_splats": float(np.exp(-np.sum(held * np.log(held)))),
        "likely_splats": [
            {
                "splat": int(k),
                "token_id": int(store.sid[k]),
                "token": repr(embedder.tokenizer.decode([int(store.sid[k])])),
                "probability": float(posterior[k]),
                "cosine": float(cosine),
            }
            for k, cosine in zip(heaviest, cosines, strict=True)
        ],
        "nearest_tokens": _embedding.near_tokens(embedder, direction, limit),
        "direction": direction.tolist(),
    }
    return record, direction


def _print_latent(record: dict[str, Any]) -> None:
    read = record["tokens_read"]
    which = "" if read == record["tokens"] else f", the last {read:,} read"
    click.echo(
        f"{_splat_files.counted(record['tokens'], 'token')}{which}; latent on "
        f"S^{record['dimension'] - 1}: |E[x|c]| {record['mean_length']:.4f} (1: certain), |h| "
        f"{record['tilt_length']:.2f}, log Z(c) {record['log_partition']:.2f} nats, "
        f"{record['effective_splats']:,.1f} effective splats"
    )
    click.echo("likely splats\n     p(k|c)   cosine    splat  token")
    for row in record["likely_splats"]:
        click.echo(
            f"{row['probability']:11.4%} {row['cosine']:8.4f} {row['splat']:8}  {row['token']}"
        )
    _embedding.print_near("nearest tokens", record["nearest_tokens"], "token")


def _energy_rows(embedder: TextEmbedder, text: str) -> list[dict[str, Any]]:
    found = embedder.energies(text)
    return [
        {
            "token_id": int(found.tokens[i]),
            "text": found.pieces[i],
            "energy": float(found.energy[i]),
            "latent": float(found.latent[i]),
            "surprise": float(found.surprise[i]),
        }
        for i in range(len(found.tokens))
    ]


def _print_energies(rows: list[dict[str, Any]], color: str) -> None:
    """The text, each token on the colour of its energy; as a table where there are no colours."""
    import numpy as np
    from rich.color import Color
    from rich.console import Console
    from rich.style import Style
    from rich.text import Text

    values = np.array([row[color] for row in rows])
    # A few outliers shall not leave one colour for the rest.
    low, high = np.quantile(values, [0.05, 0.95])
    shares = np.clip((values - low) / (high - low or 1), 0, 1)
    console = Console()
    if console.color_system is not None:
        line = Text()
        for row, share in zip(rows, shares, strict=True):
            mixed = (round(a + share * (b - a)) for a, b in zip(_COOL, _WARM, strict=True))
            ground = Color.from_rgb(*mixed)
            line.append(row["text"], Style(color="black", bgcolor=ground))
        console.print(line)
        scale = f"{color}: blue {low:.2f} nats or less, red {high:.2f} or more"
        console.print(scale, highlight=False)
        return
    click.echo(f"{'energy':>12} {'latent':>12} {'surprise':>10}  token (nats)")
    for row in rows:
        click.echo(
            f"{row['energy']:12.3f} {row['latent']:12.3f} {row['surprise']:10.3f}  {row['text']!r}"
        )
