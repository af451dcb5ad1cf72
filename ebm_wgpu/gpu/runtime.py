"""One open command encoder over cached pipelines and bind groups.

Recording is cheap only if nothing is rebuilt: pipelines are cached by source, bind groups by the
serial numbers of their buffers, parameters travel as immediates, and many dispatches share one pass
until a read-back or every `SUBMIT_EVERY` dispatches.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ebm_wgpu.errors import DeviceError, KernelError
from ebm_wgpu.gpu.adapters import AdapterInfo, select_adapter
from ebm_wgpu.gpu.buffers import Buffer, BufferPool

SUBMIT_EVERY = 256
MAX_GROUPS = 65535
OPTIONAL_FEATURES = ("shader-f16", "subgroup", "timestamp-query")
_LIMITS = (
    "max-storage-buffers-per-shader-stage",
    "max-storage-buffer-binding-size",
    "max-buffer-size",
    "max-compute-workgroup-storage-size",
    "max-compute-invocations-per-workgroup",
    "max-compute-workgroup-size-x",
)


class Pipeline:
    """A compiled compute shader with its bind-group layout and the bind groups made so far."""

    __slots__ = ("bind_groups", "handle", "label", "layout", "n_bindings")

    def __init__(self, label: str, handle: Any, layout: Any, n_bindings: int) -> None:
        self.label = label
        self.handle = handle
        self.layout = layout
        self.n_bindings = n_bindings
        self.bind_groups: dict[tuple[int, ...], Any] = {}


class GpuRuntime:
    """A wgpu device with pooled memory, cached pipelines and lazily submitted commands.

    Attributes:
        info: the adapter in use.
        features: optional features that were switched on.
        pool: device memory.
        dispatches: number of dispatches recorded so far.
        submits: number of command buffers submitted so far.
    """

    def __init__(self, backend: str | None = None, allow_software: bool = True) -> None:
        """Open the best adapter.

        Raises:
            DeviceError: there is no adapter, or it refuses a device.
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
        self._fence = self._device.create_buffer(size=4, usage=self._storage)
        self.pool = BufferPool(self._create_buffer)
        self._pipelines: dict[str, Pipeline] = {}
        self._lock = threading.RLock()
        self._encoder: Any = None
        self._pass: Any = None
        self._bound: Pipeline | None = None
        self._encoder_serial = 0
        self._recorded = 0
        self.dispatches = 0
        self.submits = 0

    # Memory

    def _create_buffer(self, capacity: int) -> Any:
        limit = self.info.limits["max-storage-buffer-binding-size"]
        if capacity > limit:
            raise DeviceError(
                f"an array of {capacity:,} bytes exceeds the {limit:,} bytes {self.info.name} can "
                "bind at once; use fewer rows or half-precision storage"
            )
        try:
            return self._device.create_buffer(size=capacity, usage=self._storage)
        except self._wgpu.GPUOutOfMemoryError:
            self.trim()
        try:
            return self._device.create_buffer(size=capacity, usage=self._storage)
        except self._wgpu.GPUOutOfMemoryError as error:
            raise DeviceError(
                f"{self.info.name} has no {capacity:,} bytes left beside {self.pool.live_bytes:,} "
                "in use; reduce the batch or the number of splats"
            ) from error

    def trim(self) -> None:
        """Release all pooled memory and the bind groups that refer to it."""
        with self._lock:
            self.flush()
            gone = set(self.pool.trim())
            for pipeline in self._pipelines.values():
                stale = [key for key in pipeline.bind_groups if not gone.isdisjoint(key)]
                for key in stale:
                    del pipeline.bind_groups[key]

    def upload(self, array: np.ndarray) -> Buffer:
        """Copy a contiguous array into new device memory."""
        buffer = self.pool.lease(array.nbytes)
        self.write(buffer, array)
        return buffer

    def write(self, buffer: Buffer, array: np.ndarray) -> None:
        """Overwrite the start of a buffer with a contiguous array."""
        if array.nbytes == 0:
            return
        data = array.reshape(-1).view(np.uint8)
        if data.nbytes % 4:
            data = np.concatenate([data, np.zeros(-data.nbytes % 4, np.uint8)])
        with self._lock:
            # Queue writes overtake commands that are recorded but not yet submitted.
            if buffer.raw.recorded_in == self._encoder_serial:
                self.flush()
            self._queue.write_buffer(buffer.raw.handle, 0, data)

    def read(self, buffer: Buffer, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
        """Wait for all recorded work and copy the start of a buffer to a new host array."""
        count = int(np.prod(shape, dtype=np.int64))
        if count == 0:
            return np.empty(tuple(shape), dtype)
        nbytes = count * dtype.itemsize
        with self._lock:
            self.flush()
            data = self._queue.read_buffer(buffer.raw.handle, 0, (nbytes + 3) // 4 * 4)
        return np.frombuffer(data, dtype, count).reshape(shape).copy()

    # Commands

    def pipeline(
        self, code: str, writable: Sequence[bool], immediate_size: int, label: str
    ) -> Pipeline:
        """Compile WGSL whose entry point is `main`, or return the pipeline compiled before.

        Args:
            code: complete WGSL source.
            writable: for each storage binding of group 0 in order, whether the shader writes it.
            immediate_size: bytes of the `var<immediate>` block.
            label: name used in error messages.

        Raises:
            KernelError: the shader does not compile; the message holds the compiler's own words.
        """
        with self._lock:
            known = self._pipelines.get(code)
            if known is not None:
                return known
            wgpu, device = self._wgpu, self._device
            entries = [
                {
                    "binding": index,
                    "visibility": wgpu.ShaderStage.COMPUTE,
                    "buffer": {"type": "storage" if written else "read-only-storage"},
                }
                for index, written in enumerate(writable)
            ]
            try:
                layout = device.create_bind_group_layout(entries=entries)
                module = device.create_shader_module(label=label, code=code)
                handle = device.create_compute_pipeline(
                    label=label,
                    layout=device.create_pipeline_layout(
                        bind_group_layouts=[layout], immediate_size=immediate_size
                    ),
                    compute={"module": module, "entry_point": "main"},
                )
            except wgpu.GPUError as error:
                raise KernelError(f"kernel {label} does not compile: {error}") from error
            pipeline = Pipeline(label, handle, layout, len(entries))
            self._pipelines[code] = pipeline
            return pipeline

    def _bind_group(self, pipeline: Pipeline, buffers: Sequence[Buffer]) -> Any:
        key = tuple([buffer.raw.serial for buffer in buffers])
        group = pipeline.bind_groups.get(key)
        if group is None:
            group = self._device.create_bind_group(
                layout=pipeline.layout,
                entries=[
                    {
                        "binding": i,
                        "resource": {"buffer": b.raw.handle, "offset": 0, "size": b.raw.capacity},
                    }
                    for i, b in enumerate(buffers)
                ],
            )
            pipeline.bind_groups[key] = group
        return group

    def dispatch(
        self,
        pipeline: Pipeline,
        buffers: Sequence[Buffer],
        immediates: bytes,
        groups: int | tuple[int, int, int],
    ) -> None:
        """Record one dispatch.

        Args:
            pipeline: from `pipeline`.
            buffers: one per binding, in order.
            immediates: the parameter block.
            groups: workgroups; a plain count is folded over x and y, to be unfolded in WGSL by
                `group_index`.

        Raises:
            DeviceError: more workgroups than a dispatch can have.
        """
        if isinstance(groups, int):
            rows = (groups + MAX_GROUPS - 1) // MAX_GROUPS
            groups = (min(groups, MAX_GROUPS), rows, 1)
        if max(groups) > MAX_GROUPS:
            raise DeviceError(
                f"kernel {pipeline.label}: {groups} workgroups exceed {MAX_GROUPS} per dimension"
            )
        if min(groups) == 0:
            return
        with self._lock:
            group = self._bind_group(pipeline, buffers)
            compute_pass = self._pass
            if compute_pass is None:
                compute_pass = self._begin_pass()
            if self._bound is not pipeline:
                compute_pass.set_pipeline(pipeline.handle)
                self._bound = pipeline
            compute_pass.set_bind_group(0, group)
            if immediates:
                compute_pass.set_immediates(0, immediates, 0, len(immediates))
            compute_pass.dispatch_workgroups(*groups)
            serial = self._encoder_serial
            for buffer in buffers:
                buffer.raw.recorded_in = serial
            self.dispatches += 1
            self._recorded += 1
            if self._recorded >= SUBMIT_EVERY:
                self.flush()

    def _begin_pass(self, timestamps: Any = None) -> Any:
        self._encoder = self._device.create_command_encoder()
        self._pass = self._encoder.begin_compute_pass(timestamp_writes=timestamps)
        self._bound = None
        return self._pass

    def flush(self) -> None:
        """Submit everything recorded so far, without waiting for it."""
        with self._lock:
            if self._pass is None:
                return
            self._pass.end()
            self._queue.submit([self._encoder.finish()])
            self._pass = self._encoder = self._bound = None
            self._encoder_serial += 1
            self._recorded = 0
            self.submits += 1

    def synchronize(self) -> None:
        """Submit everything recorded so far and wait until the device has run it."""
        with self._lock:
            self.flush()
            # The queue runs in order, so a read-back returns only after all earlier work. (wgpu-py
            # 0.32's on_submitted_work_done_async passes a callback of the wrong type.)
            self._queue.read_buffer(self._fence)

    def measure(self, record: Callable[[], None]) -> float:
        """Seconds the device spends on the dispatches that `record` records.

        By timestamp queries (ticks times the queue's period) where the adapter has them, else by
        the host's clock around a synchronised submission. Fewer than `SUBMIT_EVERY` dispatches.
        """
        self.synchronize()
        if "timestamp-query" not in self.features:
            start = time.perf_counter()
            record()
            self.synchronize()
            return time.perf_counter() - start
        from wgpu.backends.wgpu_native._ffi import lib

        wgpu, device = self._wgpu, self._device
        with self._lock:
            queries = device.create_query_set(type=wgpu.QueryType.timestamp, count=2)
            resolved = device.create_buffer(
                size=16, usage=wgpu.BufferUsage.QUERY_RESOLVE | wgpu.BufferUsage.COPY_SRC
            )
            self._begin_pass(
                {
                    "query_set": queries,
                    "beginning_of_pass_write_index": 0,
                    "end_of_pass_write_index": 1,
                }
            )
            record()
            self.flush()
            encoder = device.create_command_encoder()
            encoder.resolve_query_set(queries, 0, 2, resolved, 0)
            self._queue.submit([encoder.finish()])
            begin, end = np.frombuffer(self._queue.read_buffer(resolved), np.uint64)
        return float(end - begin) * lib.wgpuQueueGetTimestampPeriod(self._queue._internal) * 1e-9
