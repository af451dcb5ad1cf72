"""Options that several commands share."""

from __future__ import annotations

import click

device = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|wgpu|vulkan|numba|cpu",
    help="Where kernels run: auto takes a hardware GPU if there is one and Numba otherwise.",
)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
