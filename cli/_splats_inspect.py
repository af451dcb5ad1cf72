"""`ebm splats info`, `list`, `show` and `neighbors`: what there is, without changing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import _options, _splat_files

if TYPE_CHECKING:
    from ebm_wgpu.splats.inspection import Summary
    from ebm_wgpu.splats.search import SearchResult
    from ebm_wgpu.splats.splat_file import SplatFile

    from ._splat_files import SplatPath

_SORTS = ("usage", "weight", "kappa", "age", "index")


@click.command("info")
@_splat_files.path_argument
@click.option(
    "--verify/--no-verify",
    default=True,
    help="Read every byte and compare it with the file's digest. [default: verify]",
)
@_options.as_json
def info(path: Path, verify: bool, as_json: bool) -> None:
    """Print how many splats there are and how weights, kappa, usage and age are spread."""
    import dataclasses
    import json

    from ebm_wgpu.splats.inspection import summarize

    found = _splat_files.find_splats(path)
    with found.open() as file, _splat_files.progress(len(file), "verifying") as advance:
        summary = summarize(file, verify=verify, on_rows=advance)
    size = found.file.stat().st_size
    if as_json:
        record = {"file": str(found.file), "bytes": size, **dataclasses.asdict(summary)}
        click.echo(json.dumps({**record, "verified": verify}, indent=1))
        return
    click.echo(f"{found.file} ({size:,} bytes{', every byte verified' if verify else ''})")
    _print_summary(summary)


def _print_summary(summary: Summary) -> None:
    click.echo(
        f"{summary.splats:,} splats on S^{summary.dimension - 1}, ids of {summary.tokens:,} "
        f"tokens, {summary.effective_splats:,.1f} effective (exp of the entropy of the weights), "
        f"{summary.history:,} states in the history"
    )
    low, high = summary.at_kappa_limits
    click.echo(
        f"{summary.unused:,} unused, {summary.used_splats:,.1f} effective by usage; kappa within "
        f"[{summary.kappa_range[0]:g}, {summary.kappa_range[1]:g}], {low:,} at the lower and "
        f"{high:,} at the upper limit"
    )
    if summary.concentration_of_directions is not None:
        click.echo(
            f"mean of all directions has length {summary.concentration_of_directions:.4f} "
            "(0: spread evenly, 1: all one)"
        )
    click.echo(f"{'':8}{'least':>12}{'quarter':>12}{'median':>12}{'3 quarters':>12}{'most':>12}")
    for name, quantiles in summary.quantiles.items():
        click.echo(f"{name:8}" + "".join(f"{value:12.5g}" for value in quantiles))


@click.command("list")
@_splat_files.path_argument
@click.option("--sort", type=click.Choice(_SORTS), default="usage", show_default=True)
@click.option("--reverse", is_flag=True, help="The smallest first.")
@_splat_files.limit
@_splat_files.token
@_options.as_json
def list_splats(
    path: Path, sort: str, reverse: bool, limit: int, token: str | None, as_json: bool
) -> None:
    """List splats, the most used first, or sorted by weight, kappa or age."""
    import json

    from ebm_wgpu.splats.inspection import ranked

    found = _splat_files.find_splats(path)
    chosen = None if token is None else found.token_id(token)
    with found.open() as file:
        order = ranked(file.columns, sort, token=chosen, reverse=reverse)[:limit]
        rows = _records(found, file, order)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    _print_rows(rows)


def _records(found: SplatPath, file: SplatFile, indices: Any) -> list[dict[str, Any]]:
    import numpy as np

    from ebm_wgpu.splats.inspection import usage_shares

    columns = file.columns
    shares, weights = usage_shares(columns), np.exp(columns.log_pi)
    return [
        {
            "splat": int(k),
            "token_id": int(columns.sid[k]),
            "token": found.shown(int(columns.sid[k])),
            "usage": float(columns.frequency[k]),
            "share": float(shares[k]),
            "alpha": float(columns.alpha[k]),
            "weight": float(weights[k]),
            "kappa": float(columns.kappa[k]),
            "age": int(columns.age[k]),
        }
        for k in indices
    ]


def _print_rows(rows: list[dict[str, Any]]) -> None:
    cosine = f"{'cosine':>8} " if rows and "cosine" in rows[0] else ""
    click.echo(
        f"{cosine}{'splat':>8} {'id':>7} {'token':20} {'usage':>12} {'share':>8} {'alpha':>10} "
        f"{'kappa':>8} {'age':>8}"
    )
    for row in rows:
        near = f"{row['cosine']:8.4f} " if cosine else ""
        click.echo(
            f"{near}{row['splat']:8} {row['token_id']:7} {row['token']:20} {row['usage']:12.5g} "
            f"{row['share']:8.2%} {row['alpha']:10.4g} {row['kappa']:8.3f} {row['age']:8}"
        )


def _near(found: SplatPath, file: SplatFile, result: SearchResult) -> list[dict[str, Any]]:
    """The splats found for the first query, nearest first."""
    rows = _records(found, file, result.indices[0])
    return [
        {"cosine": float(cosine), **row}
        for cosine, row in zip(result.similarities[0], rows, strict=True)
    ]


@click.command("show")
@_splat_files.path_argument
@click.argument("splat", type=click.IntRange(min=0))
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Nearest splats and nearest tokens to print.",
)
@_options.device
@_options.as_json
def show(path: Path, splat: int, limit: int, device: str, as_json: bool) -> None:
    """Show one splat: its values, the splats nearest to it and the tokens nearest to it.

    Nearest tokens need the model: give a run folder or a checkpoint.
    """
    import json

    from ebm_wgpu.splats.inspection import nearest

    from ._embedding import near_tokens, open_embedder, print_near

    found = _splat_files.find_splats(path)
    with found.open() as file, _splat_files.progress(len(file), "searching") as advance:
        direction = file.rows([splat])
        (record,) = _records(found, file, [splat])
        record["log_weight"] = float(file.columns.log_weight[splat])
        wanted = min(limit + 1, len(file))
        near = _near(found, file, nearest(file, direction, wanted, on_rows=advance))
    near = [row for row in near if row["splat"] != splat][:limit]
    tokens = []
    if found.checkpoint is not None:
        tokens = near_tokens(open_embedder(found.checkpoint, device), direction, limit)
    if as_json:
        record = {**record, "nearest_splats": near, "nearest_tokens": tokens}
        click.echo(json.dumps(record, indent=1))
        return
    _print_rows([record])
    click.echo(
        f"weight {record['weight']:.4g} of all, log weight {record['log_weight']:.6g} nats, "
        f"concentration {(file.dimension - 1) * record['kappa']:.5g} in natural units"
    )
    click.echo("nearest splats")
    _print_rows(near)
    if tokens:
        print_near("nearest tokens", tokens, "token")


@click.command("neighbors")
@_splat_files.path_argument
@click.argument("text", required=False)
@_splat_files.token
@click.option("--splat", type=click.IntRange(min=0), help="A splat, by its number.")
@_splat_files.limit
@_options.device
@_options.as_json
def neighbors(
    path: Path,
    text: str | None,
    token: str | None,
    splat: int | None,
    limit: int,
    device: str,
    as_json: bool,
) -> None:
    """List the splats nearest to what the model expects after TEXT, to a token, or to a splat.

    TEXT and --token need the model: PATH is then a run folder or a checkpoint.
    """
    import json

    from ebm_wgpu.errors import ConfigError
    from ebm_wgpu.splats.inspection import nearest

    if (text is not None) + (token is not None) + (splat is not None) != 1:
        raise ConfigError("give one thing to look around: a TEXT, --token, or --splat")
    found = _splat_files.find_splats(path)
    with found.open() as file, _splat_files.progress(len(file), "searching") as advance:
        query = file.rows([splat]) if splat is not None else _query(found, text, token, device)
        result = nearest(file, query, min(limit, len(file)), on_rows=advance)
        rows = _near(found, file, result)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    _print_rows(rows)


def _query(found: SplatPath, text: str | None, token: str | None, device: str) -> Any:
    """The direction of a text or of a token."""
    import torch

    from ebm_wgpu.errors import ConfigError

    from ._embedding import open_embedder

    if found.checkpoint is None:
        raise ConfigError(
            f"{found.file} alone has no model that could place a text or a token: give the run "
            "folder, or --splat"
        )
    embedder = open_embedder(found.checkpoint, device)
    if text is not None:
        return embedder.embed([text]).direction
    chosen = found.token_id(str(token))
    if chosen >= embedder.model.vocab_size:
        raise ConfigError(
            f"--token {chosen}: the vocabulary has ids 0 to {embedder.model.vocab_size - 1}"
        )
    with torch.no_grad():
        return embedder.model.token_latents(torch.tensor([chosen])).numpy()
