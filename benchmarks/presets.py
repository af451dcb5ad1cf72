"""What each splat preset costs: parameters, tokens a second in training, and peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from _common import median, parse_arguments, print_table, seconds, write_result

from ebm_wgpu.benchmarking import RandomStep, peak_resident_bytes
from ebm_wgpu.kernels import open_device
from ebm_wgpu.presets import preset

STEPS = 2
WINDOWS = {"nano": 16, "prototype": 16, "small": 4, "medium": 2, "base": 1}
"""Windows of a step, by splat preset; production is base in its last phase."""


def measure(name: str, device_name: str, windows: int) -> dict[str, float | str]:
    """Cost of `windows` training windows of a preset, gradients and optimiser step included."""
    config, device = preset(name), open_device(device_name)
    step = RandomStep(config, windows, device)
    step()
    times = [seconds(step) for _ in range(STEPS)]
    return {
        "preset": name,
        "dimension": config.model.dim,
        "tokens in vocabulary": step.model.vocab_size,
        "splats": config.model.n_splats,
        "million parameters": step.model.n_parameters() / 1e6,
        "windows": windows,
        "tokens/s": step.tokens / median(times),
        "peak GB": peak_resident_bytes() / 2**30,
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
