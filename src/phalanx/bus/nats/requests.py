"""Requests that wait for an answer."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from phalanx.bus.client import Answer, Delivery, Silence, Unanswered
from phalanx.bus.nats.inbox import NOBODY
from phalanx.bus.nats.protocol import Arrived, publish, read_headers
from phalanx.clock.wall import WallClock, WallTimer

Soon = Callable[[Callable[[Any], None], Any], None]


class Requests:
    """Gives each request a subject for its answer, below that of who is to answer."""

    def __init__(self, clock: WallClock, send: Callable[[str, bytes], bool], soon: Soon) -> None:
        """Make none yet.

        Args:
            clock: ends those that nobody answers.
            send: takes a subject and the octets that publish there; says whether it could.
            soon: has a call made by the clock.

        """
        self._clock = clock
        self._send = send
        self._soon = soon
        self._run = secrets.token_hex(8)
        self._count = 0
        self._open: dict[str, tuple[Answer, WallTimer]] = {}

    @property
    def open(self) -> int:
        """How many wait for an answer."""
        return len(self._open)

    def ask(
        self,
        subject: str,
        pattern: str,
        payload: bytes,
        answer: Answer,
        timeout_s: float,
        headers: Mapping[str, str] | None,
    ) -> None:
        """Send a request; its answer comes under ``pattern``, which ends in a ``*``."""
        self._count += 1
        reply = f"{pattern[:-1]}{self._run}{self._count:x}"
        late = partial(self._late, reply, timeout_s)
        self._open[reply] = answer, self._clock.call_later(timeout_s, late)
        if not self._send(subject, publish(subject, payload, reply, headers)):
            self._end(reply, Silence.CUT, "too much waits to be sent")

    def arrived(self, message: Arrived) -> bool:
        """Take an answer; return False if nobody waits for it."""
        if message.subject not in self._open:
            return False
        status, headers = read_headers(message.headers) if message.headers else (None, {})
        if status is not None:
            if status == NOBODY:
                self._end(message.subject, Silence.UNSERVED, "nobody serves it")
            else:
                self._end(message.subject, Silence.CUT, f"the server says {status}")
            return True
        answer, timer = self._open.pop(message.subject)
        timer.cancel()
        self._soon(answer, Delivery(message.subject, message.payload, headers))
        return True

    def close(self, reason: str) -> None:
        """Answer all that wait with ``reason``."""
        for reply in list(self._open):
            self._end(reply, Silence.CUT, reason)

    def _late(self, reply: str, timeout_s: float) -> None:
        answer, _ = self._open.pop(reply)
        answer(Unanswered(Silence.LATE, f"no answer within {timeout_s:g} s"))

    def _end(self, reply: str, why: Silence, reason: str) -> None:
        answer, timer = self._open.pop(reply)
        timer.cancel()
        self._soon(answer, Unanswered(why, reason))
