"""Metrics in TensorBoard or Weights & Biases, which are imported when a run asks for them."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ebm_wgpu.errors import ConfigError
from ebm_wgpu.training.alerts import Alert
from ebm_wgpu.training.callbacks import StepEvent, TrainerCallback, TrainResult
from ebm_wgpu.training.run_folder import TENSORBOARD_FOLDER

Report = Literal["none", "tensorboard", "wandb"]


def open_reports(report: Report, run: Path) -> list[TrainerCallback]:
    """The callbacks that report as train.report says: one, or none.

    Args:
        report: where to.
        run: the run folder; files of the reports go below it.

    Raises:
        ConfigError: the package is not installed.
    """
    if report == "none":
        return []
    return [TensorBoardReport(run)] if report == "tensorboard" else [WandbReport(run)]


def scalars(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a line of metrics, with names such as "splats/active"; null ones left out."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "step":
            yield f"{prefix}{name}", float(value)
        elif name == "score_matching":
            for level in value:
                yield from scalars(level, f"{prefix}{name}/{level['kappa']:g}/")


class TensorBoardReport(TrainerCallback):
    """Writes event files for TensorBoard to `TENSORBOARD_FOLDER` in the run folder."""

    def __init__(self, run: Path) -> None:
        self._folder = run / TENSORBOARD_FOLDER
        self._writer_class = _require("tensorboard", "torch.utils.tensorboard").SummaryWriter
        self._writer: Any = None

    def on_step(self, event: StepEvent) -> None:
        """Write a line of metrics."""
        if event.record is None:
            return
        if self._writer is None:
            # What an earlier process wrote beyond the checkpoint it is resumed from is hidden.
            self._writer = self._writer_class(str(self._folder), purge_step=event.step)
        for name, value in scalars(event.record):
            self._writer.add_scalar(name, value, event.step)

    def on_alert(self, alert: Alert) -> None:
        """Write an alert as text."""
        if self._writer is not None:
            self._writer.add_text(f"alerts/{alert.name}", alert.line, alert.step)

    def on_end(self, result: TrainResult) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()


class WandbReport(TrainerCallback):
    """Logs to Weights & Biases, as project "ebm-wgpu" and the run folder's name.

    A resumed run goes on as the same one: its id is the name and a digest of the folder's path.
    WANDB_MODE=offline keeps everything on this machine.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._wandb = _require("wandb", "wandb")
        self._session: Any = None

    def on_step(self, event: StepEvent) -> None:
        """Log a line of metrics."""
        if event.record is None:
            return
        if self._session is None:
            path = self._run.resolve()
            digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
            self._session = self._wandb.init(
                project="ebm-wgpu",
                id=f"{path.name}-{digest}",
                name=path.name,
                dir=str(self._run),
                resume="allow",
            )
        self._session.log(dict(scalars(event.record)), step=event.step)

    def on_alert(self, alert: Alert) -> None:
        """Send an alert."""
        if self._session is not None:
            self._session.alert(title=alert.name, text=alert.line)

    def on_end(self, result: TrainResult) -> None:
        """Finish the session."""
        if self._session is not None:
            self._session.finish()


def _require(extra: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"train.report={extra} needs a package that is not installed ({error.name}): "
            f"pip install 'ebm-wgpu[{extra}]', or use train.report=none"
        ) from error
