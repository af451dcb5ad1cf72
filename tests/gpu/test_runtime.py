"""The runtime: memory, ordering of writes and commands, folding of large grids, errors."""

import gc
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import DeviceError, KernelError
from ebm_wgpu.gpu.buffers import ALIGNMENT, ARENA_BLOCKS, BufferPool, size_class
from ebm_wgpu.gpu.runtime import MAX_GROUPS, SUBMIT_FIRST, SUBMIT_MOST, GpuRuntime

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
    runtime.synchronize()
    lengths = []
    before = runtime.submits
    for count in range(1, 4 * SUBMIT_MOST + 1):
        runtime.dispatch(pipeline, [buffer], b"", 1)
        if runtime.submits > before:
            before = runtime.submits
            lengths.append(count - sum(lengths))
    short = [SUBMIT_FIRST * 2**i for i in range(round(np.log2(SUBMIT_MOST / SUBMIT_FIRST)))]
    assert lengths == [*short, SUBMIT_MOST, SUBMIT_MOST, SUBMIT_MOST]
    assert runtime.read(buffer, np.dtype(np.uint32), (1,))[0] == 4 * SUBMIT_MOST


@pytest.mark.parametrize("wait", ["read", "synchronize"])
def test_an_idle_device_gets_work_soon(runtime: GpuRuntime, wait: str) -> None:
    pipeline = runtime.pipeline(ADD_ONE, [True], 0, "add_one")
    buffer = runtime.upload(np.zeros(1, np.uint32))
    for _ in range(2 * SUBMIT_MOST):
        runtime.dispatch(pipeline, [buffer], b"", 1)
    if wait == "read":
        runtime.read(buffer, np.dtype(np.uint32), (1,))
    else:
        runtime.synchronize()
    before = runtime.submits
    for _ in range(SUBMIT_FIRST):
        assert runtime.submits == before
        runtime.dispatch(pipeline, [buffer], b"", 1)
    assert runtime.submits == before + 1


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
    pool = BufferPool(created.append)
    first = pool.lease(1000)
    serial = first.block.serial
    del first
    again = pool.lease(900)
    assert again.block.serial == serial
    assert created == [1024]
    assert pool.lease(900).block.serial != serial


@given(st.lists(st.sampled_from([300, 500, 3000, 100_000]), max_size=20), st.randoms())
def test_what_repeats_gets_the_same_memory_whatever_it_gave_back_first(
    sizes: list[int], random: Random
) -> None:
    pool = BufferPool(lambda nbytes: None)
    kept = pool.lease(300, shared=True)
    places = []
    for _ in range(4):
        leases = [pool.lease(nbytes, shared=True) for nbytes in sizes]
        places.append([lease.block.serial for lease in leases])
        while leases:
            leases.pop(random.randrange(len(leases)))
    assert places[1:] == places[:1] * 3
    assert pool.live_bytes == kept.block.capacity


def test_memory_of_a_dead_cycle_is_still_usable(runtime: GpuRuntime) -> None:
    class Holder:
        def __init__(self) -> None:
            self.buffer = runtime.upload(np.zeros(50_000, np.uint32))
            self.cycle = self

    Holder()
    gc.collect()
    again = runtime.upload(np.full(50_000, 3, np.uint32))
    assert runtime.read(again, np.dtype(np.uint32), (50_000,)).max() == 3


def test_small_blocks_share_a_buffer_without_overlap() -> None:
    created: list[int] = []
    pool = BufferPool(created.append)
    blocks = [pool.lease(300, shared=True) for _ in range(ARENA_BLOCKS)]
    assert created == [512 * ARENA_BLOCKS]
    offsets = [buffer.block.offset for buffer in blocks]
    assert offsets == [512 * index for index in range(ARENA_BLOCKS)]
    assert all(offset % ALIGNMENT == 0 for offset in offsets)
    pool.lease(300, shared=True)
    pool.lease(300)
    assert created == [512 * ARENA_BLOCKS] * 2 + [512]
    assert pool.peak_bytes == 512 * (ARENA_BLOCKS + 1)


def test_a_buffer_is_destroyed_only_when_all_its_blocks_wait(runtime: GpuRuntime) -> None:
    runtime.trim()
    before = runtime.pool.allocated_bytes
    first, second = (runtime.pool.lease(1000, shared=True) for _ in range(2))
    runtime.write(second, np.arange(250, dtype=np.uint32))
    del first
    runtime.trim()
    assert runtime.pool.allocated_bytes == before + 1024 * ARENA_BLOCKS
    kept = runtime.read(second, np.dtype(np.uint32), (250,))
    np.testing.assert_array_equal(kept, np.arange(250))
    del second
    runtime.trim()
    assert runtime.pool.allocated_bytes == before


COPY = """
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) group: vec3<u32>) { y[group.x] = x[group.x] + 1u; }
"""


def test_one_buffer_may_be_read_and_written_by_a_dispatch(runtime: GpuRuntime) -> None:
    pipeline = runtime.pipeline(COPY, [False, True], 0, "copy")
    source, target = (runtime.pool.lease(256, shared=True) for _ in range(2))
    assert source.block.raw is target.block.raw
    runtime.write(source, np.arange(64, dtype=np.uint32))
    runtime.dispatch(pipeline, [source, target], b"", 64)
    runtime.dispatch(pipeline, [target, target], b"", 64)
    result = runtime.read(target, np.dtype(np.uint32), (64,))
    np.testing.assert_array_equal(result, np.arange(64) + 2)


def test_views_bind_and_move_from_their_first_byte(runtime: GpuRuntime) -> None:
    pipeline = runtime.pipeline(COPY, [False, True], 0, "copy")
    lease = runtime.upload(np.arange(192, dtype=np.uint32))
    runtime.dispatch(pipeline, [lease.view(256), lease.view(512)], b"", 3)
    runtime.write(lease.view(256), np.array([7], np.uint32), offset=4)
    np.testing.assert_array_equal(
        runtime.read(lease, np.dtype(np.uint32), (4,), offset=512), [65, 66, 67, 131]
    )
    halves = runtime.read(lease.view(256), np.dtype(np.uint16), (3,), offset=2)
    np.testing.assert_array_equal(halves, [0, 7, 0])


def test_a_budget_refuses_what_a_card_of_that_size_would() -> None:
    small = GpuRuntime(memory_budget=1 << 20)
    first = small.pool.lease(600_000)
    with pytest.raises(DeviceError, match=r"out of memory.* budget of 1,048,576"):
        small.pool.lease(600_000)
    del first
    assert small.pool.lease(700_000).nbytes == 700_000  # the cache was released for it
    assert small.pool.allocated_bytes <= 1 << 20


@pytest.mark.parametrize("text", ["8GB", "0", "-1"])
def test_a_budget_that_is_no_number_is_an_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBM_WGPU_MEMORY_BUDGET", text)
    with pytest.raises(DeviceError, match="EBM_WGPU_MEMORY_BUDGET"):
        GpuRuntime()


def test_memory_is_asked_for_again_only_after_the_device_is_done(
    runtime: GpuRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    create, wait = GpuRuntime._try_create, GpuRuntime.synchronize

    def refuse_once(self: GpuRuntime, capacity: int) -> object:
        told.append("ask")
        return None if len(told) == 1 else create(self, capacity)

    def waited(self: GpuRuntime) -> None:
        told.append("wait")
        wait(self)

    monkeypatch.setattr(GpuRuntime, "_try_create", refuse_once)
    monkeypatch.setattr(GpuRuntime, "synchronize", waited)
    assert runtime.pool.lease(5 << 20).nbytes == 5 << 20
    assert told == ["ask", "wait", "ask"]
