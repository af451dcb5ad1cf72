"""`ebm splats`: look into the splats of a run, a checkpoint or an HDF5 file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import _options

if TYPE_CHECKING:
    from ebm_wgpu.splats.store import SplatStore
    from ebm_wgpu.text.tokenizer_base import TextTokenizer

_SORTS: Mapping[str, Callable[[SplatStore], Any]] = {
    "usage": lambda store: -store.frequency,
    "weight": lambda store: -store.alpha,
    "kappa": lambda store: -store.kappa,
    "age": lambda store: -store.age,
    "index": lambda store: store.age * 0,
}


def _open(path: Path) -> tuple[Path, SplatStore, TextTokenizer | None]:
    """The splat file that a path means, its splats, and the tokenizer of its run if it has one."""
    from ebm_wgpu.splats.store import SplatStore
    from ebm_wgpu.training.checkpoints import SPLATS_FILE
    from ebm_wgpu.training.run_folder import RunFolder

    if path.is_file():
        return path, SplatStore.load(path), None
    run, step = RunFolder.locate(path)
    file = run.checkpoint_path("last" if step is None else step) / SPLATS_FILE
    return file, SplatStore.load(file), run.read_tokenizer()


def _token_text(tokenizer: TextTokenizer | None, token: int) -> str:
    return "" if tokenizer is None else repr(tokenizer.decode([token]))


@click.group("splats")
def command() -> None:
    """Inspect splats: PATH is a run folder, a checkpoint in one, or a splats.h5 file."""


@command.command("info")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@_options.as_json
def info(path: Path, as_json: bool) -> None:
    """Print how many splats there are and how weights, kappa, usage and age are spread."""
    import json

    import numpy as np

    file, store, _ = _open(path)
    pi = store.alpha / store.alpha.sum(dtype=np.float64)
    spreads = {
        "alpha": store.alpha,
        "kappa": store.kappa,
        "usage": store.frequency,
        "age": store.age,
    }
    record: dict[str, Any] = {
        "file": str(file),
        "bytes": file.stat().st_size,
        "splats": len(store),
        "dimension": store.dimension,
        "tokens": int(np.unique(store.sid).size),
        "effective_splats": float(np.exp(-np.sum(pi * np.log(pi)))),
        "kappa_range": list(store.kappa_range),
        "history": 0 if store.history is None else len(store.history),
        "quantiles": {
            name: np.quantile(np.asarray(values, np.float64), [0, 0.25, 0.5, 0.75, 1]).tolist()
            for name, values in spreads.items()
        },
    }
    if as_json:
        click.echo(json.dumps(record, indent=1))
        return
    click.echo(f"{file} ({record['bytes']:,} bytes)")
    click.echo(
        f"{len(store):,} splats on S^{store.dimension - 1}, ids of {record['tokens']:,} tokens, "
        f"{record['effective_splats']:,.1f} effective (exp of the entropy of the weights), "
        f"{record['history']:,} states in the history"
    )
    click.echo(f"{'':8}{'least':>12}{'quarter':>12}{'median':>12}{'3 quarters':>12}{'most':>12}")
    for name in spreads:
        row = "".join(f"{value:12.5g}" for value in record["quantiles"][name])
        click.echo(f"{name:8}{row}")


@command.command("list")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--sort", type=click.Choice(list(_SORTS)), default="usage", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--token", type=int, help="Only splats of this token id.")
@_options.as_json
def list_splats(path: Path, sort: str, limit: int, token: int | None, as_json: bool) -> None:
    """List splats, the most used first."""
    import json

    import numpy as np

    _, store, tokenizer = _open(path)
    order = np.argsort(_SORTS[sort](store), kind="stable")
    if token is not None:
        order = order[store.sid[order] == token]
    usage = store.frequency / max(store.frequency.sum(), 1e-300)
    rows = [
        {
            "splat": int(k),
            "token_id": int(store.sid[k]),
            "token": _token_text(tokenizer, int(store.sid[k])),
            "usage": float(store.frequency[k]),
            "share": float(usage[k]),
            "alpha": float(store.alpha[k]),
            "kappa": float(store.kappa[k]),
            "age": int(store.age[k]),
        }
        for k in order[:limit]
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    click.echo(
        f"{'splat':>8} {'id':>7} {'token':20} {'usage':>12} {'share':>8} {'alpha':>10} "
        f"{'kappa':>8} {'age':>8}"
    )
    for row in rows:
        click.echo(
            f"{row['splat']:8} {row['token_id']:7} {row['token']:20} {row['usage']:12.5g} "
            f"{row['share']:8.2%} {row['alpha']:10.4g} {row['kappa']:8.3f} {row['age']:8}"
        )
