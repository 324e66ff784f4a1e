"""Telling VNFs which measures to keep: what is asked together goes together.

A flood has several sources, and all are blocked in the same moment. One request, one transaction
of the kernel and one of the journal cost little more for all of them than for each.
"""

from __future__ import annotations

import asyncio

from msgspec import Struct

from phalanx.infrastructure.linux.jobs import JobError, Jobs, LoopClock
from phalanx.infrastructure.linux.journal import Entry, Journal
from phalanx.infrastructure.linux.programs import Programs
from phalanx.infrastructure.linux.vnf.measures import MOST_AT_ONCE


class _Order(Struct, eq=False):
    entry: Entry
    ttl_s: float
    done: asyncio.Future[None]

    def refuse(self, reason: str) -> None:
        """Let who waits for it fail."""
        if not self.done.done():
            self.done.set_exception(JobError(reason))


class Telling:
    """Has measures put in force, and the journal note them."""

    def __init__(self, clock: LoopClock, jobs: Jobs, programs: Programs, journal: Journal) -> None:
        """Tell nothing yet."""
        self._loop = clock.loop
        self._jobs = jobs
        self._programs = programs
        self._journal = journal
        self._waiting: dict[str, list[_Order]] = {}

    async def put(self, entry: Entry, ttl_s: float) -> None:
        """Put a measure in force for ``ttl_s`` seconds, and note that on disk.

        Raises:
            JobError: if its VNF refuses, or does not answer, or the disk does not take it.

        """
        order = _Order(entry, ttl_s, self._loop.create_future())
        if entry.instance in self._waiting:
            self._waiting[entry.instance].append(order)
        else:
            self._begin(entry.instance, [order])
        await order.done

    def _begin(self, instance: str, orders: list[_Order]) -> None:
        """Begin a request, which takes along what comes until its turn has come."""
        self._waiting[instance] = orders
        taken: list[_Order] = []

        def failed(reason: str) -> None:
            for order in taken or self._take(instance):
                order.refuse(reason)

        self._jobs.start(self._tell(instance, taken), lambda _: None, failed)

    async def _tell(self, instance: str, taken: list[_Order]) -> None:
        def measures() -> dict[str, object]:
            taken.extend(self._take(instance))
            return {o.entry.measure: {**o.entry.body, "ttl_s": o.ttl_s} for o in taken}

        answer = await self._programs.change(instance, "PUT", "/measures", measures)
        refused = answer["refused"]
        kept = [order for order in taken if order.entry.measure not in refused]
        if kept:
            noted = [(order.entry, order.ttl_s) for order in kept]
            await self._jobs.thread(self._journal.put, noted)
        for order in taken:
            if order.entry.measure in refused:
                order.refuse(refused[order.entry.measure])
            elif not order.done.done():  # else nobody waits for it any more
                order.done.set_result(None)

    def _take(self, instance: str) -> list[_Order]:
        """Return what goes into one request, and begin another for the rest."""
        waiting = self._waiting.pop(instance)
        if waiting[MOST_AT_ONCE:]:
            self._begin(instance, waiting[MOST_AT_ONCE:])
        return waiting[:MOST_AT_ONCE]
