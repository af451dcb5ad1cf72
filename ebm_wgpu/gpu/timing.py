"""The device's own clock: how long compute passes take."""

from __future__ import annotations

from typing import Any

import numpy as np

from ebm_wgpu.errors import DeviceError

MOST_PASSES = 2048
"""Passes that one timer can hold: WebGPU allows 4096 queries, and each pass needs two."""


class PassTimer:
    """Timestamps at both ends of every pass of a series, in ticks of the queue."""

    def __init__(self, device: Any) -> None:
        """`device` is a wgpu device with the feature timestamp-query."""
        import wgpu

        self._device = device
        self._queries = device.create_query_set(
            type=wgpu.QueryType.timestamp, count=2 * MOST_PASSES
        )
        self._resolved = device.create_buffer(
            size=16 * MOST_PASSES,
            usage=wgpu.BufferUsage.QUERY_RESOLVE | wgpu.BufferUsage.COPY_SRC,
        )
        self._passes = 0

    def next_pass(self) -> dict[str, Any]:
        """Where the next pass writes its times, as wgpu's `begin_compute_pass` takes it.

        Raises:
            DeviceError: more passes than a timer can hold.
        """
        index = self._passes
        if index == MOST_PASSES:
            raise DeviceError(f"more than {MOST_PASSES} submissions cannot be timed: time fewer")
        self._passes += 1
        return {
            "query_set": self._queries,
            "beginning_of_pass_write_index": 2 * index,
            "end_of_pass_write_index": 2 * index + 1,
        }

    def seconds(self) -> float:
        """Sum over all passes, which must have been submitted; waits for them."""
        from wgpu.backends.wgpu_native._ffi import lib

        if not self._passes:
            return 0.0
        queue, count = self._device.queue, 2 * self._passes
        encoder = self._device.create_command_encoder()
        encoder.resolve_query_set(self._queries, 0, count, self._resolved, 0)
        queue.submit([encoder.finish()])
        ticks = np.frombuffer(queue.read_buffer(self._resolved, 0, 8 * count), np.uint64)
        spans = np.diff(ticks.reshape(-1, 2).astype(np.int64), axis=1)
        return float(spans.sum()) * lib.wgpuQueueGetTimestampPeriod(queue._internal) * 1e-9
