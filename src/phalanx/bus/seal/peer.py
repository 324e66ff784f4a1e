"""One peer: the agreements with it, and how they come about.

=========  =======================================================================
session    is
=========  =======================================================================
current    what is sent goes out under it; both sides are known to have it
believed   frames of it are opened; the current one and those before it
pending    answered, but the peer has not shown yet that it lives: an old hello,
           sent again by somebody else, never comes further than this
=========  =======================================================================
"""

from __future__ import annotations

from collections import deque
from math import inf

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Struct

from phalanx.bus.seal.frames import ANSWER, HELLO, OVERHEAD, SEALED, Greeting, digest, parse
from phalanx.bus.seal.handshake import Handshake, Own
from phalanx.bus.seal.outcome import OpenedFrame, Reason, RefusedFrame
from phalanx.bus.seal.session import SealSession


class _Hello(Struct):
    """A hello that waits for its answer."""

    key: X25519PrivateKey
    body: bytes
    frame: bytes
    digest: bytes
    ends: float
    again: float
    """When it is sent again."""
    wait_s: float
    needed: bool = True
    """Whether there is still no other session that would do."""


class Peer:
    """The state of one pair."""

    def __init__(self, own: Own, name: str, now: float) -> None:
        self.due = inf
        """When ``tick`` has something to do."""
        self._own = own
        self._handshake = Handshake(own, name)
        self._incarnation = 0
        """The highest that a living peer has shown."""
        self._current: SealSession | None = None
        self._believed: dict[bytes, SealSession] = {}
        self._pending: dict[bytes, SealSession] = {}
        self._hello: _Hello | None = None
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._octets = 0
        self._unknown_at = -inf
        self._allowance = float(own.limits.hellos)
        self._allowed_at = now

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost with it."""
        return not (self._believed or self._waiting or self._hello)

    def wrap(self, payload: bytes, now: float) -> list[bytes]:
        """Return the frames to send now; none while ``payload`` waits for keys."""
        session = self._current
        if session is None or now >= session.ends:
            self._wait(payload, now)
            return self._ask(now)
        frame = session.seal(payload)
        if now >= session.rekeys or session.sent >= self._own.limits.rekey_messages:
            return [*self._ask(now), frame]
        return [frame]

    def open(self, frame: bytes, now: float) -> OpenedFrame | RefusedFrame:
        """Return what a frame of the peer was."""
        kind = frame[0] if frame else 0
        if kind == SEALED and len(frame) >= OVERHEAD:
            return self._open_sealed(frame, now)
        greeting = parse(frame) if kind in (HELLO, ANSWER) else None
        if greeting is None:
            return RefusedFrame(Reason.GARBAGE)
        return self._answered(greeting, now) if kind == ANSWER else self._greeted(greeting, now)

    def tick(self, now: float) -> list[bytes]:
        """Drop what is over, and ask again for what is not answered."""
        for kept in (self._believed, self._pending):
            for key in [key for key, session in kept.items() if now >= session.ends]:
                del kept[key]
        if self._current is not None and now >= self._current.ends:
            self._current = None
        while self._waiting and now >= self._waiting[0][0] + self._own.limits.waiting_s:
            self._unwait()
            self._own.counters.lapsed += 1
        hello = self._hello
        if hello is not None and now >= hello.ends:
            self._hello = hello = None
        frames = []
        if self._waiting or (hello is not None and now >= hello.again):
            frames = self._ask(now)
        self._schedule()
        return frames

    def forget(self) -> None:
        """Drop all keys, and count what waited for some as shed."""
        self._current = self._hello = None
        self._believed.clear()
        self._pending.clear()
        while self._waiting:
            self._unwait()
            self._own.counters.shed += 1
        self._schedule()

    def certificates(self) -> set[bytes]:
        """Return the certificates by which the peer agreed to what there is."""
        return {s.certificate for kept in (self._believed, self._pending) for s in kept.values()}

    # -- sealed frames ----------------------------------------------------------------------

    def _open_sealed(self, frame: bytes, now: float) -> OpenedFrame | RefusedFrame:
        name = frame[1:9]
        session = self._believed.get(name)
        pending = session is None
        if session is None:
            session = self._pending.get(name)
        if session is None or now >= session.ends:
            return RefusedFrame(Reason.NO_SESSION, replies=self._unknown(now))
        payload = session.open(frame)
        if isinstance(payload, Reason):
            return RefusedFrame(payload)
        replies = tuple(self._establish(session)) if pending else ()
        if not payload:
            return OpenedFrame(None, replies)
        self._own.counters.opened += 1
        return OpenedFrame(payload, replies)

    def _unknown(self, now: float) -> tuple[bytes, ...]:
        """Ask for keys because the peer uses unknown ones; not for each frame of many."""
        if now < self._unknown_at + self._own.limits.unknown_s:
            return ()
        self._unknown_at = now
        return tuple(self._ask(now))

    # -- handshake --------------------------------------------------------------------------

    def _ask(self, now: float) -> list[bytes]:
        """Return a hello to send now, or nothing while the last one may still be answered."""
        limits, hello = self._own.limits, self._hello
        if hello is None or not hello.needed or now >= hello.ends:
            key = self._own.ephemeral()
            body, frame = self._handshake.sign(key)
            ends = now + limits.hello_s
            hello = _Hello(key, body, frame, digest(body), ends, now, limits.retry_s)
            self._hello = hello
        elif now < hello.again:
            return []
        hello.again = min(now + hello.wait_s, hello.ends)
        hello.wait_s = min(2 * hello.wait_s, limits.retry_most_s)
        self._schedule()
        return [hello.frame]

    def _greeted(self, hello: Greeting, now: float) -> OpenedFrame | RefusedFrame:
        """Answer a hello; nothing of what there is changes by it."""
        named = digest(hello.body)
        for answered in self._pending.values():
            if answered.hello == named:
                return OpenedFrame(None, (answered.answer,))
        if any(session.hello == named for session in self._believed.values()):
            return RefusedFrame(Reason.REPLAYED)
        if not self._may_greet(now):
            return RefusedFrame(Reason.TOO_OFTEN)
        if refused := self._handshake.disbelieved(hello, self._incarnation):
            return refused
        key = self._own.ephemeral()
        body, frame = self._handshake.sign(key, named)
        session = self._handshake.agreed(key, hello, hello.body, body, now, frame)
        if session is None:
            return RefusedFrame(Reason.FORGED, "its ephemeral key is none")
        _keep(self._pending, session, self._own.limits.sessions)
        self._schedule()
        return OpenedFrame(None, (frame,))

    def _answered(self, answer: Greeting, now: float) -> OpenedFrame | RefusedFrame:
        """Take the answer to one's hello: the peer lives, and both sides have the keys."""
        hello = self._hello
        if hello is None or hello.digest != answer.answers or now >= hello.ends:
            known = any(session.hello == answer.answers for session in self._believed.values())
            return RefusedFrame(Reason.REPLAYED if known else Reason.UNASKED)
        if refused := self._handshake.disbelieved(answer, self._incarnation):
            return refused
        session = self._handshake.agreed(hello.key, answer, hello.body, answer.body, now)
        if session is None:
            return RefusedFrame(Reason.FORGED, "its ephemeral key is none")
        self._hello = None
        return OpenedFrame(None, tuple(self._establish(session) or [session.seal(b"")]))

    def _establish(self, session: SealSession) -> list[bytes]:
        """Use a session from now on; return what waited for it."""
        self._pending.pop(session.id, None)
        if session.incarnation > self._incarnation:
            self._incarnation = session.incarnation
            for kept in (self._believed, self._pending):
                for key in [k for k, s in kept.items() if s.incarnation < session.incarnation]:
                    del kept[key]
        self._current = session
        _keep(self._believed, session, self._own.limits.sessions)
        self._own.counters.sessions += 1
        if self._hello is not None:
            self._hello.needed = False  # an answer on its way is still welcome
            self._hello.again = self._hello.ends
        frames = []
        while self._waiting:
            frames.append(session.seal(self._unwait()))
        self._schedule()
        return frames

    # -- bounds -----------------------------------------------------------------------------

    def _may_greet(self, now: float) -> bool:
        limits = self._own.limits
        earned = (now - self._allowed_at) * limits.hellos_per_s
        self._allowance = min(self._allowance + earned, limits.hellos)
        self._allowed_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _wait(self, payload: bytes, now: float) -> None:
        limits, counters = self._own.limits, self._own.counters
        self._waiting.append((now, payload))
        self._octets += len(payload)
        counters.waiting += 1
        while len(self._waiting) > limits.waiting or self._octets > limits.waiting_octets:
            self._unwait()
            counters.shed += 1

    def _unwait(self) -> bytes:
        _, payload = self._waiting.popleft()
        self._octets -= len(payload)
        self._own.counters.waiting -= 1
        return payload

    def _schedule(self) -> None:
        ends = [s.ends for kept in (self._believed, self._pending) for s in kept.values()]
        if self._hello is not None:
            ends.append(self._hello.again)
        self.due = min(ends, default=inf)


def _keep(sessions: dict[bytes, SealSession], session: SealSession, most: int) -> None:
    """Add a session to a bounded table; the oldest one leaves it."""
    sessions[session.id] = session
    if len(sessions) > most:
        del sessions[next(iter(sessions))]
