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

think_steps = click.option(
    "--think-steps", type=int, help="Refinement steps, for models that think. [as trained]"
)

think_best_of = click.option(
    "--think-best-of",
    type=int,
    help="Starts of a prediction, of which the lowest energy counts, for models that think from "
    "noise. [1]",
)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
