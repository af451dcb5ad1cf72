"""Train a preset on WikiText-2 for a fixed time and score the whole validation text."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _common import Claim, parse_arguments, print_table, write_result

from ebm_wgpu.kernels import KernelDevice, open_device
from ebm_wgpu.training.loading import LoadedRun, load_run


def ebm(*arguments: object) -> str:
    """Run the installed command; its output."""
    command = [str(Path(sys.executable).with_name("ebm")), *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def train(run: Path, arguments: Any) -> None:
    """Train --preset on WikiText-2 for --minutes on --device."""
    ebm(
        "train", "--config", arguments.preset, "--dataset", "wikitext-2", "--run", run,
        "--device", arguments.device, f"train.max_minutes={arguments.minutes}",
    )  # fmt: skip


def given_or_trained(arguments: Any, device: KernelDevice) -> LoadedRun:
    """The run --run, or one that `train` makes for the time being if none is given."""
    if arguments.run:
        return load_run(arguments.run, device)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        train(run, arguments)
        return load_run(run, device)


def main() -> None:
    arguments = parse_arguments(
        "language_model", __doc__, preset="nano", minutes=3.0, device="numba"
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        train(run, arguments)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        scored = json.loads(
            ebm("evaluate", "--checkpoint", run, "--device", arguments.device, "--json")
        )
    before = lines[0]["valid"]
    row = {
        "preset": arguments.preset,
        "minutes": arguments.minutes,
        "steps": scored["step"],
        "perplexity per word": scored["word_perplexity"],
        "per token": scored["token_perplexity"],
        "bits per byte": scored["bits_per_byte"],
        "per token, before": before["token_perplexity"],
    }
    device = open_device(arguments.device)
    print_table(f"WikiText-2 validation, {device.description}", [row])
    setting = {name: scored[name] for name in ("context", "stride", "latent", "draws", "n_words")}
    claim = Claim(
        "validation perplexity per token, before over after (first tokens)",
        before["token_perplexity"] / lines[-1]["valid"]["token_perplexity"],
        2,
    )
    payload = {"rows": [row], "setting": setting}
    write_result("language_model", payload, device, claims=[claim], output=arguments.output)


if __name__ == "__main__":
    main()
