"""`ebm splats`: look into, draw, export and edit the splats of a run, a checkpoint or a file."""

from __future__ import annotations

import click

from . import _splats_edit, _splats_inspect, _splats_plot, _splats_tables


@click.group("splats")
def command() -> None:
    """Inspect splats: PATH is a run folder, a checkpoint in one, or a splats.h5 file.

    Files of any size are read block by block, in little memory.
    """


for _part in (
    _splats_inspect.info,
    _splats_inspect.list_splats,
    _splats_inspect.show,
    _splats_inspect.neighbors,
    _splats_plot.plot,
    _splats_tables.export,
    _splats_tables.import_splats,
    _splats_edit.merge,
    _splats_edit.prune,
    _splats_edit.diff,
):
    command.add_command(_part)
