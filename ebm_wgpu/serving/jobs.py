"""Work for a model that does one thing at a time, asked for and awaited on an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class BusyError(Exception):
    """More work waits than the server takes on."""


class _Abandoned(Exception):
    """Nobody waits for what is being made."""


class _End:
    """What follows the last result of a job."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error


class Job(Generic[T]):
    """Results that a thread makes and an event loop awaits, in their order.

    The thread calls `put` and `check`; everything else belongs to the event loop.
    """

    def __init__(self) -> None:
        """A job that nobody works on yet; made on the event loop that will await it."""
        self._loop = asyncio.get_running_loop()
        self._results: asyncio.Queue[T | _End] = asyncio.Queue()
        self._abandoned = threading.Event()

    def put(self, result: T) -> None:
        """Hand a result over; ends the work if nobody waits for it."""
        self.check()
        self._loop.call_soon_threadsafe(self._results.put_nowait, result)

    def check(self) -> None:
        """End the work if nobody waits for it."""
        if self._abandoned.is_set():
            raise _Abandoned

    def abandon(self) -> None:
        """Wait for nothing more; the work ends at its next `check`."""
        self._abandoned.set()

    async def results(self) -> AsyncGenerator[T, None]:
        """The results as they come, and then the error that ended the work, if one did.

        Left early, it abandons the job.
        """
        try:
            while not isinstance(result := await self._results.get(), _End):
                yield result
            if result.error is not None:
                raise result.error
        finally:
            self.abandon()

    def run(self, work: Callable[[], None]) -> None:
        """Work, in the thread that calls it, and say when it is over."""
        error = None
        try:
            self.check()
            work()
        except _Abandoned:
            pass
        # Whatever it is belongs to the request that asked for it, not to the thread.
        except Exception as failure:
            error = failure
        self._loop.call_soon_threadsafe(self._results.put_nowait, _End(error))


class JobQueue:
    """One thread that does one job after the other."""

    def __init__(self, most: int) -> None:
        """A thread, for at most `most` jobs that are not over."""
        self._most = most
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._jobs: set[Job] = set()

    def start(self, job: Job, work: Callable[[], None]) -> None:
        """Do the work of a job when all before it are over; call it on the event loop.

        Raises:
            BusyError: too many jobs are not over.
        """
        if len(self._jobs) >= self._most:
            raise BusyError(f"{len(self._jobs)} requests wait already: try again later")
        self._jobs.add(job)
        future = asyncio.get_running_loop().run_in_executor(self._thread, job.run, work)
        future.add_done_callback(lambda _: self._jobs.discard(job))

    async def close(self) -> None:
        """Abandon all jobs and wait until the thread has noticed."""
        for job in self._jobs:
            job.abandon()
        await asyncio.to_thread(self._thread.shutdown)
