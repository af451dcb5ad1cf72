"""Microseconds of host time to record one dispatch on wgpu, with and without what is cached.

- replayed: launches that were noted down before (`GpuRuntime.replay`)
- prepared launch: arguments checked and bound once, then launched again and again
- run by name: arguments checked and bound at each call, bind group cached
- torch, in place: x.add_(y) on torch.device("wgpu")
- torch: x + y on torch.device("wgpu"), which makes a tensor as well
- new bind group: a prepared launch whose bind group is rebuilt each time
- submitted alone: the same, and each dispatch submitted by itself

The arrays are small, so that the host's cost is what is measured. All but the last record into one
command encoder and are timed without its submission. "torch on the processor" is x + y there: what
one small operator of torch costs on this machine at the same time, to compare with.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from _common import Claim, median, parse_arguments, print_table, seconds, write_result

import ebm_wgpu.torch_device as torch_device
from ebm_wgpu.gpu.runtime import SUBMIT_FIRST, SUBMIT_MOST
from ebm_wgpu.kernels.device import WgpuDevice

STEM = "sphere_normalize"
DISPATCHES = SUBMIT_MOST - 1


def microseconds(
    device: WgpuDevice, launch: Callable[[], object], batch: Callable[[], object]
) -> float:
    """Time of a dispatch of `batch`, which records `DISPATCHES` of them.

    `launch` gives the device work beforehand, so that it takes them together.
    """
    device.synchronize()
    # The short submissions after a wait.
    for _ in range(SUBMIT_MOST - SUBMIT_FIRST):
        launch()
    return 1e6 * seconds(batch) / DISPATCHES


def repeated(record: Callable[[], object]) -> Callable[[], None]:
    """`DISPATCHES` times `record`."""

    def batch() -> None:
        for _ in range(DISPATCHES):
            record()

    return batch


def main() -> None:
    arguments = parse_arguments("dispatch", __doc__, repeats=15)
    device = torch_device.open_device()
    x, out = device.array(np.ones((1, 8))), device.empty((1, 8))
    launch = device.prepare(STEM, x=x, out=out)
    pipeline, _ = device.plan(STEM, ("f32", "f32"))
    host = torch.ones(8)
    tensor, target = host.to("wgpu"), host.to("wgpu")

    def by_name() -> None:
        device.run(STEM, x=x, out=out)

    def with_new_bind_group() -> None:
        pipeline.bind_groups.clear()
        launch()

    def submitted_alone() -> None:
        with_new_bind_group()
        device.runtime.flush()

    with device.runtime.trace() as trace:
        repeated(launch)()
    replay = device.runtime.keep(trace)
    assert replay is not None
    ways: dict[str, Callable[[], object]] = {
        "replayed": lambda: device.runtime.replay(replay),
        "prepared launch": repeated(launch),
        "run by name": repeated(by_name),
        "torch, in place": repeated(lambda: target.add_(tensor)),
        "torch": repeated(lambda: tensor + tensor),
        "new bind group": repeated(with_new_bind_group),
        "submitted alone": repeated(submitted_alone),
        "torch on the processor": repeated(lambda: host + host),
    }
    for batch in ways.values():
        batch()
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(arguments.repeats):
        for way, batch in ways.items():
            times[way].append(microseconds(device, launch, batch))
    device.synchronize()
    rows = [
        {"way": way, "median us": median(values), "least us": min(values)}
        for way, values in times.items()
    ]
    print_table(f"Recording one dispatch, {device.description}", rows)
    claims = [
        Claim(f"to record, {way}", median(times[way]), 20.0, "us", at_most=True)
        for way in ("replayed", "prepared launch", "run by name")
    ]
    payload = {"kernel": STEM, "dispatches": DISPATCHES, "repeats": arguments.repeats, "rows": rows}
    write_result("dispatch", payload, device, claims=claims, output=arguments.output)


if __name__ == "__main__":
    main()
