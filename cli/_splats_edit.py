"""`ebm splats merge`, `prune` and `diff`: stores made of stores, and what sets two apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import _options, _splat_files

if TYPE_CHECKING:
    from ebm_wgpu.splats.editing import Difference

    from ._splat_files import SplatPath

_SORTS = ("angle", "weight", "kappa", "usage")


@click.command("merge")
@click.argument("one", type=click.Path(exists=True, path_type=Path))
@click.argument("other", type=click.Path(exists=True, path_type=Path))
@_splat_files.output("HDF5 file to write.")
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of ONE in the weights. [in proportion to the numbers of splats]",
)
@_splat_files.force
def merge(one: Path, other: Path, output: Path, share: float | None, force: bool) -> None:
    """Put the splats of ONE and OTHER into one file, as a mixture of the two densities."""
    from ebm_wgpu.splats import editing

    _splat_files.check_output(output, force)
    first, second = _splat_files.find_splats(one), _splat_files.find_splats(other)
    _check_tokenizers(first, second)
    with first.open() as left, second.open() as right:
        total = len(left) + len(right)
        with _splat_files.progress(total, "merging") as advance:
            columns = editing.merge(left, right, output, share=share, on_rows=advance)
        part = len(left) / total if share is None else share
        click.echo(
            f"{output}: {len(left):,} and {len(right):,} splats, {len(columns):,} in all, the "
            f"first with {part:.1%} of the weight"
        )


def _check_tokenizers(one: SplatPath, other: SplatPath) -> None:
    """Refuse splats whose token ids mean different tokens, as far as that is known."""
    from ebm_wgpu.errors import ConfigError

    if one.tokenizer is None or other.tokenizer is None:
        return
    if one.tokenizer.fingerprint != other.tokenizer.fingerprint:
        raise ConfigError(
            f"{one.file} and {other.file} belong to runs with different tokenizers: their token "
            "ids mean different tokens"
        )


@click.command("prune")
@_splat_files.path_argument
@click.option(
    "--rule",
    required=True,
    help="Which splats go, such as 'usage < 1e-6 and age > 100'. Fields: index, token, alpha, "
    "weight, kappa, usage, age; + - * /, comparisons, and, or, not; min, max, mean, median, "
    "quantile(field, q), log, abs.",
)
@_splat_files.output("HDF5 file to write.", required=False)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@_splat_files.force
def prune(path: Path, rule: str, output: Path | None, dry_run: bool, force: bool) -> None:
    """Write the splats to another file without those for which a rule holds."""
    import numpy as np

    from ebm_wgpu.errors import ConfigError
    from ebm_wgpu.splats import editing
    from ebm_wgpu.splats.inspection import usage_shares
    from ebm_wgpu.splats.rules import select

    if (output is None) != dry_run:
        raise ConfigError("give --output FILE to write what is left, or --dry-run to write nothing")
    if output is not None:
        _splat_files.check_output(output, force)
    found = _splat_files.find_splats(path)
    with found.open() as file, _splat_files.progress(len(file), "pruning") as advance:
        gone = select(rule, file.columns)
        if output is not None:
            editing.keep(file, ~gone, output, on_rows=advance)
        weight = float(np.exp(file.columns.log_pi)[gone].sum())
        usage = float(usage_shares(file.columns)[gone].sum())
        word = "would go" if output is None else "gone"
        click.echo(
            f"{'' if output is None else f'{output}: '}{_splat_files.counted(gone.sum(), 'splat')} "
            f"of {len(file):,} {word}, with {weight:.3%} of the weight and {usage:.3%} of the usage"
        )


@click.command("diff")
@click.argument("before", type=click.Path(exists=True, path_type=Path))
@click.argument("after", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--sort",
    type=click.Choice(_SORTS),
    default="angle",
    show_default=True,
    help="List first the splats that this changed most for.",
)
@_splat_files.limit
@_options.as_json
def diff(before: Path, after: Path, sort: str, limit: int, as_json: bool) -> None:
    """Say how splats moved from BEFORE to AFTER, two checkpoints, runs or files.

    Splats are matched by token and, within a token, by their order in the file.
    """
    import json

    from ebm_wgpu.splats.editing import compare

    first, second = _splat_files.find_splats(before), _splat_files.find_splats(after)
    _check_tokenizers(first, second)
    with first.open() as one, second.open() as other:
        with _splat_files.progress(len(one), "comparing") as advance:
            difference = compare(one, other, on_rows=advance)
        tokens = one.columns.sid[difference.before]
    record = _difference_record(difference)
    record["most_changed"] = _most_changed(first, difference, tokens, sort, limit)
    if as_json:
        click.echo(json.dumps(record, indent=1))
        return
    click.echo(
        f"{record['matched']:,} splats in both, {record['only_before']:,} only before, "
        f"{record['only_after']:,} only after"
    )
    click.echo(f"{'':16}{'least':>12}{'quarter':>12}{'median':>12}{'3 quarters':>12}{'most':>12}")
    for name, quantiles in record["quantiles"].items():
        click.echo(f"{name:16}" + "".join(f"{value:12.5g}" for value in quantiles))
    click.echo(
        f"{'before':>8} {'after':>8} {'id':>7} {'token':20} {'degrees':>9} {'log pi':>9} "
        f"{'kappa':>9} {'usage':>12}"
    )
    for row in record["most_changed"]:
        click.echo(
            f"{row['before']:8} {row['after']:8} {row['token_id']:7} {row['token']:20} "
            f"{row['angle']:9.3f} {row['weight']:+9.4f} {row['kappa']:+9.4f} {row['usage']:+12.4g}"
        )


def _changes(difference: Difference) -> dict[str, Any]:
    return {
        "angle": difference.angle,
        "weight": difference.log_weight_ratio,
        "kappa": difference.kappa_change,
        "usage": difference.usage_change,
    }


def _difference_record(difference: Difference) -> dict[str, Any]:
    import numpy as np

    from ebm_wgpu.splats.inspection import QUANTILES

    names = {
        "angle": "degrees moved",
        "weight": "log pi change",
        "kappa": "kappa change",
        "usage": "usage change",
    }
    matched = len(difference.before)
    return {
        "matched": matched,
        "only_before": len(difference.only_before),
        "only_after": len(difference.only_after),
        "quantiles": {
            names[name]: np.quantile(values, QUANTILES).tolist()
            for name, values in _changes(difference).items()
            if matched
        },
    }


def _most_changed(
    found: SplatPath, difference: Difference, tokens: Any, sort: str, limit: int
) -> list[dict[str, Any]]:
    import numpy as np

    changes = _changes(difference)
    order = np.argsort(-np.abs(changes[sort]), kind="stable")[:limit]
    return [
        {
            "before": int(difference.before[k]),
            "after": int(difference.after[k]),
            "token_id": int(tokens[k]),
            "token": found.shown(int(tokens[k])),
            **{name: float(values[k]) for name, values in changes.items()},
        }
        for k in order
    ]
