"""Work that takes time: coroutines and threads whose results become calls of the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from phalanx.clock.wall import WallClock
from phalanx.domain.errors import PhalanxError

T = TypeVar("T")

THREADS = 24
"""Requests to VNFs and kernels that may be under way at a time; each observation takes one."""


class TaskError(PhalanxError):
    """What was asked of the machine did not work; one line says why."""


class Tasks:
    """Starts work, and delivers its result in the order and the thread of the clock."""

    def __init__(self, clock: WallClock) -> None:
        self._clock = clock
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="phalanx-task")
        self._tasks: set[asyncio.Task[None]] = set()

    def start(
        self, work: Coroutine[Any, Any, T], done: Callable[[T], None], failed: Callable[[str], None]
    ) -> asyncio.Task[None]:
        """Do ``work``, then call ``done`` with its result, or ``failed`` with one line.

        A cancelled task calls neither. An unexpected error ends the run.
        """
        task = self._clock.loop.create_task(self._do(work, done, failed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # cancelled before it began
        return task

    def forget(self, work: Coroutine[Any, Any, Any], failed: Callable[[str], None]) -> None:
        """Do ``work`` and discard its result."""
        self.start(work, lambda _: None, failed)

    async def thread(self, call: Callable[..., T], *args: Any) -> T:
        """Make a blocking call in a thread."""
        return await self._clock.loop.run_in_executor(self._threads, partial(call, *args))

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work`` before the clock runs or after it has stopped."""
        return self._clock.loop.run_until_complete(work)

    def stop(self) -> None:
        """Cancel what is under way; only after the clock has stopped."""
        while tasks := list(self._tasks):  # the end of one may start another
            for task in tasks:
                task.cancel()
            self._clock.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _do(
        self, work: Coroutine[Any, Any, T], done: Callable[[T], None], failed: Callable[[str], None]
    ) -> None:
        try:
            result = await work
        except (PhalanxError, OSError) as error:
            self._clock.call_soon(partial(failed, str(error) or type(error).__name__))
        except Exception as error:  # the clock raises it in the run
            self._clock.call_soon(partial(_raise, error))
        else:
            self._clock.call_soon(partial(done, result))


def _raise(error: Exception) -> None:
    raise error
