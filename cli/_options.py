"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from ebm_wgpu.models.registry import FAMILIES

device = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|wgpu|vulkan|numba|cpu",
    help="Where kernels run: auto takes a hardware GPU if there is one and Numba otherwise.",
)

checkpoint = click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Run or checkpoint folder. [newest run]"
)

model = click.option(
    "--model",
    "family",
    metavar="|".join(FAMILIES),
    help="Model family: take the newest run of it, or make sure that the run named is one.",
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

think_rule = click.option(
    "--think-rule",
    type=click.Choice(["learned", "spectral"]),
    help="Size of a refinement step, for models that think: as learned, or at most as large as the "
    "curvature allows. [as trained]",
)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
