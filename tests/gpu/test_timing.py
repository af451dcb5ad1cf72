"""Device time: the sum over submissions, whoever records them."""

import threading
from typing import Any

import numpy as np
import pytest

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.gpu import timing
from ebm_wgpu.gpu.pipelines import Pipeline
from ebm_wgpu.gpu.runtime import GpuRuntime

SPIN = """
@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) group: vec3<u32>) {
    var value = x[group.x];
    for (var i = 0u; i < 2000u; i += 1u) { value = value * 1664525u + 1013904223u; }
    x[group.x] = value;
}
"""


@pytest.fixture(scope="module")
def runtime() -> GpuRuntime:
    return GpuRuntime()


@pytest.fixture(scope="module")
def spin(runtime: GpuRuntime) -> Pipeline:
    return runtime.pipeline(SPIN, [True], 0, "spin")


def test_all_submissions_of_a_series_count(
    runtime: GpuRuntime, spin: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spans of all passes are added, those of other buffers' contents are not."""
    from wgpu.backends.wgpu_native._ffi import lib

    if not runtime.has_clock:
        pytest.skip(f"{runtime.info.summary} has no timestamps")
    buffer = runtime.upload(np.zeros(1, np.uint32))
    queue = runtime._queue
    read, spans = type(queue).read_buffer, np.array([10, 5, 7, 100], np.uint64)
    submissions: list[int] = []

    def ticks(self: Any, source: Any, *place: int) -> Any:
        if source.size != 16 * timing.MOST_PASSES:
            return read(self, source, *place)
        submissions.append(place[1] // 16)
        begins = 1000 * np.arange(len(spans), dtype=np.uint64)
        return np.stack([begins, begins + spans], 1).tobytes()[: place[1]]

    def record() -> None:
        for _ in range(3):
            runtime.dispatch(spin, [buffer], b"", 1)
            runtime.flush()

    monkeypatch.setattr(type(queue), "read_buffer", ticks)
    seconds = runtime.measure(record)
    period = lib.wgpuQueueGetTimestampPeriod(queue._internal) * 1e-9
    assert submissions == [3]
    assert seconds == pytest.approx((10 + 5 + 7) * period, rel=1e-12)


def test_other_threads_may_record_meanwhile(runtime: GpuRuntime, spin: Pipeline) -> None:
    buffer = runtime.upload(np.zeros(1, np.uint32))

    def record() -> None:
        other = threading.Thread(target=runtime.dispatch, args=(spin, [buffer], b"", 1))
        other.start()
        other.join(timeout=60)
        assert not other.is_alive()

    assert runtime.measure(record) > 0


def test_nothing_recorded_takes_no_time(runtime: GpuRuntime) -> None:
    if not runtime.has_clock:
        pytest.skip(f"{runtime.info.summary} has no timestamps")
    assert runtime.measure(lambda: None) == 0.0


def test_a_series_too_long_is_an_error_and_ends_the_timing(
    runtime: GpuRuntime, spin: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not runtime.has_clock:
        pytest.skip(f"{runtime.info.summary} has no timestamps")
    monkeypatch.setattr(timing, "MOST_PASSES", 2)
    buffer = runtime.upload(np.zeros(1, np.uint32))

    def record() -> None:
        for _ in range(3):
            runtime.dispatch(spin, [buffer], b"", 1)
            runtime.flush()

    with pytest.raises(DeviceError, match="more than 2 submissions"):
        runtime.measure(record)
    record()
    assert runtime.measure(lambda: runtime.dispatch(spin, [buffer], b"", 1)) > 0
