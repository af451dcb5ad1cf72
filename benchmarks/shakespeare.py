"""Tiny Shakespeare by characters at 10.7 M parameters: does a GPU reach nanoGPT's 1.47 nats?

Each preset learns through `ebm train` for --minutes, or its own number of steps if those end first,
and all of the validation text (the last tenth) is scored with its best checkpoint, each character
once: in blocks of 256 without anything before a block, as nanoGPT scores, which the claims go by,
and after at least half a block. NanoEBM is scored with System 2 as trained, with a spectral step in
place of the learned one, and with System 1 of the same weights. nanoGPT's GPU setting, a
transformer of the same shape trained for 5,000 steps, reports 1.4697. The result file is written
after each preset. Runs that --runs holds already go on where they are. With --device auto nothing
is trained where there is no hardware GPU: a processor takes hours, most of them saved by
train.precision=bfloat16 where it has products of that type.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _common import (
    Claim,
    hardware_name,
    parse_arguments,
    print_table,
    usable_cores,
    write_result,
)
from _training import EBM_TRAIN, train_in_turns, trained_seconds

from ebm_wgpu.config import apply_overrides
from ebm_wgpu.evaluation.perplexity import evaluate_perplexity, perplexity_of
from ebm_wgpu.kernels import KernelDevice, open_device
from ebm_wgpu.training.loading import LoadedRun, load_run
from ebm_wgpu.training.run_data import RunData
from ebm_wgpu.training.run_folder import RunFolder

PRESETS = "shakespeare-10m,shakespeare-10m-nano"
TARGET = 1.47
ALONE, SYSTEM_2 = "System 1", "System 2"
WAYS: dict[str, dict[str, Any]] = {
    SYSTEM_2: {},
    "System 2, spectral step": {"step_rule": "spectral"},
    ALONE: {"steps": 0},
}
"""What a model that thinks is told before it is scored; as trained first."""


def train(preset: str, run: Path, arguments: Any) -> float:
    """Train a preset, or go on with its run; the seconds of training by the run's own clock."""
    if RunFolder(run).exists():
        words = [*EBM_TRAIN, "--resume", "--run", str(run)]
    else:
        words = [
            *EBM_TRAIN, "--config", preset, "--run", str(run), "--device", arguments.device,
            f"train.max_minutes={arguments.minutes}", f"train.seed={arguments.seed}",
            *arguments.overrides.split(),
        ]  # fmt: skip
    train_in_turns({run: words}, arguments.minutes, arguments.threads)
    return trained_seconds(run)


def loss(run: LoadedRun, stride: int, n_tokens: int) -> tuple[float, int]:
    """Validation loss, nats a character, with windows `stride` apart, and characters scored."""
    config = apply_overrides(run.config, [f"data.eval_stride={stride}"])
    text, _ = RunData.load(config, run.tokenizer).valid_prefix(n_tokens or None)
    report = evaluate_perplexity(run.model, text, config, start_id=run.tokenizer.start_id)
    return report.nll_per_token, report.n_tokens


def score(preset: str, run: LoadedRun, seconds: float, n_tokens: int) -> list[dict[str, Any]]:
    """A row for each way a preset predicts: one, or all `WAYS` where it thinks."""
    rows = []
    block = run.config.data.eval_context
    thinks = run.config.model.family == "nano" and run.config.nano.think_steps > 0
    for way, options in WAYS.items() if thinks else [(ALONE, {})]:
        if options:
            run.model.think(**options)
        begin = time.perf_counter()
        blocks, count = loss(run, block, n_tokens)
        overlapping, _ = loss(run, block // 2, n_tokens)
        rows.append(
            {
                "preset": preset,
                "predicts by": way,
                "parameters": run.model.n_parameters(),
                "steps": run.step,
                "train s": seconds,
                "loss, blocks": blocks,
                "loss, half a block before": overlapping,
                "perplexity": perplexity_of(blocks),
                "characters": count,
                "score s": time.perf_counter() - begin,
            }
        )
    return rows


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """What the rows prove or refute; what was not trained is left out."""
    losses = {(row["preset"], row["predicts by"]): row["loss, blocks"] for row in rows}
    found = []
    for preset in dict.fromkeys(row["preset"] for row in rows):
        own = losses.get((preset, SYSTEM_2), losses[preset, ALONE])
        found.append(Claim(f"{preset}, validation loss", own, TARGET, "nats", at_most=True))
        if (preset, SYSTEM_2) in losses:
            gain = losses[preset, SYSTEM_2] - losses[preset, ALONE]
            what = f"{preset}, System 2 minus System 1 of the same weights"
            found.append(Claim(what, gain, 0.0, "nats", at_most=True))
    return found


def run_preset(
    preset: str, folder: Path, device: KernelDevice, arguments: Any
) -> list[dict[str, Any]]:
    """Train and score a preset."""
    seconds = train(preset, folder / preset, arguments)
    return score(preset, load_run(folder / preset, device), seconds, arguments.tokens)


def main() -> None:
    arguments = parse_arguments(
        "shakespeare",
        __doc__,
        presets=PRESETS,
        minutes=30.0,
        device="auto",
        threads=usable_cores(),
        tokens=0,
        seed=0,
        runs="",
        overrides="",
    )
    torch.set_num_threads(arguments.threads)
    device = open_device(arguments.device)
    if arguments.device == "auto" and device.name == "numba":
        print("no hardware GPU: --device numba trains on the processor all the same")
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.runs or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for preset in arguments.presets.split(","):
            rows += run_preset(preset, folder, device, arguments)
            print_table(
                f"validation loss, nats a character; {arguments.minutes:g} minutes each, "
                f"{hardware_name(device, arguments.threads)}",
                rows,
            )
            settings = {key: value for key, value in vars(arguments).items() if key != "output"}
            payload = {"settings": settings, "rows": rows}
            found = claims(rows)
            write_result("shakespeare", payload, device, claims=found, output=arguments.output)


if __name__ == "__main__":
    main()
