"""Draw the live view of a finished run, from its metrics, as docs/training_view.svg.

    python docs/training_view.py RUN [FILE.svg] [--lines N]

RUN is a run folder. What is drawn is what `ebm train` showed after N lines of its metrics (all).
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from rich.console import Console

from ebm_wgpu.cli._dashboard import Dashboard, View
from ebm_wgpu.kernels import open_device
from ebm_wgpu.training.alerts import AlertWatch
from ebm_wgpu.training.callbacks import StartEvent, StepEvent
from ebm_wgpu.training.loading import load_run
from ebm_wgpu.training.run_folder import RunFolder

WIDTH = 132
DEFAULT = Path(__file__).with_suffix(".svg")


def view_of(folder: Path, lines: int | None) -> View:
    """The live view after the first `lines` lines of the metrics of a run."""
    run = RunFolder(folder)
    train = run.read_config().train
    model = load_run(folder, open_device("numba")).model
    view, watch = View(folder.name), AlertWatch()
    seconds = None if train.max_minutes is None else 60 * train.max_minutes
    view.start = StartEvent(0, train.steps, 0.0, seconds, model.n_parameters(), 0, 0, "")
    for record in run.read_metrics()[:lines]:
        view.alerts.extend(watch.update(record))
        if "valid" in record:
            view.take_scores(record["step"], record["valid"])
        if "loss" not in record:
            continue
        known = ("lr", "elapsed", "tokens_per_second", "step")
        parts = {
            name: value
            for name, value in record.items()
            if isinstance(value, float) and name not in known
        }
        view.take(
            StepEvent(
                record["step"],
                record["elapsed"],
                record["loss"],
                parts,
                record["lr"],
                record["tokens_per_second"],
                record,
                tuple(watch.active.values()),
            )
        )
    return view


def main() -> None:
    """Read the arguments and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path, nargs="?", default=DEFAULT)
    parser.add_argument("--lines", type=int)
    arguments = parser.parse_args()
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Dashboard(view_of(arguments.run, arguments.lines)))
    arguments.file.parent.mkdir(exist_ok=True)
    console.save_svg(str(arguments.file), title="ebm train")


if __name__ == "__main__":
    main()
