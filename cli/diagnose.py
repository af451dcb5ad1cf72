"""`ebm diagnose`: how a run is doing, what is wrong with it, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import _options

if TYPE_CHECKING:
    from ebm_wgpu.diagnosis.diagnose import Diagnosis


@click.command("diagnose")
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--all", "every", is_flag=True, help="Every run below a folder, CHECKPOINT or runs/.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a report with plots here as well, one HTML file that needs no network.",
)
@_options.model
@_options.as_json
def command(
    checkpoint: Path | None, every: bool, report: Path | None, family: str | None, as_json: bool
) -> None:
    """Judge a run by its metrics, checkpoints and splats.

    CHECKPOINT is a run folder, or one of its checkpoints, up to which the run then counts; without
    it the newest run is taken. Quality is excellent, good, fair or bad; the trend is converging,
    stable, needs attention or diverging.
    """
    import json

    from rich.console import Console
    from rich.progress import Progress

    from ebm_wgpu.diagnosis.diagnose import Diagnosis, diagnose, diagnose_all
    from ebm_wgpu.diagnosis.tables import OVERVIEW_HEAD, overview_row

    from ._runs import RUNS, check_family, find_run
    from ._tables import aligned

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading checkpoints", total=None)
        if every:
            check_family(family)
            results = diagnose_all(
                checkpoint or RUNS,
                lambda done, total: progress.update(task, completed=done, total=total),
                family,
            )
        else:
            results = [diagnose(find_run(checkpoint, family))]
        if report is not None:
            from ebm_wgpu.reports.files import write_report
            from ebm_wgpu.reports.html import diagnosis_html

            progress.update(task, description="drawing", total=None)
            write_report(report, diagnosis_html(results).encode())
    if as_json:
        summaries = [result.summary() for result in results]
        click.echo(json.dumps(summaries if every else summaries[0], indent=1, allow_nan=False))
    elif every:
        for line in aligned(OVERVIEW_HEAD, [overview_row(result) for result in results]):
            click.echo(line)
    else:
        for result in results:
            if isinstance(result, Diagnosis):
                _show(result)
    if report is not None:
        click.echo(f"report written to {report}", err=as_json)


def _show(diagnosis: Diagnosis) -> None:
    from ebm_wgpu.diagnosis.tables import CHECKPOINT_HEAD, checkpoint_rows, headline

    from ._tables import aligned

    verdict, checkpoints = diagnosis.verdict, diagnosis.evidence.checkpoints
    click.echo(diagnosis.evidence.path)
    click.echo(headline(diagnosis))
    click.echo(f"verdict: {verdict.quality}, {verdict.trend}")
    for reason in verdict.reasons:
        click.echo(f"  {reason}")
    for finding in diagnosis.findings:
        click.echo(f"\n{finding.severity}: {finding.name}")
        click.echo(f"  {finding.evidence}")
        click.echo(f"  likely cause: {finding.cause}")
        click.echo(f"  remedy: {finding.remedy}")
    if not diagnosis.findings:
        click.echo("\nnothing to complain of")
    if raised := diagnosis.alerts_raised:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(raised.items()))
        click.echo(f"\nalerts raised while training: {counts}")
    if checkpoints:
        click.echo("")
        for line in aligned(CHECKPOINT_HEAD, checkpoint_rows(checkpoints)):
            click.echo(line)
