"""What each splat preset costs: parameters, tokens a second in training, and peak memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import numpy as np
from _common import median, parse_arguments, print_table, seconds, write_result

from ebm_wgpu.config import apply_overrides
from ebm_wgpu.kernels import open_device
from ebm_wgpu.presets import preset

STEPS = 2
WINDOWS = {"nano": 16, "prototype": 16, "small": 4, "medium": 2, "base": 1}
"""Windows of a step, by splat preset; production is base in its last phase."""


def measure(name: str, device_name: str, windows: int) -> dict[str, float | str]:
    """Cost of `windows` training windows of a preset, gradients and optimiser step included."""
    import torch

    from ebm_wgpu.models.registry import build_model
    from ebm_wgpu.training.objectives import Objective
    from ebm_wgpu.training.optimizers import Optimizers

    config = apply_overrides(preset(name), ["model.splat_init=uniform"])
    device = open_device(device_name)
    vocab_size = config.data.vocab_size or 0
    model = build_model(config, vocab_size, device)
    objective, optimizers = Objective(config.train), Optimizers(model, config.train, device)
    rng = np.random.default_rng(0)

    def step() -> None:
        shape = (windows, config.data.block_size + 1)
        tokens = torch.from_numpy(rng.integers(0, vocab_size, shape)).long()
        objective(model, tokens, 0)[0].backward()
        optimizers.step(1.0)
        optimizers.zero_grad()

    step()
    times = [seconds(step) for _ in range(STEPS)]
    return {
        "preset": name,
        "dimension": config.model.dim,
        "tokens in vocabulary": vocab_size,
        "splats": config.model.n_splats,
        "million parameters": model.n_parameters() / 1e6,
        "windows": windows,
        "tokens/s": windows * config.data.block_size / median(times),
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    arguments = parse_arguments("presets", __doc__, device="numba", only="")
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.device, WINDOWS[arguments.only])))
        return
    rows = []
    # A process each, so that the peak memory is the preset's own.
    for name in WINDOWS:
        command = [sys.executable, __file__, "--only", name, "--device", arguments.device]
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}  # as the ebm command has it
        shown = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        rows.append(json.loads(shown.splitlines()[-1]))
    device = open_device(arguments.device)
    print_table(f"one training step, {device.description}", rows)
    write_result("presets", {"rows": rows}, device, output=arguments.output)


if __name__ == "__main__":
    main()
