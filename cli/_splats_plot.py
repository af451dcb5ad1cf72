"""`ebm splats plot`: pictures of splats, and a map to explore in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import _options, _splat_files

if TYPE_CHECKING:
    from ._splat_files import SplatPath

_KINDS = ("map", "histogram", "landscape")
_COLOURS = ("usage", "weight", "kappa", "age")
_NEIGHBOUR_SAMPLE = 1000


@click.command("plot")
@_splat_files.path_argument
@click.option(
    "--kind",
    type=click.Choice(_KINDS),
    default="map",
    show_default=True,
    help="map: the splats on a plane; histogram: how their values are spread; landscape: the "
    "energy along the great circle between two texts.",
)
@_splat_files.output("Picture to write: .png, .svg or .pdf; a map also .html, to explore offline.")
@click.option(
    "--color",
    type=click.Choice(_COLOURS),
    default="usage",
    show_default=True,
    help="What colours a map.",
)
@click.option(
    "--projection",
    type=click.Choice(["pca", "umap"]),
    default="pca",
    show_default=True,
    help="How directions become points of a map; umap needs the extra of that name.",
)
@click.option(
    "--points",
    type=click.IntRange(min=3),
    default=20_000,
    show_default=True,
    help="Splats on a map at most: the most used, and a random choice of the rest.",
)
@click.option(
    "--labels", type=click.IntRange(min=0), default=80, show_default=True, help="Tokens to name."
)
@click.option("--from", "start", metavar="TEXT", help="First text of a landscape.")
@click.option("--to", "end", metavar="TEXT", help="Second text of a landscape.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of random choices.")
@_splat_files.force
@_options.device
def plot(
    path: Path,
    kind: str,
    output: Path,
    color: str,
    projection: str,
    points: int,
    labels: int,
    start: str | None,
    end: str | None,
    seed: int,
    force: bool,
    device: str,
) -> None:
    """Draw a map of the splats, histograms, or the energy landscape between two texts."""
    from ebm_wgpu.errors import ConfigError

    allowed = (".png", ".svg", ".pdf", *([".html"] if kind == "map" else []))
    if output.suffix.lower() not in allowed:
        raise ConfigError(f"{output}: unknown kind of picture: use {', '.join(allowed)}")
    if (kind == "landscape") != (start is not None and end is not None):
        raise ConfigError("a landscape lies between two texts: --kind landscape --from A --to B")
    _splat_files.check_output(output, force)
    found = _splat_files.find_splats(path)
    if kind == "map":
        _map(found, output, color, projection, points, labels, seed)
    elif kind == "histogram":
        _histogram(found, output, seed)
    else:
        _landscape(found, output, str(start), str(end), device)
    click.echo(f"{output}: {output.stat().st_size:,} bytes")


def _map(
    found: SplatPath,
    output: Path,
    color: str,
    projection: str,
    points: int,
    labels: int,
    seed: int,
) -> None:
    from ebm_wgpu.splats.splat_map import make_map

    with found.open() as file, _splat_files.progress(len(file), "reading") as advance:
        splats = make_map(
            file,
            found.name,
            method="umap" if projection == "umap" else "pca",
            points=points,
            labels=labels,
            seed=seed,
            on_rows=advance,
        )
    if output.suffix.lower() == ".html":
        from ebm_wgpu.splats.html_map import write_html_map

        write_html_map(splats, output, color)
        return
    from ebm_wgpu.splats.plots import map_figure, save_figure

    save_figure(map_figure(splats, color), output)


def _histogram(found: SplatPath, output: Path, seed: int) -> None:
    import numpy as np

    from ebm_wgpu.splats.inspection import nearest
    from ebm_wgpu.splats.plots import histograms, save_figure

    with found.open() as file, _splat_files.progress(len(file), "searching") as advance:
        count = min(_NEIGHBOUR_SAMPLE, len(file))
        sample = np.sort(np.random.default_rng(seed).choice(len(file), count, replace=False))
        angles = np.zeros(0)
        if len(file) > 1:
            near = nearest(file, file.rows(sample), 2, on_rows=advance)
            # A splat is its own nearest, unless another has the very same direction.
            angles = np.degrees(np.arccos(np.clip(near.similarities[:, 1], -1, 1)))
        save_figure(histograms(file.columns, angles), output)


def _landscape(found: SplatPath, output: Path, start: str, end: str, device: str) -> None:
    from ebm_wgpu.energy import Energy
    from ebm_wgpu.errors import ConfigError
    from ebm_wgpu.landscape import energy_between
    from ebm_wgpu.splats.plots import landscape_figure, save_figure

    from ._embedding import embedder_of, load

    if found.checkpoint is None:
        raise ConfigError(
            f"{found.file} alone has no model that could place a text: give the run folder"
        )
    run, opened = load(found.checkpoint, device)
    embedder = embedder_of(run, opened)
    latents = embedder.embed([start, end])
    store = embedder.model.to_store()
    energy = Energy.from_config(store, opened, run.config.energy)
    # The energy divides tilts by its temperature; those of texts are divided already.
    tilts = latents.tilt * run.config.energy.temperature
    landscape = energy_between(energy, *latents.direction, *tilts)
    names = [found.name(int(store.sid[k])) for k in landscape.splat]
    save_figure(landscape_figure(landscape, (start, end), names), output)
