"""One identity's exchange in memory: what it may do is asked here, the hub does the rest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from phalanx.bus.exchange import (
    Answer,
    CaughtUp,
    Counters,
    Delivery,
    ExchangeError,
    Handler,
    NotPermittedError,
    StoredHandler,
    Subscription,
    Watcher,
)
from phalanx.bus.permissions import grants
from phalanx.bus.subjects import answers, matches
from phalanx.bus.wire import MAX_OCTETS
from phalanx.identity.names import Identity

if TYPE_CHECKING:
    from phalanx.bus.local.hub import LocalHub

_NONE: Mapping[str, str] = {}
_CLOSED = "the exchange is closed"
_REMEMBERED = 10_000


class LocalExchange:
    """Octets under subjects for one identity, made by ``LocalHub.join``; an ``Exchange``."""

    def __init__(self, hub: LocalHub, identity: Identity) -> None:
        self.identity = identity
        self.counters = Counters()
        self.connected = True
        self._hub = hub
        self._grants = grants(identity)
        self._answered = [p for p in map(answers, self._grants.subscribe) if p is not None]
        self._may: dict[str, bool] = {}
        """Whether it may publish under a subject, as far as that was asked."""
        self._waiting: deque[tuple[str, Callable[[], object], Callable[[str], None] | None]] = (
            deque()
        )
        """What is to go out once it is connected: its kind, what sends it, whom to tell if not."""
        self._on_change: list[Callable[[bool], None]] = []
        self._closed = False

    def on_change(self, handler: Callable[[bool], None]) -> None:
        """Tell ``handler`` whether it is connected whenever that changes."""
        self._on_change.append(handler)

    def publish(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send to whoever subscribes, at most once.

        Raises:
            NotPermittedError: if the identity may not publish there.
            ExchangeError: if the payload is longer than ``wire.MAX_OCTETS``.

        """
        self._check(subject, payload)
        delivery = Delivery(subject, payload, headers or _NONE)
        self.counters.published += 1
        self._send(_kind(subject), partial(self._hub.publish, self, delivery))

    def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        """Hear what is published under ``pattern`` from now on.

        Raises:
            NotPermittedError: if the identity may not hear all of that.

        """
        if not self._grants.may_subscribe(pattern):
            raise self._refusal(f"subscribe to {pattern}")
        return self._hub.hear(self, pattern, handler)

    def request(
        self,
        subject: str,
        payload: bytes,
        answer: Answer,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send, and call ``answer`` once: with the first answer, or with why there is none.

        Raises:
            NotPermittedError: if the identity may not publish there, or nobody answers what is
                sent there (``subjects.answers``).
            ExchangeError: if the payload is longer than ``wire.MAX_OCTETS``.

        """
        self._check(subject, payload)
        reply = answers(subject)
        if reply is None:
            raise self._refusal(f"ask under {subject}, where nobody answers")
        self.counters.published += 1
        delivery = Delivery(subject, payload, headers or _NONE, reply)
        send, give_up = self._hub.request(self, delivery, answer, timeout_s)
        self._send(_kind(subject), send, give_up)

    def respond(
        self, delivery: Delivery, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer a request; without effect if nobody waits for an answer. Once for each.

        Raises:
            NotPermittedError: if the identity does not serve what was asked.
            ExchangeError: if the payload is longer than ``wire.MAX_OCTETS``.

        """
        reply = delivery.reply
        if reply is None:
            return
        if not any(matches(pattern, reply) for pattern in self._answered):
            raise self._refusal(f"answer under {reply}")
        self._check_size(payload)
        answer = Delivery(reply, payload, headers or _NONE)
        self.counters.published += 1
        self._send(_kind(reply), partial(self._hub.respond, self, reply, answer))

    def append(
        self, subject: str, payload: bytes, message_id: str, done: Callable[[str | None], None]
    ) -> None:
        """Send to the stream that keeps ``subject``; ``done`` gets None once it is kept.

        Raises:
            NotPermittedError: if the identity may not publish there.
            ExchangeError: if the payload is longer than ``wire.MAX_OCTETS``.

        """
        self._check(subject, payload)
        delivery = Delivery(subject, payload, _NONE)
        self.counters.published += 1
        self._send(_kind(subject), partial(self._append, delivery, message_id, done), done)

    def follow(
        self,
        stream: str,
        handler: StoredHandler,
        *,
        pattern: str | None = None,
        durable: str | None = None,
        new_only: bool = False,
        since_s: float | None = None,
        caught_up: CaughtUp | None = None,
    ) -> Subscription:
        """Read a stream in order and go on with what comes; see ``Exchange``.

        Raises:
            NotPermittedError: if the identity may not read it.

        """
        if stream not in self._grants.follow:
            raise self._refusal(f"follow {stream}")
        cursor = None if durable is None else (self.identity.name, durable)
        kept = self._hub.stream(self.identity.domain, stream)
        return kept.follow(
            self,
            handler,
            pattern=pattern,
            cursor=cursor,
            new_only=new_only,
            since_s=since_s,
            caught_up=caught_up,
        )

    def put(self, table: str, key: str, value: bytes) -> None:
        """Write a key of a table; the last value stays until it is dropped.

        Raises:
            NotPermittedError: if the identity may not write it.
            ExchangeError: if the value is longer than ``wire.MAX_OCTETS``.

        """
        self._check_size(value)
        self._write(table, key, value)

    def drop(self, table: str, key: str) -> None:
        """Remove a key from a table.

        Raises:
            NotPermittedError: as for ``put``.

        """
        self._write(table, key, None)

    def watch(
        self, table: str, handler: Watcher, *, caught_up: CaughtUp | None = None
    ) -> Subscription:
        """Tell ``handler`` of all keys of a table now, and of each change from then on.

        Raises:
            NotPermittedError: if the identity may not read it.

        """
        if table not in self._grants.watch:
            raise self._refusal(f"watch {table}")
        return self._hub.table(self.identity.domain, table).watch(self, handler, caught_up)

    def close(self) -> None:
        """Hear and say no more; without effect the second time. What waits is shed if cut off."""
        if self._closed:
            return
        self._closed, self.connected = True, False
        for kind, _, give_up in self._waiting:
            self._shed(kind, give_up)
        self._waiting.clear()
        self._hub.ended(self, _CLOSED)

    # -- for the hub ------------------------------------------------------------------------

    def switch(self, *, connected: bool) -> None:
        """Cut or mend the connection."""
        if connected == self.connected:
            return
        self.connected = connected
        for handler in self._on_change:
            self._hub.clock.call_soon(partial(handler, connected))
        if connected:
            self.counters.reconnects += 1
            while self._waiting:
                self._waiting.popleft()[1]()
            self._hub.regained()

    def die(self) -> None:
        """End without a word."""
        self._closed, self.connected = True, False
        self._waiting.clear()
        self._hub.ended(self, None)

    def shed(self, what: str) -> None:
        """Count something that a full queue dropped."""
        self.counters.shed[what] = self.counters.shed.get(what, 0) + 1

    # -- on the way out ---------------------------------------------------------------------

    def _check(self, subject: str, payload: bytes) -> None:
        may = self._may.get(subject)
        if may is None:
            if len(self._may) >= _REMEMBERED:
                self._may.clear()
            may = self._may[subject] = self._grants.may_publish(subject)
        if not may:
            raise self._refusal(f"publish under {subject}")
        self._check_size(payload)

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > MAX_OCTETS:
            self._refuse("oversize")
            raise ExchangeError(f"{len(payload)} octets are too many, at most {MAX_OCTETS} may go")

    def _refusal(self, what: str) -> NotPermittedError:
        self._refuse("not permitted")
        return NotPermittedError(f"{self.identity.uri} may not {what}")

    def _refuse(self, reason: str) -> None:
        self.counters.refused[reason] = self.counters.refused.get(reason, 0) + 1

    def _send(
        self, kind: str, send: Callable[[], object], give_up: Callable[[str], None] | None = None
    ) -> None:
        """Send now, or when it is connected again; shed it if too much waits."""
        if self.connected:
            send()
        elif self._closed or len(self._waiting) >= self._hub.capacity:
            self._shed(kind, give_up)
        else:
            self._waiting.append((kind, send, give_up))

    def _shed(self, kind: str, give_up: Callable[[str], None] | None) -> None:
        self.shed(f"out.{kind}")
        if give_up is not None:
            reason = _CLOSED if self._closed else "too much waits to be sent"
            self._hub.clock.call_soon(partial(give_up, reason))

    def _append(
        self, delivery: Delivery, message_id: str, done: Callable[[str | None], None]
    ) -> None:
        if self._hub.publish(self, delivery, message_id):
            reason = None
        else:
            reason = f"no stream keeps {delivery.subject}"
        self._hub.clock.call_soon(partial(done, reason))

    def _write(self, table: str, key: str, value: bytes | None) -> None:
        if not self._grants.may_put(table, key):
            raise self._refusal(f"write {key} of {table}")
        kept = self._hub.table(self.identity.domain, table)
        self._send(table, partial(kept.write, key, value))


def _kind(subject: str) -> str:
    return subject.split(".", 3)[2]
