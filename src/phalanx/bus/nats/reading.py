"""Reading a stream in order, whatever becomes of the connection and of the servers.

The reader keeps where it stands. The consumer at the server is a throw-away: it is in memory,
has a name that cannot be guessed and acknowledges nothing; when it, its server or the connection
is lost, or something is missing, the next one begins behind the last message that came.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Protocol

import msgspec

from phalanx.bus.nats.inbox import EPOCH, Reply
from phalanx.bus.nats.liveness import LivenessCheck
from phalanx.bus.nats.protocol import Arrived, read_headers

BATCH = 500
"""Most messages that are asked for and have not come."""
_EXPIRES_S = 30.0
_BEATS = 3
"""Heartbeats while the server may be silent."""
_AGAIN_S = 0.25
_UNUSED_S = 60.0
_LONGEST_S = 1e10
_NEW, _TIME = "new", "by_start_time"
_BEAT, _NONE, _OVER = "100", "404", "408"


class Broker(Protocol):
    """What a reader needs of the exchange."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where the timers run."""

    @property
    def deaf_s(self) -> float:
        """How long the server may be silent while it owes heartbeats."""

    def ask(self, subject: str, question: Any, answer: Callable[[Reply], None]) -> None:
        """Ask the server something; an answer comes within seconds, or a fault."""

    def listen(self, take: Callable[[Arrived], None]) -> tuple[int, str]:
        """Return (subscription, subject) of a new inbox."""

    def leave(self, subscription: int) -> None:
        """Give an inbox up."""

    def say(self, subject: str, payload: bytes, reply: str) -> None:
        """Publish to the server itself."""

    def complained(self, text: str) -> None:
        """Tell whoever listens that something is wrong."""


class StreamPosition:
    """Where in a stream a message stands, read from the subject that would acknowledge it."""

    __slots__ = ("number", "pending", "received", "sequence")

    def __init__(self, reply: str) -> None:
        """Read ``$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<…>…``.

        Raises:
            ValueError: if it is none.

        """
        parts = reply.split(".")
        at = 7 if len(parts) > 9 else 5
        if parts[:2] != ["$JS", "ACK"] or len(parts) < at + 4:
            raise ValueError(f"{reply!r} says no place in a stream")
        self.sequence = int(parts[at])
        self.number = int(parts[at + 1])
        """Counts what its consumer delivered, from 1 on."""
        self.received = int(parts[at + 2]) / 1e9
        self.pending = int(parts[at + 3])
        """How many more are there already."""


class StreamReader:
    """Reads a stream, or those of its subjects that match."""

    def __init__(
        self,
        broker: Broker,
        stream: str,
        only: str | None,
        take: Callable[[Arrived, StreamPosition], None],
        *,
        policy: str = "all",
        last: int = 0,
        since_s: float | None = None,
        ready: Callable[[bool, int], None] | None = None,
        lost: Callable[[int], None] | None = None,
        room: Callable[[], int] = lambda: BATCH,
    ) -> None:
        """Read from now on.

        Args:
            broker: the exchange.
            stream: its name.
            only: a pattern of subjects; None: all.
            take: is given each message.
            policy: where to begin if ``last`` is 0: ``all``, ``new`` or ``last_per_subject``.
            last: the sequence to begin behind.
            since_s: begin, if ``last`` is 0, with what was kept so many seconds ago, by the
                clock of the server; None: as ``policy`` says.
            ready: told each time that reading begins: whether the stream has begun anew since
                (what was read is of another one), and how much waits.
            lost: told how many of a whole stream it had discarded before they were read.
            room: how many more ``take`` can take now; call ``more`` when it grows.

        """
        self._broker = broker
        self._stream = stream
        self._only = only
        self._take = take
        self._policy = policy if since_s is None else _TIME
        self._last = last
        self._since_s = since_s
        self._start: datetime | None = None
        """Where that is; None: the server has to say first what time it is."""
        self._ready = ready
        self._lost = lost
        self._room = room
        self._sid = 0
        self._inbox = ""
        self._consumer = ""
        self._count = 0
        self._asked = 0
        self._heard = False
        self._check = LivenessCheck(broker.deaf_s)
        self._live = False
        """Whether the consumer is there."""
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Make a new consumer behind what was read; to be called on each new connection."""
        if self._closed:
            return
        self._end()
        self._count = self._asked = 0
        self._sid, self._inbox = self._broker.listen(self._arrived)
        consumer = self._consumer = secrets.token_hex(12)
        config: dict[str, Any] = {
            "name": consumer,
            "deliver_policy": self._policy,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": int(_UNUSED_S * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
        }
        if self._last:
            config |= {
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": self._last + 1,
            }
        elif self._start is not None:
            config["opt_start_time"] = self._start
        elif self._since_s is not None:
            config["deliver_policy"] = _NEW
        subject = f"$JS.API.CONSUMER.CREATE.{self._stream}.{consumer}"
        if self._only is not None:
            config["filter_subject"] = self._only
            subject += f".{self._only}"
        question = {"stream_name": self._stream, "config": config, "action": "create"}
        self._broker.ask(subject, question, lambda reply: self._made(consumer, reply))

    def more(self) -> None:
        """Ask for more if there is room."""
        room = min(self._room(), BATCH)
        if self._live and self._asked <= room // 2 and room > self._asked:
            self._pull(room - self._asked)

    def close(self) -> None:
        """Read no more."""
        if not self._closed:
            self._closed = True
            self._end()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sid:
            self._broker.leave(self._sid)
            self._sid = 0
        self._consumer, self._live = "", False

    def _again(self) -> None:
        self._end()
        if not self._closed:
            self._timer = self._broker.loop.call_later(_AGAIN_S, self.begin)

    def _made(self, consumer: str, reply: Reply) -> None:
        if consumer != self._consumer:
            return
        if reply.error is not None:
            self._broker.complained(f"stream {self._stream}: {reply.error.description}")
            self._again()
            return
        if self._since_s is not None and self._start is None and not self._last:
            ago = timedelta(seconds=min(self._since_s, _LONGEST_S))
            self._start = max(EPOCH, reply.created - ago)
            self.begin()
            return
        before = int(reply.delivered.get("stream_seq", 0))
        if before < self._last:  # fewer are there than were read: another stream of that name
            self._last = 0
            self._broker.complained(f"stream {self._stream} has begun anew")
            if self._ready is not None:
                self._ready(True, 0)
            self._again()
            return
        whole = self._policy == "all" or self._last
        if self._only is None and whole and before > self._last and self._lost is not None:
            self._lost(before - self._last)
        if self._policy in (_NEW, _TIME):
            self._last = max(self._last, before)
        if self._ready is not None:
            self._ready(False, reply.num_pending)
        if consumer != self._consumer:  # whoever was told has closed us
            return
        self._live = True
        self._check = LivenessCheck(self._broker.deaf_s)
        self._timer = self._broker.loop.call_later(self._check.turn_s, self._turn)
        self.more()

    def _pull(self, batch: int) -> None:
        question = {
            "batch": batch,
            "expires": int(_EXPIRES_S * 1e9),
            "idle_heartbeat": int(self._broker.deaf_s / _BEATS * 1e9),
        }
        self._asked += batch
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        self._broker.say(subject, msgspec.json.encode(question), self._inbox)

    def _turn(self) -> None:
        """Begin again if the server is silent while it owes heartbeats."""
        self._check.turn(self._heard or not self._asked)
        self._heard = False
        if self._check.over:
            self.begin()
        else:
            self._timer = self._broker.loop.call_later(self._check.turn_s, self._turn)

    def _arrived(self, message: Arrived) -> None:
        self._heard = True
        if message.subject == self._inbox:  # the server's own; what it kept has its own subject
            self._status(*read_headers(message.headers))
            return
        place = StreamPosition(message.reply or "")
        self._count += 1
        if place.number != self._count:
            self._again()
            return
        self._asked -= 1
        self._last = place.sequence
        self._take(message, place)
        self.more()

    def _status(self, status: str | None, fields: dict[str, str]) -> None:
        if status == _BEAT:
            return
        if status in (_NONE, _OVER):
            self._asked = max(0, self._asked - int(fields.get("Nats-Pending-Messages", 0)))
            self.more()
        else:  # 409: the consumer or its leader is gone; 503: nobody knows it
            self._again()
