"""Pooled device memory: a block returns to its pool when the last handle on it is gone.

Large arrays have a wgpu buffer of their own. Small ones may share one: an arena is a buffer cut
into equal blocks, each bound by its offset.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

ALIGNMENT = 256
"""Bytes that offsets of bindings are multiples of: what every adapter accepts."""
SHARED_LARGEST = 1 << 16
"""Largest block that may share its buffer with others."""
ARENA_BLOCKS = 64
"""Blocks in an arena."""
KEY_SHIFT = 40


def size_class(nbytes: int) -> int:
    """Bytes to allocate: a power of two up to 64 KiB, then eighths of one (waste <= 12.5 %)."""
    nbytes = max(nbytes, ALIGNMENT)
    ceiling = 1 << (nbytes - 1).bit_length()
    if ceiling <= SHARED_LARGEST:
        return ceiling
    step = ceiling // 16
    return (nbytes + step - 1) // step * step


class RawBuffer:
    """One wgpu buffer.

    Attributes:
        handle: the wgpu buffer.
        capacity: bytes allocated.
        waiting: how many of its blocks wait for reuse.
        blocks: how many blocks it is cut into.
    """

    __slots__ = ("blocks", "capacity", "handle", "waiting")

    def __init__(self, handle: Any, capacity: int, blocks: int) -> None:
        self.handle = handle
        self.capacity = capacity
        self.blocks = blocks
        self.waiting = 0


class Block:
    """A range of a wgpu buffer with a serial number that is never used again, fit to key caches.

    Attributes:
        raw: the buffer.
        offset: first byte in it, a multiple of `ALIGNMENT`.
        capacity: bytes.
        serial: unique number of this block.
        recorded_in: serial of the last command encoder that uses it, -1 for none.
    """

    __slots__ = ("capacity", "offset", "raw", "recorded_in", "serial")
    _serials = itertools.count()

    def __init__(self, raw: RawBuffer, offset: int, capacity: int) -> None:
        self.raw = raw
        self.offset = offset
        self.capacity = capacity
        self.serial = next(self._serials)
        self.recorded_in = -1

    @property
    def size(self) -> tuple[int, bool]:
        """Bytes, and whether other blocks lie in the same buffer: what it can be reused for."""
        return self.capacity, self.raw.blocks > 1


class Buffer:
    """A lease on at least `nbytes` bytes; dropping it returns the memory to the pool.

    Attributes:
        block: the memory.
        nbytes: bytes asked for.
        start: first byte of this handle within the block.
        key: unique number of block and start, fit to key caches.
        number: of this lease, above those of all earlier ones of the pool.
    """

    __slots__ = ("__weakref__", "_pool", "block", "key", "nbytes", "number", "start")

    def __init__(self, pool: BufferPool, block: Block, nbytes: int) -> None:
        self.number = pool.next_number()
        self._pool = pool
        self.block = block
        self.nbytes = nbytes
        self.start = 0
        self.key = block.serial << KEY_SHIFT

    def view(self, start: int) -> BufferView:
        """The memory from byte `start` on, a multiple of `ALIGNMENT`; keeps the lease alive."""
        return BufferView(self, start)

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At interpreter exit the names of this module may be gone already.
        if not finalizing():
            self._pool.release(self.block)


class BufferView:
    """The rest of a leased block from some byte on, with the attributes of `Buffer`."""

    __slots__ = ("block", "key", "lease", "nbytes", "start")

    def __init__(self, lease: Buffer, start: int) -> None:
        self.lease = lease
        self.block = lease.block
        self.start = start
        self.nbytes = lease.nbytes - start
        self.key = lease.key | start


class BufferPool:
    """Reuses blocks by size class.

    Reuse needs no fence: one in-order queue runs the commands, so a later use of the same memory is
    recorded after the earlier one. Of the blocks that wait the oldest is taken, not the last one
    returned: what repeats itself, such as a training step, then gets the same memory each time
    whatever the order in which it gave it back, and so the bind groups made before.

    Attributes:
        live_bytes: bytes leased out now.
        pooled_bytes: bytes waiting for reuse.
        peak_bytes: most bytes leased out at once since `reset_peak`.
        allocated_bytes: bytes of all wgpu buffers.
    """

    def __init__(self, create: Callable[[int], Any]) -> None:
        self._create = create
        self._free: dict[tuple[int, bool], list[tuple[int, Block]]] = {}
        # Leased memory must stay reachable from here: the garbage collector runs the finalizers of
        # a dead cycle in any order, and would close the wgpu buffer that the lease hands back.
        self._leased: dict[int, Block] = {}
        self._lock = threading.RLock()  # a finalizer may run while it is held
        self.live_bytes = 0
        self.pooled_bytes = 0
        self.peak_bytes = 0
        self.allocated_bytes = 0
        self._numbers = itertools.count()

    def next_number(self) -> int:
        """A number above those of all leases made so far, and below those of all to come."""
        return next(self._numbers)

    def lease(self, nbytes: int, shared: bool = False) -> Buffer:
        """Memory of at least `nbytes` bytes, contents undefined.

        Args:
            nbytes: how much.
            shared: a small block may share its wgpu buffer with others. A kernel that reads one
                block of a buffer and writes another then runs with all its bindings writable.
        """
        capacity = size_class(nbytes)
        key = (capacity, shared and capacity <= SHARED_LARGEST)
        block = self._take(key)
        while block is None:
            self._grow(key)
            block = self._take(key)
        return Buffer(self, block, nbytes)

    def _take(self, key: tuple[int, bool]) -> Block | None:
        with self._lock:
            waiting = self._free.get(key)
            if not waiting:
                return None
            block = heappop(waiting)[1]
            self._mark_leased(block)
            return block

    def _mark_leased(self, block: Block) -> None:
        block.raw.waiting -= 1
        self.pooled_bytes -= block.capacity
        self.live_bytes += block.capacity
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self._leased[block.serial] = block

    def _grow(self, key: tuple[int, bool]) -> None:
        capacity, shared = key
        count = ARENA_BLOCKS if shared else 1
        raw = RawBuffer(self._create(count * capacity), count * capacity, count)
        with self._lock:
            self.allocated_bytes += raw.capacity
            self._put(Block(raw, index * capacity, capacity) for index in range(count))

    def _put(self, blocks: Any) -> None:
        for block in blocks:
            self.pooled_bytes += block.capacity
            block.raw.waiting += 1
            waiting = self._free.setdefault(block.size, [])
            heappush(waiting, (block.serial, block))

    def release(self, block: Block) -> None:
        """Take back the memory of a lease that has ended."""
        with self._lock:
            del self._leased[block.serial]
            self.live_bytes -= block.capacity
            self._put((block,))

    def reserve(self, blocks: Sequence[Block]) -> list[Buffer] | None:
        """Leases on given blocks, none if one of them does not wait for reuse."""
        with self._lock:
            waiting = {serial for members in self._free.values() for serial, _ in members}
            if not waiting.issuperset(block.serial for block in blocks):
                return None
            for block in blocks:
                self._free[block.size].remove((block.serial, block))
                self._mark_leased(block)
            for size in {block.size for block in blocks}:
                heapify(self._free[size])
        return [Buffer(self, block, block.capacity) for block in blocks]

    def reset_peak(self) -> None:
        """Begin a new measurement of `peak_bytes`."""
        with self._lock:
            self.peak_bytes = self.live_bytes

    def trim(self) -> list[int]:
        """Destroy all buffers of which nothing is leased.

        Returns:
            The serials of their blocks, so that caches can forget them.
        """
        idle: dict[int, RawBuffer] = {}
        serials: list[int] = []
        with self._lock:
            for key, waiting in self._free.items():
                kept = []
                for serial, block in waiting:
                    if block.raw.waiting == block.raw.blocks:
                        idle[id(block.raw)] = block.raw
                        serials.append(serial)
                        self.pooled_bytes -= block.capacity
                    else:
                        kept.append((serial, block))
                heapify(kept)
                self._free[key] = kept
            self.allocated_bytes -= sum(raw.capacity for raw in idle.values())
        for raw in idle.values():
            raw.handle.destroy()
        return serials
