"""`ebm train`: learn a model from text, or go on with a run."""

from __future__ import annotations

from pathlib import Path

import click

from ebm_wgpu.models.registry import FAMILIES

INTERRUPTED = 130


def _as_overrides(**given: str | None) -> list[str]:
    keys = {"dataset": "data.dataset", "model": "model.family", "device": "train.device"}
    return [f"{keys[name]}={value}" for name, value in given.items() if value is not None]


def _default_preset(overrides: list[str]) -> str:
    """The preset of the family that `overrides` choose."""
    from ebm_wgpu.config import Config

    family: str = Config().model.family
    for key, _, value in (override.partition("=") for override in overrides):
        if key.strip() == "model.family" and value in FAMILIES:
            family = value
    return FAMILIES[family].preset


@click.command("train")
@click.argument("overrides", nargs=-1, metavar="[SECTION.NAME=VALUE]...")
@click.option(
    "--config",
    "config_name",
    help="Preset, such as nano or shakespeare-nano, or JSON file. [what the family has: "
    f"{', '.join(f'{name} {family.preset}' for name, family in FAMILIES.items())}]",
)
@click.option("--dataset", help="wikitext-2, wikitext-103, shakespeare, or a path.")
@click.option("--model", metavar="|".join(FAMILIES), help="Model family.")
@click.option("--device", metavar="auto|wgpu|vulkan|numba|cpu", help="Where kernels run.")
@click.option("--run", "run_folder", type=click.Path(path_type=Path), help="Folder of the run.")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the run (without --run the newest one, with --model the newest of that).",
)
def command(
    overrides: tuple[str, ...],
    config_name: str | None,
    dataset: str | None,
    model: str | None,
    device: str | None,
    run_folder: Path | None,
    resume: bool,
) -> None:
    """Train a model and keep configuration, metrics and checkpoints in a run folder.

    Anything can be set: `ebm train --config nano train.max_minutes=3 model.n_splats=8192`. Ctrl-C
    finishes the step, writes a checkpoint and exits with status 130; --resume goes on from there.
    train.report=tensorboard or wandb shows the metrics there as well.
    """
    from datetime import datetime

    from ebm_wgpu.config import apply_overrides
    from ebm_wgpu.errors import ConfigError
    from ebm_wgpu.kernels import open_device
    from ebm_wgpu.presets import load_config
    from ebm_wgpu.training.reports import open_reports
    from ebm_wgpu.training.run_folder import RunFolder
    from ebm_wgpu.training.trainer import Trainer

    from ._progress import TrainingConsole, TrainingDisplay
    from ._runs import RUNS, find_run

    changes = [*_as_overrides(dataset=dataset, model=model, device=device), *overrides]
    if resume:
        if config_name is not None:
            raise ConfigError(
                "--resume goes on with the run's own configuration: leave out --config"
            )
        run_folder = run_folder or find_run(family=model)
        config = apply_overrides(RunFolder(run_folder).read_config(), changes)
    else:
        name = config_name or _default_preset(changes)
        config = load_config(name, changes)
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        run_folder = run_folder or RUNS / f"{Path(name).stem}-{stamp}"
    console = TrainingConsole()
    console.print(f"run folder {run_folder}", highlight=False, soft_wrap=True)
    reports = open_reports(config.train.report, run_folder)
    kernels = open_device(config.train.device)
    with TrainingDisplay(console, str(run_folder)) as display:
        trainer = Trainer(config, run_folder, kernels, [display, *reports], resume=resume)
        result = trainer.train()
    if result.reason == "interrupted":
        console.print(f"go on with: ebm train --resume --run {run_folder}", soft_wrap=True)
        raise SystemExit(INTERRUPTED)
