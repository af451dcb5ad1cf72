"""Where runs are kept unless the user says otherwise."""

from __future__ import annotations

from pathlib import Path

from ebm_wgpu.errors import CheckpointError

RUNS = Path("runs")


def newest_run(folder: Path = RUNS) -> Path:
    """The run in `folder` that was worked on last.

    Raises:
        CheckpointError: `folder` holds no run.
    """
    runs = [config.parent for config in folder.glob("*/config.json")]
    if not runs:
        raise CheckpointError(f"{folder}/ holds no run: train a model first, or name its folder")
    return max(runs, key=_last_touched)


def _last_touched(run: Path) -> float:
    files = (run / "train.log", run / "config.json")
    return max(file.stat().st_mtime for file in files if file.exists())
