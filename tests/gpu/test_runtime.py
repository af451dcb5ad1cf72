"""The runtime: memory, ordering of writes and commands, folding of large grids, errors."""

import gc

import numpy as np
import pytest

from ebm_wgpu.errors import DeviceError, KernelError
from ebm_wgpu.gpu.buffers import BufferPool, size_class
from ebm_wgpu.gpu.runtime import MAX_GROUPS, SUBMIT_EVERY, GpuRuntime

ADD_ONE = """
@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) group: vec3<u32>) { x[group.x + group.y * 65535u] += 1u; }
"""


@pytest.fixture(scope="module")
def runtime() -> GpuRuntime:
    return GpuRuntime()


def test_round_trip_of_odd_sizes(runtime: GpuRuntime) -> None:
    for count in (0, 1, 3, 1021):
        sent = np.arange(count, dtype=np.float16)
        received = runtime.read(runtime.upload(sent), sent.dtype, sent.shape)
        np.testing.assert_array_equal(received, sent)


def test_write_does_not_overtake_recorded_commands(runtime: GpuRuntime) -> None:
    pipeline = runtime.pipeline(ADD_ONE, [True], 0, "add_one")
    buffer = runtime.upload(np.zeros(4, np.uint32))
    runtime.dispatch(pipeline, [buffer], b"", 4)
    first = runtime.upload(np.full(4, 7, np.uint32))
    runtime.write(buffer, np.full(4, 10, np.uint32))
    runtime.dispatch(pipeline, [buffer], b"", 2)
    np.testing.assert_array_equal(runtime.read(buffer, np.dtype(np.uint32), (4,)), [11, 11, 10, 10])
    np.testing.assert_array_equal(runtime.read(first, np.dtype(np.uint32), (4,)), [7] * 4)


def test_dependent_dispatches_across_submits_run_in_order(runtime: GpuRuntime) -> None:
    pipeline = runtime.pipeline(ADD_ONE, [True], 0, "add_one")
    buffer = runtime.upload(np.zeros(1, np.uint32))
    before = runtime.submits
    for _ in range(SUBMIT_EVERY + 44):
        runtime.dispatch(pipeline, [buffer], b"", 1)
    assert runtime.submits == before + 1
    assert runtime.read(buffer, np.dtype(np.uint32), (1,))[0] == SUBMIT_EVERY + 44


def test_grids_beyond_one_dimension_are_folded(runtime: GpuRuntime) -> None:
    count = MAX_GROUPS + 17
    pipeline = runtime.pipeline(ADD_ONE, [True], 0, "add_one")
    buffer = runtime.upload(np.zeros(2 * MAX_GROUPS, np.uint32))
    runtime.dispatch(pipeline, [buffer], b"", count)
    result = runtime.read(buffer, np.dtype(np.uint32), (2 * MAX_GROUPS,))
    assert result[:count].tolist() == [1] * count


def test_too_many_groups_in_a_dimension_is_an_error(runtime: GpuRuntime) -> None:
    pipeline = runtime.pipeline(ADD_ONE, [True], 0, "add_one")
    buffer = runtime.upload(np.zeros(1, np.uint32))
    with pytest.raises(DeviceError, match="65535"):
        runtime.dispatch(pipeline, [buffer], b"", (MAX_GROUPS + 1, 1, 1))


def test_binding_beyond_the_limit_is_an_error_that_names_it(runtime: GpuRuntime) -> None:
    limit = runtime.info.limits["max-storage-buffer-binding-size"]
    with pytest.raises(DeviceError, match=f"{limit:,}"):
        runtime.pool.lease(limit + 4)


def test_broken_shader_is_an_error_with_the_compilers_words(runtime: GpuRuntime) -> None:
    with pytest.raises(KernelError, match=r"does not compile(.|\n)*no definition in scope"):
        runtime.pipeline("@compute @workgroup_size(1) fn main() { y = 1; }", [], 0, "broken")


def test_memory_returns_to_the_pool_and_bind_groups_are_reused(runtime: GpuRuntime) -> None:
    pipeline = runtime.pipeline(ADD_ONE, [True], 0, "add_one")
    runtime.trim()
    known = len(pipeline.bind_groups)
    live = runtime.pool.live_bytes
    for _ in range(5):
        buffer = runtime.upload(np.zeros(100, np.uint32))
        runtime.dispatch(pipeline, [buffer], b"", 1)
        del buffer
        gc.collect()
    assert runtime.pool.live_bytes == live
    assert len(pipeline.bind_groups) == known + 1
    runtime.trim()
    assert runtime.pool.pooled_bytes == 0
    assert len(pipeline.bind_groups) == known


def test_measure_gives_device_time_that_grows_with_the_work(runtime: GpuRuntime) -> None:
    pipeline = runtime.pipeline(ADD_ONE, [True], 0, "add_one")
    buffer = runtime.upload(np.zeros(MAX_GROUPS, np.uint32))

    def record(times: int) -> None:
        for _ in range(times):
            runtime.dispatch(pipeline, [buffer], b"", MAX_GROUPS)

    small = min(runtime.measure(lambda: record(1)) for _ in range(3))
    large = min(runtime.measure(lambda: record(100)) for _ in range(3))
    assert 0 < small < large < 60


@pytest.mark.parametrize("nbytes", [0, 1, 256, 257, 65536, 65537, 1_000_003, 128_000_000])
def test_size_classes_hold_the_request_with_bounded_waste(nbytes: int) -> None:
    capacity = size_class(nbytes)
    assert capacity >= max(nbytes, 256)
    assert capacity % 4 == 0
    assert size_class(capacity) == capacity
    if nbytes > 65536:
        assert capacity <= 1.125 * nbytes


def test_pool_reuses_a_size_class_and_never_a_serial() -> None:
    created = []
    pool = BufferPool(lambda capacity: created.append(capacity))
    first = pool.lease(1000)
    serial = first.raw.serial
    del first
    again = pool.lease(900)
    assert again.raw.serial == serial
    assert created == [1024]
    assert pool.lease(900).raw.serial != serial


def test_memory_of_a_dead_cycle_is_still_usable(runtime: GpuRuntime) -> None:
    class Holder:
        def __init__(self) -> None:
            self.buffer = runtime.upload(np.zeros(50_000, np.uint32))
            self.cycle = self

    Holder()
    gc.collect()
    again = runtime.upload(np.full(50_000, 3, np.uint32))
    assert runtime.read(again, np.dtype(np.uint32), (50_000,)).max() == 3
