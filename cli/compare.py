"""`ebm compare`: runs side by side."""

from __future__ import annotations

from pathlib import Path

import click

from . import _options


@click.command("compare")
@click.argument(
    "runs", nargs=-1, required=True, metavar="RUN RUN...", type=click.Path(path_type=Path)
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw perplexity against steps and seconds: FILE.png, .svg, or .html with the table.",
)
@_options.as_json
def command(runs: tuple[Path, ...], plot: Path | None, as_json: bool) -> None:
    """Compare runs by what their metrics say, the best first.

    RUN is a run folder, or one of its checkpoints, up to which the run then counts. Perplexity is
    that of the evaluations during training; what `ebm evaluate --save` kept of the validation text,
    static and online, stands beside it. Equal time is the time that the shortest of the runs took.
    """
    import json

    from ebm_wgpu.diagnosis.comparison import compare
    from ebm_wgpu.diagnosis.tables import COMPARISON_HEAD, comparison_rows
    from ebm_wgpu.errors import ConfigError
    from ebm_wgpu.kernels import open_device

    from ._tables import aligned

    kinds = (".png", ".svg", ".html")
    if plot is not None and plot.suffix not in kinds:
        raise ConfigError(f"--plot {plot}: give a name that ends in {', '.join(kinds)}")
    comparison = compare(runs, open_device("numba"))
    if plot is not None:
        from ebm_wgpu.reports.files import write_report
        from ebm_wgpu.reports.html import comparison_html
        from ebm_wgpu.reports.plots import comparison_figure, to_png, to_svg

        if plot.suffix == ".html":
            content = comparison_html(comparison).encode()
        else:
            figure = comparison_figure(comparison.curves)
            content = to_png(figure) if plot.suffix == ".png" else to_svg(figure).encode()
        write_report(plot, content)
    if as_json:
        click.echo(json.dumps(comparison.summary(), indent=1, allow_nan=False))
        return
    for line in aligned(COMPARISON_HEAD, comparison_rows(comparison)):
        click.echo(line)
    if comparison.equal_seconds is not None:
        click.echo(f"equal time: {comparison.equal_seconds / 60:,.1f} minutes")
    for warning in comparison.warnings:
        click.echo(f"note: {warning}")
