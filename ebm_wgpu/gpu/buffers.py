"""Pooled device memory: a buffer returns to its pool when the last handle on it is gone."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

_SMALLEST = 256


def size_class(nbytes: int) -> int:
    """Bytes to allocate: a power of two up to 64 KiB, then eighths of one (waste <= 12.5 %)."""
    nbytes = max(nbytes, _SMALLEST)
    ceiling = 1 << (nbytes - 1).bit_length()
    if ceiling <= 1 << 16:
        return ceiling
    step = ceiling // 16
    return (nbytes + step - 1) // step * step


class RawBuffer:
    """One wgpu buffer with a serial number that is never used again, fit to key caches.

    Attributes:
        handle: the wgpu buffer.
        capacity: bytes allocated.
        serial: unique number of this allocation.
        recorded_in: serial of the last command encoder that uses it, -1 for none.
    """

    __slots__ = ("capacity", "handle", "recorded_in", "serial")
    _serials = itertools.count()

    def __init__(self, handle: Any, capacity: int) -> None:
        self.handle = handle
        self.capacity = capacity
        self.serial = next(self._serials)
        self.recorded_in = -1


class Buffer:
    """A lease on at least `nbytes` bytes; dropping it returns the memory to the pool."""

    __slots__ = ("__weakref__", "_pool", "nbytes", "raw")

    def __init__(self, pool: BufferPool, raw: RawBuffer, nbytes: int) -> None:
        self._pool = pool
        self.raw = raw
        self.nbytes = nbytes

    def __del__(self) -> None:
        self._pool.release(self.raw)


class BufferPool:
    """Reuses buffers by size class.

    Reuse needs no fence: one in-order queue runs the commands, so a later use of the same memory is
    recorded after the earlier one.

    Attributes:
        live_bytes: bytes leased out now.
        pooled_bytes: bytes waiting for reuse.
    """

    def __init__(self, create: Callable[[int], Any]) -> None:
        self._create = create
        self._free: dict[int, list[RawBuffer]] = {}
        # Leased memory must stay reachable from here: the garbage collector runs the finalizers of
        # a dead cycle in any order, and would close the wgpu buffer that the lease hands back.
        self._leased: dict[int, RawBuffer] = {}
        self._lock = threading.RLock()  # a finalizer may run while it is held
        self.live_bytes = 0
        self.pooled_bytes = 0

    def lease(self, nbytes: int) -> Buffer:
        """Memory of at least `nbytes` bytes, contents undefined."""
        capacity = size_class(nbytes)
        with self._lock:
            waiting = self._free.get(capacity)
            raw = waiting.pop() if waiting else None
            if raw is not None:
                self.pooled_bytes -= capacity
        if raw is None:
            raw = RawBuffer(self._create(capacity), capacity)
        with self._lock:
            self.live_bytes += capacity
            self._leased[raw.serial] = raw
        return Buffer(self, raw, nbytes)

    def release(self, raw: RawBuffer) -> None:
        """Take back the memory of a lease that has ended."""
        with self._lock:
            del self._leased[raw.serial]
            self.live_bytes -= raw.capacity
            self.pooled_bytes += raw.capacity
            self._free.setdefault(raw.capacity, []).append(raw)

    def trim(self) -> list[int]:
        """Destroy all waiting buffers; returns their serials so that caches can forget them."""
        with self._lock:
            dropped = [raw for waiting in self._free.values() for raw in waiting]
            self._free.clear()
            self.pooled_bytes = 0
        for raw in dropped:
            raw.handle.destroy()
        return [raw.serial for raw in dropped]
