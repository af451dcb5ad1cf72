"""`ebm consolidate`: the states of a trained run become its stored splats."""

from __future__ import annotations

from pathlib import Path

import click

from . import _options


@click.command("consolidate")
@click.argument("overrides", nargs=-1, metavar="[SECTION.NAME=VALUE]...")
@click.option("--run", type=click.Path(path_type=Path), help="Folder of the run. [newest run]")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Time for it. [all]")
@_options.device
@_options.as_json
def command(
    overrides: tuple[str, ...], run: Path | None, minutes: float | None, device: str, as_json: bool
) -> None:
    """Turn training states of a run into stored splats, and write its next checkpoint.

    The run must have model.family=splat and model.context=transformer, and have held out training
    text (data.heldout_tokens), by which the gate to the splats is fitted. Options memory.* and
    model.n_splats may be changed for this and from then on.
    """
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress

    from ebm_wgpu.kernels import open_device
    from ebm_wgpu.training.run_consolidation import consolidate_run

    from ._runs import find_run

    folder = find_run(run)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("training states", total=None)
        report = consolidate_run(
            folder,
            open_device(device),
            None if minutes is None else 60 * minutes,
            lambda read: progress.update(task, completed=read),
            overrides,
        )
    if as_json:
        click.echo(json.dumps({"run": str(folder), **asdict(report)}, indent=1))
        return
    click.echo(
        f"{report.states:,} training states, {report.splats:,} splats kept in {folder}, "
        f"{report.seconds:.0f} s"
    )
    click.echo(
        f"new splats a state: {report.rounds[0].rate:.3f} at first, "
        f"{report.rounds[-1].rate:.3f} at last"
    )
    click.echo(f"held-out text gains {report.gain:.4f} nats a token")
    search = report.search
    fewer = "" if search.gain is None else f", {search.gain:.1f} times fewer products than all"
    click.echo(
        f"search of the {search.neighbours} nearest: recall {search.recall:.4f} "
        f"± {search.recall_error:.4f}{fewer}"
    )
    click.echo(
        f"weight of the splats not found: {search.dropped_mass:.4f}, of those beyond the nearest "
        f"{search.neighbours}: {search.dropped_by_exact:.4f}"
    )
