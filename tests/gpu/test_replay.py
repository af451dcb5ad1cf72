"""Replays: what was recorded once is done again, in memory that nothing else gets meanwhile."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.gpu.buffers import Buffer
from ebm_wgpu.gpu.replay import Drawn, Field, Launch, Replay, Trace
from ebm_wgpu.gpu.runtime import GpuRuntime

U32 = np.dtype(np.uint32)
COUNT = 64
ADD = """
struct Params { first: u32, add: u32 }
var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) group: vec3<u32>) { out[group.x] = x[group.x] + params.add; }
"""


@pytest.fixture(scope="module")
def runtime() -> GpuRuntime:
    return GpuRuntime()


def add(runtime: GpuRuntime, x: Buffer, number: int, drawn: bool = False) -> Buffer:
    """x + number, in memory of its own."""
    pipeline = runtime.pipeline(ADD, [False, True], 8, "add")
    out = runtime.pool.lease(4 * COUNT)
    fields = (Field(4, 4, per_draw=1),) if drawn else ()
    runtime.dispatch(pipeline, [x, out], struct.pack("<II", 0, number), COUNT, fields)
    return out


def values(runtime: GpuRuntime, buffer: Buffer) -> list[int]:
    return runtime.read(buffer, U32, (COUNT,)).tolist()


def traced(runtime: GpuRuntime, x: Buffer, drawn: bool = False) -> tuple[Trace, Buffer]:
    """What adds 1, 2 and 3 to x one after the other, and where the sum comes to lie."""
    with runtime.trace() as trace:
        out = add(runtime, add(runtime, add(runtime, x, 1), 2), 3, drawn)
    return trace, out


def test_a_replay_computes_anew_in_memory_of_its_own(runtime: GpuRuntime) -> None:
    x = runtime.upload(np.arange(COUNT, dtype=np.uint32))
    trace, out = traced(runtime, x)
    replay = runtime.keep(trace)
    assert replay is not None
    assert len(replay.launches) == 3
    # Whatever is leased now must neither be touched by the replay nor touch what is between.
    others = [runtime.upload(np.full(COUNT, 10**6, np.uint32)) for _ in range(20)]
    before = runtime.dispatches
    for first in (100, 200):
        runtime.write(x, np.arange(first, first + COUNT, dtype=np.uint32))
        runtime.replay(replay)
        assert values(runtime, out) == [first + 6 + i for i in range(COUNT)]
    assert runtime.dispatches == before + 6
    assert all(values(runtime, other) == [10**6] * COUNT for other in others)


def test_memory_of_a_dropped_replay_is_used_again(runtime: GpuRuntime) -> None:
    x = runtime.upload(np.zeros(COUNT, np.uint32))
    live = runtime.pool.live_bytes
    trace, out = traced(runtime, x)
    # Of three results only the last is held.
    assert runtime.pool.live_bytes - live == out.block.capacity
    replay = runtime.keep(trace)
    assert replay is not None
    held = runtime.pool.live_bytes - live
    assert held > out.block.capacity
    replay.release()
    assert replay.launches == ()
    assert runtime.pool.live_bytes - live == out.block.capacity


def test_what_counts_draws_moves_on(runtime: GpuRuntime) -> None:
    x = runtime.upload(np.zeros(COUNT, np.uint32))
    trace, out = traced(runtime, x, drawn=True)
    replay = runtime.keep(trace)
    assert replay is not None
    for draws in (0, 5, 1000):
        runtime.replay(replay, draws)
        assert values(runtime, out) == [6 + draws] * COUNT


@given(
    first=st.integers(0, 2**64 - 1),
    per_draw=st.integers(0, 2**64 - 1),
    draws=st.integers(0, 2**40),
    size=st.sampled_from([4, 8]),
)
def test_counts_of_draws_wrap_at_their_size(
    first: int, per_draw: int, draws: int, size: int
) -> None:
    whole = 1 << 8 * size
    block = b"head" + (first % whole).to_bytes(size, "little") + b"tail"
    launch = Launch(None, None, block, (1, 1, 1), (Field(4, size, per_draw),))
    moved = launch.after(draws)
    assert (moved[:4], moved[4 + size :]) == (b"head", b"tail")
    assert int.from_bytes(moved[4 : 4 + size], "little") == (first + draws * per_draw) % whole


def test_a_number_that_counts_draws_is_a_number() -> None:
    number = Drawn(7, per_draw=3)
    assert (number, number.per_draw, struct.pack("<I", number)) == (7, 3, b"\7\0\0\0")


def test_traces_tell_what_is_alike_from_what_lies_alike(runtime: GpuRuntime) -> None:
    x = runtime.upload(np.zeros(COUNT, np.uint32))
    first, held = traced(runtime, x, drawn=True)
    second, _ = traced(runtime, x, drawn=True)
    assert second.is_like(first, draws=0)
    assert not second.lies_like(first)
    assert not second.is_like(first, draws=1)
    del held, _
    third, out = traced(runtime, x, drawn=True)
    assert third.lies_like(first)
    with runtime.trace() as shorter:
        add(runtime, out, 1)
    assert not shorter.is_like(third, draws=0)
    with runtime.trace() as other:
        add(runtime, add(runtime, add(runtime, x, 1), 2), 4, drawn=True)
    assert not other.is_like(third, draws=0)
    assert other.is_like(third, draws=1)


def test_what_is_left_in_new_memory_is_noticed(runtime: GpuRuntime) -> None:
    x = runtime.upload(np.zeros(COUNT, np.uint32))
    trace, out = traced(runtime, x)
    assert not trace.leaves_behind([out])
    assert not trace.leaves_behind([out, x])
    assert trace.leaves_behind([])
    assert trace.leaves_behind([x])
    number = out.number
    del out
    assert not trace.leaves_behind([])
    assert runtime.pool.lease(4).number > number


@pytest.mark.parametrize("move", ["in", "out"])
def test_what_moves_values_is_not_kept(runtime: GpuRuntime, move: str) -> None:
    x = runtime.upload(np.zeros(COUNT, np.uint32))
    with runtime.trace() as trace:
        out = add(runtime, x, 1)
        if move == "in":
            runtime.write(x, np.ones(COUNT, np.uint32))
        else:
            values(runtime, out)
    assert len(trace.obstacles) == 1
    assert runtime.keep(trace) is None


def test_what_lies_where_others_are_now_is_not_kept(runtime: GpuRuntime) -> None:
    x = runtime.upload(np.zeros(COUNT, np.uint32))
    trace, _ = traced(runtime, x)
    live = runtime.pool.live_bytes
    taken = [runtime.pool.lease(4 * COUNT) for _ in range(8)]
    assert runtime.keep(trace) is None
    del taken
    assert runtime.pool.live_bytes == live


def test_one_thing_is_traced_at_a_time(runtime: GpuRuntime) -> None:
    with runtime.trace(), pytest.raises(DeviceError, match="already"), runtime.trace():
        pass
    assert not runtime.tracing


def test_replays_give_way_when_memory_runs_out() -> None:
    small = GpuRuntime(memory_budget=1 << 20)
    x = small.upload(np.zeros(COUNT, np.uint32))
    pipeline = small.pipeline(ADD, [False, True], 8, "add")
    with small.trace() as trace:
        for _ in range(4):
            between = small.pool.lease(100_000)
            small.dispatch(pipeline, [x, between], bytes(8), COUNT)
            kept = between
    replay = small.keep(trace)
    assert isinstance(replay, Replay)
    del between, kept
    large = [small.pool.lease(400_000) for _ in range(2)]
    assert replay.launches == ()
    assert len(large) == 2
