"""Microseconds of host time to record one dispatch on wgpu, with and without what is cached.

- prepared launch: arguments checked and bound once, then launched again and again
- run by name: arguments checked and bound at each call, bind group cached
- new bind group: a prepared launch whose bind group is rebuilt each time
- submitted alone: the same, and each dispatch submitted by itself

The kernel is small, so that the host's cost is what is measured. The first three record into one
command encoder and are timed without its submission.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from _common import Claim, median, parse_arguments, print_table, seconds, write_result

from ebm_wgpu.gpu.runtime import SUBMIT_EVERY, Pipeline
from ebm_wgpu.kernels import get_kernel
from ebm_wgpu.kernels.device import WgpuDevice
from ebm_wgpu.kernels.source import assemble, immediate_fields

STEM = "sphere_normalize"
DISPATCHES = SUBMIT_EVERY - 1


def pipeline_of(device: WgpuDevice) -> Pipeline:
    """The compiled pipeline that the device uses for the kernel."""
    kernel = get_kernel(STEM)
    flags = frozenset({"SUBGROUP"} if device.subgroups else ())
    writable = [binding.access != "in" for binding in kernel.bindings]
    nbytes = 4 * len(immediate_fields(kernel))
    return device.runtime.pipeline(assemble(kernel, {}, flags), writable, nbytes, STEM)


def microseconds(device: WgpuDevice, record: Callable[[], object]) -> float:
    """Time of one `record` among `DISPATCHES`, started on an idle device."""
    device.synchronize()

    def batch() -> None:
        for _ in range(DISPATCHES):
            record()

    return 1e6 * seconds(batch) / DISPATCHES


def main() -> None:
    arguments = parse_arguments("dispatch", __doc__, repeats=15)
    device = WgpuDevice()
    x, out = device.array(np.ones((1, 8))), device.empty((1, 8))
    launch = device.prepare(STEM, x=x, out=out)
    pipeline = pipeline_of(device)

    def by_name() -> None:
        device.run(STEM, x=x, out=out)

    def with_new_bind_group() -> None:
        pipeline.bind_groups.clear()
        launch()

    def submitted_alone() -> None:
        with_new_bind_group()
        device.runtime.flush()

    ways: dict[str, Callable[[], object]] = {
        "prepared launch": launch,
        "run by name": by_name,
        "new bind group": with_new_bind_group,
        "submitted alone": submitted_alone,
    }
    for record in ways.values():
        record()
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(arguments.repeats):
        for way, record in ways.items():
            times[way].append(microseconds(device, record))
    device.synchronize()
    rows = [
        {"way": way, "median us": median(values), "least us": min(values)}
        for way, values in times.items()
    ]
    print_table(f"Recording one dispatch, {device.description}", rows)
    prepared = median(times["prepared launch"])
    claims = [Claim("to record a prepared launch", prepared, 20.0, "us", at_most=True)]
    payload = {"kernel": STEM, "dispatches": DISPATCHES, "repeats": arguments.repeats, "rows": rows}
    write_result("dispatch", payload, device, claims=claims, output=arguments.output)


if __name__ == "__main__":
    main()
