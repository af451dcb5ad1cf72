"""The `ebm` command: one click command a file, found by its name and loaded when it is needed.

The command `verify-kernels` is `command` in `verify_kernels.py`. Command modules import click and
the standard library at the top and everything else inside the command: `ebm --help` stays quick.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import click

from ebm_wgpu import __version__
from ebm_wgpu.errors import EbmError

# torch and Numba each keep a team of OpenMP threads. A team that waits must sleep, not spin, or it
# takes the cores from the other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class LazyGroup(click.Group):
    """A group whose commands are the public modules beside this file."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, sorted."""
        here = Path(__file__).parent
        stems = (path.stem for path in here.glob("*.py"))
        return sorted(stem.replace("_", "-") for stem in stems if not stem.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command, or None if there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name.replace('-', '_')}")
        return module.command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a user's error becomes one line and exit status 1."""
        try:
            return super().invoke(ctx)
        except EbmError as error:
            raise click.ClickException(" ".join(str(error).split())) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ebm")
def main() -> None:
    """Energy-based language models on the unit sphere, with WGSL compute kernels."""
