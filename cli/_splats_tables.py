"""`ebm splats export` and `import`: splats as CSV, Parquet or NPZ, and back."""

from __future__ import annotations

from pathlib import Path

import click

from . import _splat_files


@click.command("export")
@_splat_files.path_argument
@_splat_files.output("File to write: .csv, .parquet or .npz.")
@_splat_files.force
def export(path: Path, output: Path, force: bool) -> None:
    """Write the splats to a CSV, Parquet or NPZ file, exactly; `ebm splats import` reads it.

    Tables have a row a splat, and of a run the text of each token. NPZ keeps the history too.
    """
    from functools import cache

    from ebm_wgpu.splats.export import export_splats, holds_history

    _splat_files.check_output(output, force)
    found = _splat_files.find_splats(path)
    text = None if found.tokenizer is None else cache(found.text)
    with found.open() as file, _splat_files.progress(len(file), "exporting") as advance:
        left_out = file.history_length if not holds_history(output) else 0
        export_splats(file, output, token_text=text, on_rows=advance)
        click.echo(
            f"{output}: {_splat_files.counted(len(file), 'splat')}, {output.stat().st_size:,} bytes"
        )
    if left_out:
        states = _splat_files.counted(left_out, "state")
        click.echo(f"left out: {states} of the history, which only .npz files hold")


@click.command("import")
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_splat_files.output("HDF5 file to write.")
@_splat_files.force
def import_splats(source: Path, output: Path, force: bool) -> None:
    """Make an HDF5 file of SOURCE, a .csv, .parquet or .npz file that `ebm splats export` wrote.

    The file is the exported one to the bit, but for a history that SOURCE does not hold.
    """
    from ebm_wgpu.splats import export as tables

    _splat_files.check_output(output, force)
    with _splat_files.progress(None, "importing") as advance:
        columns = tables.import_splats(source, output, on_rows=advance)
    click.echo(
        f"{output}: {_splat_files.counted(len(columns), 'splat')} of dimension "
        f"{columns.dimension}, {output.stat().st_size:,} bytes"
    )
