"""One open recording over cached pipelines and bind groups.

Recording is cheap only if nothing is rebuilt: pipelines are cached by source, bind groups by the
serial numbers of their buffers, parameters travel as immediates, and many dispatches share one
pass. A device that has been waited for is idle until it gets the next pass, so the first passes
after a wait are short: `SUBMIT_FIRST` dispatches, twice as many in each further one, `SUBMIT_MOST`
in the end. Recording then goes on while the device works.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ebm_wgpu.errors import DeviceError
from ebm_wgpu.gpu.adapters import AdapterInfo, select_adapter
from ebm_wgpu.gpu.buffers import Buffer, BufferPool
from ebm_wgpu.gpu.pipelines import Pipeline, PipelineCache, Storage
from ebm_wgpu.gpu.recording import Recording
from ebm_wgpu.gpu.replay import Field, Launch, Replay, Trace
from ebm_wgpu.gpu.timing import PassTimer

SUBMIT_FIRST = 8
SUBMIT_MOST = 128
MAX_GROUPS = 65535
BUDGET_VARIABLE = "EBM_WGPU_MEMORY_BUDGET"
"""Environment variable: bytes of device memory to use at most."""
OPTIONAL_FEATURES = ("shader-f16", "subgroup", "timestamp-query")
_LIMITS = (
    "max-storage-buffers-per-shader-stage",
    "max-storage-buffer-binding-size",
    "max-buffer-size",
    "max-compute-workgroup-storage-size",
    "max-compute-invocations-per-workgroup",
    "max-compute-workgroup-size-x",
)


def _memory_budget() -> int | None:
    text = os.environ.get(BUDGET_VARIABLE)
    if not text:
        return None
    if not text.isdigit() or int(text) == 0:
        raise DeviceError(f"{BUDGET_VARIABLE}={text!r} must be a whole number of bytes above 0")
    return int(text)


class GpuRuntime:
    """A wgpu device with pooled memory, cached pipelines and lazily submitted commands.

    Attributes:
        info: the adapter in use.
        features: optional features that were switched on.
        pool: device memory.
        memory_budget: bytes that buffers may take in all, None for what the adapter has.
        dispatches: number of dispatches recorded so far.
        submits: number of command buffers submitted so far.
    """

    def __init__(
        self,
        backend: str | None = None,
        allow_software: bool = True,
        memory_budget: int | None = None,
    ) -> None:
        """Open the best adapter.

        Args:
            backend: take only adapters of this backend.
            allow_software: take a software adapter too.
            memory_budget: bytes that buffers may take in all; by default what the environment
                variable EBM_WGPU_MEMORY_BUDGET says, and no bound without it.

        Raises:
            DeviceError: there is no adapter, it refuses a device, or the budget is no number.
        """
        import wgpu

        self.info: AdapterInfo
        self.info, adapter = select_adapter(backend, allow_software)
        self.features = frozenset(f for f in OPTIONAL_FEATURES if f in self.info.features)
        limits = {name: self.info.limits[name] for name in _LIMITS}
        limits["max-immediate-size"] = min(128, self.info.limits["max-immediate-size"])
        try:
            self._device = adapter.request_device_sync(
                required_features=["immediates", *sorted(self.features)], required_limits=limits
            )
        except (wgpu.GPUError, RuntimeError) as error:
            raise DeviceError(f"{self.info.summary} refuses a device: {error}") from error
        self._wgpu = wgpu
        self._queue = self._device.queue
        usage = wgpu.BufferUsage
        self._storage = usage.STORAGE | usage.COPY_SRC | usage.COPY_DST
        self.memory_budget = _memory_budget() if memory_budget is None else memory_budget
        self._fence = self._device.create_buffer(size=4, usage=self._storage)
        self.pool = BufferPool(self._create_buffer)
        self._pipelines = PipelineCache(self._device)
        self._lock = threading.RLock()
        self._recording: Recording | None = None
        self._serial = 0
        self._timer: PassTimer | None = None
        self._submit_at = SUBMIT_FIRST
        self._trace: Trace | None = None
        self._replays: weakref.WeakSet[Replay] = weakref.WeakSet()
        self.dispatches = 0
        self.submits = 0

    @property
    def has_clock(self) -> bool:
        """Whether `measure` gives the device's own time."""
        return "timestamp-query" in self.features

    # Memory

    def _create_buffer(self, capacity: int) -> Any:
        limit = self.info.limits["max-storage-buffer-binding-size"]
        if capacity > limit:
            raise DeviceError(
                f"an array of {capacity:,} bytes exceeds the {limit:,} bytes {self.info.name} can "
                "bind at once; use fewer rows or half-precision storage"
            )
        handle = self._try_create(capacity)
        if handle is None:
            for replay in self._replays:
                replay.release()
            gc.collect()
            self.trim()
            # What the device still works on is given back only once it has done so.
            self.synchronize()
            handle = self._try_create(capacity)
        if handle is None:
            bound = self.memory_budget
            within = "" if bound is None else f" of a budget of {bound:,}"
            raise DeviceError(
                f"out of memory: {self.info.name} has no {capacity:,} bytes left{within} beside "
                f"{self.pool.live_bytes:,} in use; reduce the batch or the model, or store halves"
            )
        return handle

    def _try_create(self, capacity: int) -> Any:
        budget = self.memory_budget
        if budget is not None and self.pool.allocated_bytes + capacity > budget:
            return None
        try:
            return self._device.create_buffer(size=capacity, usage=self._storage)
        except self._wgpu.GPUOutOfMemoryError:
            return None

    def trim(self) -> None:
        """Release all pooled memory and the bind groups that refer to it."""
        with self._lock:
            self.flush()
            self._pipelines.forget(self.pool.trim())

    def upload(self, array: np.ndarray) -> Buffer:
        """Copy a contiguous array into new device memory."""
        buffer = self.pool.lease(array.nbytes)
        self.write(buffer, array)
        return buffer

    def write(self, buffer: Storage, array: np.ndarray, offset: int = 0) -> None:
        """Overwrite a buffer from byte `offset` on with a contiguous array.

        The offset is a multiple of 4; up to 3 bytes behind the array become zero.
        """
        if array.nbytes == 0:
            return
        data = array.reshape(-1).view(np.uint8)
        if data.nbytes % 4:
            data = np.concatenate([data, np.zeros(-data.nbytes % 4, np.uint8)])
        block = buffer.block
        with self._lock:
            if self._trace is not None:
                self._trace.obstacles.append("values were copied to the device")
            # Queue writes overtake commands that are recorded but not yet submitted.
            if block.recorded_in == self._serial:
                self.flush()
            place = block.offset + buffer.start + offset
            self._queue.write_buffer(block.raw.handle, place, data)

    def read(
        self, buffer: Storage, dtype: np.dtype, shape: Sequence[int], offset: int = 0
    ) -> np.ndarray:
        """Wait for all recorded work and copy a buffer from byte `offset` on to a new host array.

        The offset is a multiple of the item's size.
        """
        count = int(np.prod(shape, dtype=np.int64))
        if count == 0:
            return np.empty(tuple(shape), dtype)
        block = buffer.block
        first = block.offset + buffer.start + offset
        ahead = first % 4
        nbytes = (ahead + count * dtype.itemsize + 3) // 4 * 4
        with self._lock:
            if self._trace is not None:
                self._trace.obstacles.append("values were read back")
            self.flush()
            data = self._queue.read_buffer(block.raw.handle, first - ahead, nbytes)
            self._submit_at = SUBMIT_FIRST
        return np.frombuffer(data, dtype, count, ahead).reshape(shape).copy()

    # Commands

    def pipeline(
        self,
        code: str,
        writable: Sequence[bool],
        immediate_size: int,
        label: str,
        checked: bool = True,
    ) -> Pipeline:
        """Compile WGSL whose entry point is `main`, or return the pipeline compiled before.

        Args:
            code: complete WGSL source.
            writable: for each storage binding of group 0 in order, whether the shader writes it.
            immediate_size: bytes of the `var<immediate>` block.
            label: name used in error messages.
            checked: whether wgpu adds its checks (`shaders.create_module`).

        Raises:
            KernelError: the shader does not compile; the message holds the compiler's own words.
        """
        with self._lock:
            return self._pipelines.get(code, writable, immediate_size, label, checked)

    def dispatch(
        self,
        pipeline: Pipeline,
        buffers: Sequence[Storage],
        immediates: bytes,
        groups: int | tuple[int, int, int],
        drawn: tuple[Field, ...] = (),
    ) -> None:
        """Record one dispatch.

        Args:
            pipeline: from `pipeline`.
            buffers: one per binding, in order.
            immediates: the parameter block.
            groups: workgroups; a plain count is folded over x and y, to be unfolded in WGSL by
                `group_index`.
            drawn: what of the parameter block counts random draws.

        Raises:
            DeviceError: more workgroups than a dispatch can have.
        """
        if not isinstance(groups, int):
            x, y, z = groups
        elif groups <= MAX_GROUPS:
            x, y, z = groups, 1, 1
        else:
            x, y, z = MAX_GROUPS, -(-groups // MAX_GROUPS), 1
        if x > MAX_GROUPS or y > MAX_GROUPS or z > MAX_GROUPS:
            raise DeviceError(
                f"kernel {pipeline.label}: {(x, y, z)} workgroups exceed {MAX_GROUPS} per dimension"
            )
        if not (x and y and z):
            return
        key = tuple([buffer.key for buffer in buffers])
        with self._lock:
            bound = pipeline.bind_groups.get(key)
            if bound is None:
                bound = self._pipelines.bind(pipeline, buffers, key)
            serial = self._record(*bound, immediates, x, y, z)
            for buffer in buffers:
                buffer.block.recorded_in = serial
            if self._trace is not None:
                self._trace.add(Launch(*bound, immediates, (x, y, z), drawn), buffers)

    def _record(self, pipeline: Any, group: Any, immediates: bytes, x: int, y: int, z: int) -> int:
        """Add a dispatch to the open recording and submit that if it is due; its serial number."""
        recording = self._recording
        if recording is None:
            recording = self._begin()
        recording.dispatch(pipeline, group, immediates, x, y, z)
        self.dispatches += 1
        if recording.dispatches >= self._submit_at:
            self._submit_at = min(2 * self._submit_at, SUBMIT_MOST)
            self.flush()
        return recording.serial

    @property
    def tracing(self) -> bool:
        """Whether dispatches are being noted down."""
        return self._trace is not None

    @contextlib.contextmanager
    def trace(self) -> Iterator[Trace]:
        """Note down what is asked of the device within the block, by any thread.

        Raises:
            DeviceError: it is being noted down already.
        """
        with self._lock:
            if self._trace is not None:
                raise DeviceError("what the device is asked is being noted down already")
            trace = self._trace = Trace(self.pool.next_number())
        try:
            yield trace
        finally:
            self._trace = None

    def keep(self, trace: Trace) -> Replay | None:
        """What a trace that has just ended notes, to be submitted again.

        Its memory is held from now on, so that nothing else comes to lie there, until the replay is
        dropped or the device runs out of memory.

        Returns:
            Nothing where values were copied in or out, or memory has gone to others meanwhile.
        """
        with self._lock:
            alive, ended = trace.memory()
            reserved = None if trace.obstacles else self.pool.reserve(ended)
            if reserved is None:
                return None
            replay = Replay(trace.launches, [*alive, *reserved])
            self._replays.add(replay)
            return replay

    def replay(self, replay: Replay, draws: int = 0) -> None:
        """Record the dispatches of a replay once more, `draws` random draws later than traced."""
        with self._lock:
            serial = self._serial
            for launch in replay.launches:
                serial = self._record(
                    launch.pipeline, launch.group, launch.after(draws), *launch.groups
                )
            replay.mark(serial)

    def _begin(self) -> Recording:
        timestamps = None if self._timer is None else self._timer.next_pass()
        self._recording = Recording(self._device, self._serial, timestamps)
        return self._recording

    def flush(self) -> None:
        """Submit everything recorded so far, without waiting for it.

        Raises:
            DeviceError: the adapter refuses the commands; they are dropped.
        """
        with self._lock:
            recording, self._recording = self._recording, None
            if recording is None:
                return
            self._serial += 1
            self.submits += 1
            recording.submit(self._queue)

    def synchronize(self) -> None:
        """Submit everything recorded so far and wait until the device has run it."""
        with self._lock:
            self.flush()
            # The queue runs in order, so a read-back returns only after all earlier work. (wgpu-py
            # 0.32's on_submitted_work_done_async passes a callback of the wrong type.)
            self._queue.read_buffer(self._fence)
            self._submit_at = SUBMIT_FIRST

    def measure(self, record: Callable[[], object]) -> float:
        """Seconds the device spends on the dispatches that `record` records or submits.

        By timestamp queries at both ends of every submission (ticks times the queue's period) where
        the adapter has them, else by the host's clock around `record`. Waits for the device.

        Raises:
            DeviceError: more submissions than `timing.MOST_PASSES`.
        """
        self.synchronize()
        if not self.has_clock:
            start = time.perf_counter()
            record()
            self.synchronize()
            return time.perf_counter() - start
        # No lock is held meanwhile: backward passes record from a thread of their own.
        before, timer = self._timer, PassTimer(self._device)
        self._timer = timer
        try:
            record()
            self.flush()
        finally:
            self._timer = before
        with self._lock:
            return timer.seconds()
