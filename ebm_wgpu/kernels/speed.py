"""Measure kernels: GB/s and GFLOP/s, as shares of what the same device copies and multiply-adds.

Peaks are measured by the kernels probe_copy and probe_fma in the same run, so that a share means
the same on every adapter.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ebm_wgpu.kernels.device import KernelDevice, Launch, WgpuDevice
from ebm_wgpu.kernels.registry import get_kernel, kernel_names
from ebm_wgpu.kernels.spec import Dims, Kernel, Work

REPEATS = 5
TARGET_SECONDS = 0.2
SOFTWARE_SHRINK = 16


@dataclass(frozen=True)
class Speed:
    """Measured rate of one kernel on one device.

    Attributes:
        kernel: stem.
        device: "wgpu" or "numba".
        dims: the shapes that were timed.
        seconds: best time of one call, device time where the adapter has timestamps.
        gigabytes_per_second: bytes that must cross the memory bus, over the time.
        gflops: floating-point operations, over the time.
        share_of_copy: of the copy bandwidth of the same device in the same run.
        share_of_fma: of the multiply-add peak of the same device in the same run.
    """

    kernel: str
    device: str
    dims: Mapping[str, int]
    seconds: float
    gigabytes_per_second: float
    gflops: float
    share_of_copy: float
    share_of_fma: float


def _prepare(kernel: Kernel, device: KernelDevice, dims: Dims) -> Launch:
    # A case's parameters fit its own shapes; those of the first fit the shapes of speed mode.
    case = next((case for case in kernel.cases if case.dims is dims), kernel.cases[0])
    inputs = case.inputs(np.random.default_rng(0), dims)
    return device.prepare(kernel.stem, **{**dims, **case.params, **inputs})


def _seconds(launch: Launch, device: KernelDevice) -> float:
    def once() -> float:
        if isinstance(device, WgpuDevice):
            return device.runtime.measure(launch)
        start = time.perf_counter()
        launch()
        return time.perf_counter() - start

    once()
    best = once()
    for _ in range(min(REPEATS, int(TARGET_SECONDS / max(best, 1e-6)))):
        best = min(best, once())
    return best


def _dims(kernel: Kernel, device: KernelDevice) -> Dims | None:
    if kernel.speed_case is None or not isinstance(device, WgpuDevice):
        return kernel.speed_case
    if not device.runtime.info.is_software:
        return kernel.speed_case
    # A software adapter is a correctness tool: time its rates on the case table's own small shapes.
    largest = max(kernel.cases, key=lambda case: math.prod(max(n, 1) for n in case.dims.values()))
    return largest.dims


def _measure(kernel: Kernel, device: KernelDevice, dims: Dims) -> tuple[float, Work]:
    assert kernel.work is not None
    return _seconds(_prepare(kernel, device, dims), device), kernel.work(dims)


def measure_speed(device: KernelDevice, stems: tuple[str, ...] | None = None) -> Iterator[Speed]:
    """Rates of all kernels that declare their work, or of the named ones.

    Args:
        device: where to run.
        stems: kernels to time; those without `work` are passed over.
    """
    rates = {}
    for probe in ("probe_copy", "probe_fma"):
        kernel = get_kernel(probe)
        assert kernel.speed_case is not None
        software = isinstance(device, WgpuDevice) and device.runtime.info.is_software
        shrink = SOFTWARE_SHRINK if software else 1
        seconds, work = _measure(kernel, device, {"N": kernel.speed_case["N"] // shrink})
        rates[probe] = (work.nbytes if probe == "probe_copy" else work.flops) / seconds
    for stem in stems or kernel_names():
        kernel = get_kernel(stem)
        dims = _dims(kernel, device)
        if kernel.work is None or dims is None:
            continue
        seconds, work = _measure(kernel, device, dims)
        yield Speed(
            stem,
            device.name,
            dict(dims),
            seconds,
            work.nbytes / seconds / 1e9,
            work.flops / seconds / 1e9,
            work.nbytes / seconds / rates["probe_copy"],
            work.flops / seconds / rates["probe_fma"],
        )
