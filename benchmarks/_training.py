"""Trainings by the ebm command, each in processes of its own, for the benchmarks that time them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ebm_wgpu.cli.train import INTERRUPTED
from ebm_wgpu.training.checkpoints import read_checkpoint
from ebm_wgpu.training.run_folder import RunFolder

EBM_TRAIN = (str(Path(sys.executable).with_name("ebm")), "train")
"""The command that trains."""
_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TOP_PAD_": str(2**28),
    "OMP_WAIT_POLICY": "ACTIVE",
}
"""Of every training here: freed memory is kept for the next step, and a thread that waits keeps its
core, which a virtual machine may get back late. (Nothing but torch computes in them; where
Numba's threads take turns with torch's, those that wait must not take the cores.)"""


def train_in_turns(commands: Mapping[Path, list[str]], turn: float, threads: int) -> None:
    """Train runs, each in processes of its own, a turn of so many minutes after the other.

    The last one that is not done, or the only one, goes on without turns.

    Raises:
        CalledProcessError: a training failed.
    """
    environment = {**os.environ, **_ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
    waiting = dict(commands)
    while waiting:
        for run, words in list(waiting.items()):
            with subprocess.Popen(words, env=environment) as process:
                try:
                    status = process.wait(None if len(waiting) == 1 else 60 * turn)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGINT)
                    status = process.wait()
                except BaseException:
                    process.kill()
                    raise
            if status == INTERRUPTED:
                waiting[run] = [*EBM_TRAIN, "--resume", "--run", str(run)]
            elif status:
                raise subprocess.CalledProcessError(status, words)
            else:
                del waiting[run]


def trained_seconds(run: Path) -> float:
    """How long a run has trained by its own clock, which goes on where it is resumed."""
    state = read_checkpoint(RunFolder(run).checkpoint_path("last")).trainer_state()
    return float(state["progress"]["elapsed"])
