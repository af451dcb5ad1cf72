"""Dispatches recorded again and again: what a program that repeats itself need not work out anew.

What a program asks of the device in one go is noted down while it runs (`Trace`). Where it asks the
same again, of the same memory, the commands can be issued without the program (`Replay`), at a
small part of the host's time. Only what counts random draws moves on from one time to the next.
"""

from __future__ import annotations

import struct
import weakref
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from ebm_wgpu.gpu.buffers import Block, Buffer, BufferView
from ebm_wgpu.gpu.pipelines import Storage

_WORDS = {4: struct.Struct("<I"), 8: struct.Struct("<Q")}


class Drawn(int):
    """A parameter that grows by `per_draw` with each random draw, modulo the size of its field."""

    per_draw: int

    def __new__(cls, value: int, per_draw: int) -> Drawn:
        """The number `value` as it is now."""
        number = super().__new__(cls, value)
        number.per_draw = per_draw
        return number


class Field(NamedTuple):
    """A `Drawn` in a parameter block.

    Attributes:
        offset: its first byte.
        size: bytes, 4 or 8.
        per_draw: what it grows by.
    """

    offset: int
    size: int
    per_draw: int


class Launch(NamedTuple):
    """A recorded dispatch.

    Attributes:
        pipeline: wgpu pipeline.
        group: wgpu bind group.
        immediates: the parameter block.
        groups: workgroups along x, y and z.
        drawn: what of the parameter block counts draws.
    """

    pipeline: Any
    group: Any
    immediates: bytes
    groups: tuple[int, int, int]
    drawn: tuple[Field, ...]

    def after(self, draws: int) -> bytes:
        """The parameter block `draws` draws later."""
        if not self.drawn:
            return self.immediates
        block = bytearray(self.immediates)
        for offset, size, per_draw in self.drawn:
            word = _WORDS[size]
            value = word.unpack_from(block, offset)[0] + draws * per_draw
            word.pack_into(block, offset, value % (1 << 8 * size))
        return bytes(block)


class Trace:
    """The dispatches of a runtime between two moments, and what else it was asked for.

    Attributes:
        launches: in order.
        obstacles: what cannot be done again without the program: values copied in or out.
    """

    def __init__(self, begin: int) -> None:
        """Leases with numbers above `begin` are made meanwhile."""
        self.launches: list[Launch] = []
        self.obstacles: list[str] = []
        self._begin = begin
        self._blocks: dict[int, tuple[Block, weakref.ref[Buffer]]] = {}

    def add(self, launch: Launch, buffers: Sequence[Storage]) -> None:
        """Note a dispatch on `buffers`."""
        self.launches.append(launch)
        for buffer in buffers:
            lease = buffer.lease if isinstance(buffer, BufferView) else buffer
            self._blocks[lease.block.serial] = lease.block, weakref.ref(lease)

    def is_like(self, before: Trace, draws: int) -> bool:
        """Whether the same was done as in a trace `draws` random draws earlier, wherever it lay."""
        return len(self.launches) == len(before.launches) and all(
            now.pipeline.label == then.pipeline.label
            and now.groups == then.groups
            and now.drawn == then.drawn
            and now.immediates == then.after(draws)
            for now, then in zip(self.launches, before.launches, strict=True)
        )

    def lies_like(self, before: Trace) -> bool:
        """Whether what was done like `before` (`is_like`) was done in the same memory."""
        return all(
            now.group is then.group
            for now, then in zip(self.launches, before.launches, strict=True)
        )

    def memory(self) -> tuple[list[Buffer], list[Block]]:
        """Leases that are alive of the memory that was used, and the blocks of those that ended."""
        alive: list[Buffer] = []
        ended: list[Block] = []
        for block, reference in self._blocks.values():
            lease = reference()
            if lease is None:
                ended.append(block)
            else:
                alive.append(lease)
        return alive, ended

    def leaves_behind(self, results: Collection[Buffer]) -> bool:
        """Whether memory leased meanwhile is still held, other than that of `results`.

        What is done next may begin from what is there, and would not if this were done again.
        """
        known = {lease.number for lease in results}
        alive, _ = self.memory()
        return any(lease.number > self._begin and lease.number not in known for lease in alive)


class Replay:
    """Dispatches that can be recorded again, with the memory they use.

    Attributes:
        launches: in order; empty once the memory was given back.
    """

    def __init__(self, launches: Sequence[Launch], leases: Sequence[Buffer]) -> None:
        """`leases` hold all memory of the launches."""
        self.launches = tuple(launches)
        self._leases = tuple(leases)

    def mark(self, serial: int) -> None:
        """Say that the recording of a serial number, and perhaps earlier ones, use the memory."""
        for lease in self._leases:
            lease.block.recorded_in = serial

    def release(self) -> None:
        """Give the memory back: nothing can be replayed any more."""
        self.launches = ()
        self._leases = ()
