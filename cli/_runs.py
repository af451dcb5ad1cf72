"""Where runs are kept unless the user says otherwise, and which of them a command is about."""

from __future__ import annotations

from pathlib import Path

from ebm_wgpu.errors import CheckpointError, ConfigError
from ebm_wgpu.models.registry import FAMILIES

RUNS = Path("runs")


def find_run(path: Path | None = None, family: str | None = None, folder: Path = RUNS) -> Path:
    """The run a command is about: the one at `path`, or the one in `folder` worked on last.

    Args:
        path: run or checkpoint folder that was named, or none.
        family: what the run's model.family must be, where that was said.
        folder: where runs are.

    Raises:
        CheckpointError: there is no such run, or the one at `path` is of another family.
        ConfigError: there is no such family.
    """
    check_family(family)
    if path is None:
        return _newest(folder, family)
    if family is not None and (found := run_family(path)) != family:
        raise CheckpointError(
            f"{path} is a run of model.family={found}, not {family}: leave out --model, or name a "
            f"run of {family}"
        )
    return path


def check_family(family: str | None) -> None:
    """Make sure that `family`, if it was said, is one.

    Raises:
        ConfigError: it is not.
    """
    if family is not None and family not in FAMILIES:
        raise ConfigError(f"model.family={family} must be one of {', '.join(FAMILIES)}")


def run_family(path: Path) -> str:
    """model.family of the run at `path`, or that has the checkpoint there.

    Raises:
        CheckpointError: there is no run, or its configuration cannot be read.
    """
    from ebm_wgpu.training.run_folder import RunFolder

    run, _ = RunFolder.locate(path)
    return run.read_config().model.family


def _newest(folder: Path, family: str | None) -> Path:
    runs = [config.parent for config in folder.glob("*/config.json")]
    for run in sorted(runs, key=_last_touched, reverse=True):
        if family is None or _is_of(run, family):
            return run
    if not runs or family is None:
        raise CheckpointError(f"{folder}/ holds no run: train a model first, or name its folder")
    raise CheckpointError(
        f"{folder}/ holds no run of model.family={family}: train one with ebm train --model "
        f"{family}, or name its folder"
    )


def _is_of(run: Path, family: str) -> bool:
    """Whether a run is of a family; one that cannot be read is of none."""
    try:
        return run_family(run) == family
    except CheckpointError:
        return False


def _last_touched(run: Path) -> float:
    files = (run / "train.log", run / "config.json")
    return max(file.stat().st_mtime for file in files if file.exists())
