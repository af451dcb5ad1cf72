"""Process-wide settings a trainer holds while it trains, and gives back."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numba
import torch

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HANGUP = getattr(signal, "SIGHUP", None)
"""A terminal or connection that closes, on POSIX; whoever started with nohup ignores it."""


class Interrupts:
    """Turns the first SIGINT, SIGTERM or SIGHUP inside its `with` block into a request to stop.

    A second one acts as if there were no such block, so that a run that hangs can be ended. Outside
    the main thread, where Python allows no handlers, it watches nothing.

    Attributes:
        requested: whether a signal came.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._request)
            if _HANGUP is not None and signal.getsignal(_HANGUP) is not signal.SIG_IGN:
                self._previous[_HANGUP] = signal.signal(_HANGUP, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)


@contextlib.contextmanager
def deterministic_torch() -> Iterator[None]:
    """Let torch choose only algorithms that give the same bits each time, inside the block.

    The number of threads is part of that: it decides how sums are split. Numba's OpenMP layer
    changes torch's when it starts, so it is started here, and torch's number put back.
    """
    flags: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), flags.fill_uninitialized_memory
    threads = torch.get_num_threads()
    numba.get_num_threads()
    torch.set_num_threads(threads)
    # As use_deterministic_algorithms(True), which would spend seconds on importing a compiler.
    torch.set_deterministic_debug_mode("error")
    # Poisoning fresh memory finds bugs; it is no part of determinism, and costs time.
    flags.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        flags.fill_uninitialized_memory = before[1]
