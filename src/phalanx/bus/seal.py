"""The seal: an agent's messages to others, so that nothing in between reads or changes them.

A machine without I/O and without a clock: a payload or a frame and the time go in, frames come
out. The protocol is in docs/reference/seal.md. The times are those of any clock that does not
go back; no two peers' need agree.

=========  =======================================================================
session    is
=========  =======================================================================
current    what is sent goes out under it; both sides are known to have it
believed   frames of it are opened; the current one and those before it
pending    answered, but the peer has not shown yet that it lives: an old hello,
           sent again by an attacker, never comes further than this
=========  =======================================================================
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from math import inf

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Struct

from phalanx.bus.seal_frames import (
    ANSWER,
    HELLO,
    LIMITS,
    OVERHEAD,
    SEALED,
    SHARED,
    Greeting,
    OpenedFrame,
    Reason,
    RefusedFrame,
    SealCounters,
    SealLimits,
    SealSession,
    agree,
    derive,
    digest,
    greet,
    mark,
    open_shared,
    parse,
    share,
    shared_slot,
)
from phalanx.bus.subjects import message
from phalanx.identity.credentials import Credentials
from phalanx.identity.names import Identity, IdentityError

RESPONDER_WAITS_S = 30.0
"""How much later than the initiator the responder makes a new session: one of them is enough."""


class Own(Struct):
    """What all peers are met with."""

    credentials: Credentials
    incarnation: int
    limits: SealLimits
    counters: SealCounters
    ephemeral: Callable[[], X25519PrivateKey]


class Handshake:
    """What is signed for one peer, and what is believed of it."""

    def __init__(self, own: Own, name: str) -> None:
        me = own.credentials.identity
        self._own = own
        self._name = name
        self.subjects = (
            message(me.domain, name, me.name).encode(),
            message(me.domain, me.name, name).encode(),
        )

    def disbelieved(self, greeting: Greeting, least: int) -> RefusedFrame | None:
        """Return why it is not the peer's, in its life ``least`` or later; None if it is."""
        me = self._own.credentials.identity
        try:
            identity, key = self._own.credentials.trust.identify_der(greeting.certificate)
        except IdentityError as error:
            return RefusedFrame(Reason.IDENTITY, str(error))
        if identity != Identity(self._name, me.role, me.domain):
            return RefusedFrame(Reason.IDENTITY, f"the certificate is that of {identity.uri}")
        if not greeting.signed_by(key, self.subjects[1]):
            return RefusedFrame(Reason.FORGED)
        if greeting.incarnation < least:
            return RefusedFrame(
                Reason.STALE,
                f"incarnation {greeting.incarnation}, and {least} was here",
            )
        return None

    def sign(self, key: X25519PrivateKey, answers: bytes = b"") -> tuple[bytes, bytes]:
        """Return a hello, or an answer to the hello of digest ``answers``: (body, frame)."""
        credentials = self._own.credentials
        return greet(
            credentials.key,
            self.subjects[0],
            credentials.certificate.public_bytes(Encoding.DER),
            self._own.incarnation,
            key.public_key().public_bytes_raw(),
            answers,
        )

    def agreed(
        self,
        key: X25519PrivateKey,
        greeting: Greeting,
        hello: bytes,
        answer: bytes,
        now: float,
        answered: bytes = b"",
    ) -> SealSession | None:
        """Return the session of a handshake; None if the peer's ephemeral key is none.

        Args:
            key: one's own ephemeral key.
            greeting: the peer's.
            hello: body of the hello.
            answer: body of the answer.
            now: the time.
            answered: the whole answer, of its responder; nothing: this is the initiator.

        """
        shared = agree(key, greeting.ephemeral)
        if shared is None:
            return None
        limits = self._own.limits
        waits = RESPONDER_WAITS_S if answered else 0.0
        return SealSession(
            derive(shared, hello + answer),
            initiator=not answered,
            subjects=self.subjects,
            born=now,
            rekeys=now + limits.rekey_s + waits,
            ends=now + limits.rekey_s + limits.overlap_s,
            incarnation=greeting.incarnation,
            certificate=greeting.certificate,
            hello=digest(hello),
            answer=answered,
        )


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
        self._mark = mark(self._handshake.subjects[1])
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

    def lasting(self, now: float) -> SealSession | None:
        """Return the session to send under; None if there is none that needs no new one soon."""
        session, limits = self._current, self._own.limits
        if session is None or now >= min(session.ends, session.rekeys):
            return None
        return session if session.sent < limits.rekey_messages else None

    def open(self, frame: bytes, now: float) -> OpenedFrame | RefusedFrame:
        """Return what a frame of the peer was."""
        kind = frame[0] if frame else 0
        if kind == SHARED:
            try:
                found = shared_slot(frame, self._mark)
            except struct.error:
                return RefusedFrame(Reason.GARBAGE)
            return OpenedFrame(None) if found is None else self._open_sealed(*found, now)
        if kind == SEALED and len(frame) >= OVERHEAD:
            return self._open_sealed(frame, b"", now)
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

    def _open_sealed(self, frame: bytes, shared: bytes, now: float) -> OpenedFrame | RefusedFrame:
        name = frame[1:9]
        session = self._believed.get(name)
        pending = session is None
        if session is None:
            session = self._pending.get(name)
        if session is None or now >= session.ends:
            return RefusedFrame(Reason.NO_SESSION, replies=self._unknown(now))
        payload = session.open(frame, digest(shared) if shared else b"")
        if shared and not isinstance(payload, Reason):
            payload = open_shared(payload, shared)
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


class Seal:
    """Seals what one agent sends to its peers, and opens what they send.

    Args:
        credentials: the agent's certificate and key, and the trust in its domain's authority.
        incarnation: number of the agent's life, higher than in any life before, from 1 on.
        limits: bounds.
        ephemeral: makes the key of a handshake.

    """

    def __init__(
        self,
        credentials: Credentials,
        incarnation: int,
        limits: SealLimits = LIMITS,
        ephemeral: Callable[[], X25519PrivateKey] = X25519PrivateKey.generate,
    ) -> None:
        self.counters = SealCounters()
        self._own = Own(credentials, incarnation, limits, self.counters, ephemeral)
        self._peers: dict[str, Peer] = {}
        self._due = inf

    @property
    def identity(self) -> Identity:
        """Whose messages it seals."""
        return self._own.credentials.identity

    @property
    def due(self) -> float | None:
        """When ``tick`` is to be called, in seconds of the caller's clock; None: not at all."""
        return None if self._due == inf else self._due

    def wrap(self, peer: str, payload: bytes, now: float) -> list[bytes]:
        """Return the frames to send to ``peer`` now.

        A payload for a peer without keys waits for them, up to a bound; what is returned then
        is a hello, or nothing while one is on its way.

        Raises:
            ValueError: if the payload is empty, or the peer is the agent itself.

        """
        if not payload or peer == self.identity.name:
            raise ValueError("a payload of at least one octet for another agent is expected")
        self.counters.wrapped += 1
        state = self._peers.get(peer) or self._meet(peer, now)
        if state is None:
            self.counters.shed += 1
            return []
        frames = state.wrap(payload, now)
        self._due = min(self._due, state.due)
        return frames

    def share(
        self, peers: Sequence[str], payload: bytes, now: float
    ) -> tuple[bytes | None, list[tuple[str, bytes]]]:
        """Return one frame for many peers, and what to send to each of the others now.

        The others are those without lasting keys: what is said of ``wrap`` holds for them. There
        is no frame for many where most peers would have to look at it in vain.
        """
        sessions = {
            name: session
            for name in peers
            if (state := self._peers.get(name)) and (session := state.lasting(now))
        }
        if len(sessions) < 2 or 2 * len(sessions) < len(self._peers):
            sessions.clear()
        self.counters.wrapped += len(sessions)
        rest = [name for name in peers if name not in sessions]
        alone = [(name, frame) for name in rest for frame in self.wrap(name, payload, now)]
        return (share(list(sessions.values()), payload) if sessions else None), alone

    def open(self, peer: str, frame: bytes, now: float) -> OpenedFrame | RefusedFrame:
        """Return what a frame was that came in as ``peer``'s, and what to send back.

        Whatever the frame is, what was agreed before stays as it is: only the living peer,
        who has the key of its certificate, comes to a new agreement.
        """
        state = self._peers.get(peer) or self._meet(peer, now)
        if state is None:
            outcome: OpenedFrame | RefusedFrame = RefusedFrame(Reason.TOO_OFTEN, "too many peers")
        else:
            outcome = state.open(frame, now)
            self._due = min(self._due, state.due)
        if isinstance(outcome, RefusedFrame):
            refused = self.counters.refused
            refused[outcome.reason] = refused.get(outcome.reason, 0) + 1
        return outcome

    def tick(self, now: float) -> list[tuple[str, bytes]]:
        """Return frames to send, (peer, frame), because time has passed; see ``due``."""
        frames = []
        for name, state in self._peers.items():
            if now >= state.due:
                frames += [(name, frame) for frame in state.tick(now)]
        self._due = min((state.due for state in self._peers.values()), default=inf)
        return frames

    def use(self, credentials: Credentials) -> tuple[str, ...]:
        """Go on with a renewed certificate or a newer revocation list.

        Returns:
            The peers whose certificates are no longer taken; their keys are dropped.

        Raises:
            ValueError: if they are another identity's.

        """
        if credentials.identity != self.identity:
            raise ValueError(f"these are credentials of {credentials.identity.uri}")
        self._own.credentials = credentials
        dropped = []
        for name, state in self._peers.items():
            try:
                for certificate in state.certificates():
                    credentials.trust.identify_der(certificate)
            except IdentityError:
                state.forget()
                dropped.append(name)
        return tuple(dropped)

    def _meet(self, peer: str, now: float) -> Peer | None:
        """Begin to know a peer; one that nothing is known of makes room for it."""
        if len(self._peers) >= self._own.limits.peers:
            idle = next((name for name, state in self._peers.items() if state.idle), None)
            if idle is None:
                return None
            del self._peers[idle]
        state = self._peers[peer] = Peer(self._own, peer, now)
        return state


def _keep(sessions: dict[bytes, SealSession], session: SealSession, most: int) -> None:
    """Add a session to a bounded table; the oldest one leaves it."""
    sessions[session.id] = session
    if len(sessions) > most:
        del sessions[next(iter(sessions))]
