"""`ebm bench`: what training and writing cost on the devices of this machine, side by side."""

from __future__ import annotations

from typing import Any

import click

from . import _options, _tables

_HEAD = (
    *("device", "ms a step", "tokens/s", "of first", "memory", "outside kernels"),
    *("written/s", "first token", ""),
)


@click.command("bench")
@click.argument("overrides", nargs=-1, metavar="[SECTION.NAME=VALUE]...")
@click.option("--config", default="nano", show_default=True, help="Preset, or JSON file.")
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="auto|wgpu|vulkan|numba|cpu",
    help="Where to measure; may be given again, and rates are then shown beside the first. [auto]",
)
@click.option("--windows", type=int, help="Windows of text in a step. [train.batch_size]")
@click.option("--steps", type=int, default=5, show_default=True, help="Steps that are timed.")
@click.option("--tokens", type=int, default=32, show_default=True, help="Tokens to write.")
@_options.as_json
def command(
    overrides: tuple[str, ...],
    config: str,
    devices: tuple[str, ...],
    windows: int | None,
    steps: int,
    tokens: int,
    as_json: bool,
) -> None:
    """Measure training and writing with a preset, on random text and with first weights.

    Devices are measured one after the other in one run, so that their rates can be compared; a step
    is what `ebm train` does with a batch. Nothing is kept.
    """
    import json

    from ebm_wgpu.kernels import open_device
    from ebm_wgpu.presets import load_config
    from ebm_wgpu.training.placement import training_device

    chosen = load_config(config, list(overrides))
    rows = []
    for name in devices or ("auto",):
        device = training_device(open_device(name), chosen.train)
        rows.append(_measure(chosen, device, windows or chosen.train.batch_size, steps, tokens))
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    first = rows[0]
    size = f"{first['parameters']:,} parameters, {first['tokens']:,} tokens a step"
    click.echo(f"{config}: {size}, median of {steps}")
    for line in _tables.aligned(_HEAD, [_cells(row, first) for row in rows]):
        click.echo(line)


def _measure(
    config: Any, device: Any, windows: int, steps: int, tokens: int
) -> dict[str, float | str | None]:
    from ebm_wgpu.benchmarking import RandomStep, measure_step, measure_writing

    step = RandomStep(config, windows, device)
    cost = measure_step(step, device, steps)
    writing = measure_writing(step.model, config, device, tokens)
    return {
        "device": device.name,
        "description": device.description,
        "parameters": step.model.n_parameters(),
        "tokens": cost.tokens,
        "seconds": cost.seconds,
        "tokens_per_second": cost.tokens_per_second,
        "peak_bytes": cost.peak_bytes,
        "outside_kernels": cost.outside_kernels,
        "written_per_second": writing.tokens_per_second,
        "first_token_seconds": writing.first_seconds,
    }


def _cells(row: dict[str, Any], first: dict[str, Any]) -> list[str]:
    idle = row["outside_kernels"]
    alone = row is first
    return [
        row["device"],
        f"{1e3 * row['seconds']:,.1f}",
        f"{row['tokens_per_second']:,.0f}",
        "-" if alone else f"{row['tokens_per_second'] / first['tokens_per_second']:.2f}",
        f"{row['peak_bytes'] / 2**30:.2f} GB",
        "-" if idle is None else f"{idle:.0%}",
        f"{row['written_per_second']:,.1f}",
        f"{row['first_token_seconds']:.3f} s",
        row["description"],
    ]
