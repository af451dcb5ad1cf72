"""Training steps on wgpu beside torch's own devices: tokens/s, memory, time outside kernels.

A step is what `ebm train` does with random tokens: forward, backward, clipping, optimiser. Each
preset takes its steps on each device in a process of its own: wgpu, the processor, and CUDA where
torch has it and the family is made of torch operators alone. "outside kernels" is the share of the
wall-clock time of a wgpu step in which the adapter ran nothing, by its own timestamps: what
launching costs. Memory is the most that tensors took at once (wgpu, CUDA) or the most the whole
process took (processor).

On a software adapter each preset keeps its family and its place among the sizes, and is tiny.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from _common import (
    FULL_SETTING,
    SMALL_SETTING,
    Claim,
    median,
    parse_arguments,
    print_table,
    seconds,
    write_result,
)

from ebm_wgpu.benchmarking import WARM_UP, RandomStep, outside_kernels, peak_resident_bytes
from ebm_wgpu.config import Config, apply_overrides
from ebm_wgpu.errors import DeviceError
from ebm_wgpu.kernels import open_device
from ebm_wgpu.kernels.device import WgpuDevice
from ebm_wgpu.presets import preset
from ebm_wgpu.training.placement import training_device

WINDOWS = {
    "transformer-small": 32,
    "transformer-medium": 16,
    "transformer-large": 8,
    "nano": 32,
    "small": 16,
    "base": 4,
}
"""Windows of a step, by preset."""
TINY = (
    *("data.vocab_size=257", "data.block_size=32", "data.eval_context=32", "data.eval_stride=16"),
    *("transformer.n_layers=2", "transformer.n_heads=2", "model.n_splats=64"),
    *("model.expert_hidden=32", "energy.n_neighbours=32", "sampler.list_size=32"),
)
TINY_DIMS = {
    "transformer-small": "transformer.dim=32",
    "transformer-medium": "transformer.dim=48",
    "transformer-large": "transformer.dim=64",
    "nano": "model.dim=16",
    "small": "model.dim=24",
    "base": "model.dim=32",
}
TINY_WINDOWS = 2
OUTSIDE_TARGET = 0.15
SHARE_TARGET = 0.5


def configuration(name: str, tiny: bool) -> Config:
    """A preset that starts from random splats, so that no corpus is read; small if asked for."""
    known = apply_overrides(preset(name), ["model.splat_init=uniform", "train.precision=float32"])
    if not tiny:
        return known
    return apply_overrides(known, [*TINY, TINY_DIMS[name]])


def measure(name: str, where: str, tiny: bool, repeats: int) -> dict[str, Any]:
    """Cost of a training step of a preset on "wgpu", "cpu" or "cuda"."""
    config = configuration(name, tiny)
    windows = TINY_WINDOWS if tiny else WINDOWS[name]
    device = training_device(open_device("wgpu" if where == "wgpu" else "numba"), config.train)
    step = RandomStep(config, windows, device, torch.device(where))
    synchronize: Callable[[], object] = lambda: None  # noqa: E731
    if where == "cuda":
        synchronize = torch.cuda.synchronize
    elif isinstance(device, WgpuDevice):
        synchronize = device.synchronize

    def whole() -> None:
        step()
        synchronize()

    for _ in range(WARM_UP):
        whole()
    if where == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif isinstance(device, WgpuDevice):
        device.runtime.pool.reset_peak()
    times = [seconds(whole) for _ in range(repeats)]
    row: dict[str, Any] = {
        "preset": name,
        "device": where,
        "million parameters": step.model.n_parameters() / 1e6,
        "tokens": step.tokens,
        "ms": 1e3 * median(times),
        "tokens/s": step.tokens / median(times),
    }
    if where == "cuda":
        row["peak GB"] = torch.cuda.max_memory_allocated() / 2**30
    elif isinstance(device, WgpuDevice):
        row["peak GB"] = device.runtime.pool.peak_bytes / 2**30
        before = device.runtime.dispatches
        whole()
        row["dispatches"] = device.runtime.dispatches - before
        row["replayed"] = step.replays > 0
        if device.runtime.has_clock:
            row["outside kernels"] = outside_kernels(device, whole, repeats)
    else:
        row["peak GB"] = peak_resident_bytes() / 2**30
    return row


def in_own_process(name: str, where: str, tiny: bool, repeats: int) -> dict[str, Any]:
    """`measure` in a fresh process; a row with the reason where it fails."""
    command = [
        *(sys.executable, __file__, "--only", f"{name} {where}"),
        *("--tiny", str(int(tiny)), "--repeats", str(repeats)),
    ]
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}  # as the ebm command has it
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return row
    reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    print(f"{name} on {where} failed: {reason}")
    return {"preset": name, "device": where, "failed": reason}


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """What the rows prove on a hardware GPU."""
    found = []
    rates = {(row["preset"], row["device"]): row.get("tokens/s") for row in rows}
    for (name, where), rate in rates.items():
        own = rates.get((name, "wgpu"))
        if where == "cuda" and rate and own:
            found.append(Claim(f"{name}, tokens/s, of torch's on CUDA", own / rate, SHARE_TARGET))
    for row in rows:
        if row["preset"] in ("small", "transformer-small") and "outside kernels" in row:
            what = f"{row['preset']}, share of a step outside kernels"
            found.append(Claim(what, row["outside kernels"], OUTSIDE_TARGET, at_most=True))
    return found


def main() -> None:
    arguments = parse_arguments(
        "training_step", __doc__, presets=",".join(WINDOWS), repeats=5, only="", tiny=-1
    )
    if arguments.only:
        name, where = arguments.only.split()
        print(json.dumps(measure(name, where, arguments.tiny == 1, arguments.repeats)))
        return
    device = open_device("wgpu")
    if not isinstance(device, WgpuDevice):
        raise DeviceError("this benchmark needs an adapter of wgpu")
    software = device.runtime.info.is_software
    tiny = software if arguments.tiny < 0 else bool(arguments.tiny)
    setting = SMALL_SETTING if software else "tiny models" if tiny else FULL_SETTING
    rows = []
    for name in arguments.presets.split(","):
        places = ["wgpu", "cpu"]
        if torch.cuda.is_available() and preset(name).model.family != "splat":
            places.append("cuda")
        rows += [in_own_process(name, where, tiny, arguments.repeats) for where in places]
    rates = {row["preset"]: row.get("tokens/s") for row in rows if row["device"] == "cpu"}
    for row in rows:
        rate = rates.get(row["preset"])
        if rate and "tokens/s" in row:
            row["of cpu's rate"] = row["tokens/s"] / rate
    columns = ("preset", "device", "million parameters", "tokens", "ms", "tokens/s")
    shown = (*columns, "of cpu's rate", "peak GB", "dispatches", "outside kernels")
    print_table(
        f"One training step, {device.description}\nSetting: {setting}",
        [{key: row.get(key, "") for key in shown} for row in rows],
    )
    payload = {
        "setting": setting,
        "statistic": "median over steps",
        "repeats": arguments.repeats,
        "torch_threads": torch.get_num_threads(),
        "rows": rows,
    }
    write_result(
        "training_step",
        payload,
        device,
        claims=[] if software else claims(rows),
        output=arguments.output,
    )


if __name__ == "__main__":
    main()
