"""The plain seal: nothing is hidden, but nothing is taken twice, nor from an earlier life.

A frame is a kind (1 octet), the sender's incarnation, the receiver's, a number (8 octets each,
most significant first) and, of ``DATA``, a payload. An agent speaks to the life of a peer that
it knows, and a peer takes only what is said to its present life by the latest life of the
sender that it has heard of. So a replay of what was said before a restart of either side is
refused without anything kept on disk, but for the incarnation, which must grow with each start.
Within one pair of lives, a window tells what came in already.

The first frame to a peer is a ``HELLO``; what there is to say waits for the ``HERE`` that
answers it. Who is spoken to in an earlier life answers ``HERE`` as well: no more is lost by a
restart than what was on its way.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, IntEnum
from math import inf
from struct import Struct as Packing

from msgspec import Struct

from phalanx.bus.window import Window

WAITING = 256
"""Payloads that may wait for one peer to say who it is; further ones are shed."""
WAITING_S = 10.0
"""How long they wait, in seconds: an auction is over by then."""
RETRY_S = 0.2
"""When a hello is said again, in seconds; then after twice as long, up to ..."""
RETRY_MOST_S = 2.0
PEERS = 4096
"""Peers that are known at a time."""

_FIRST = 1
"""The least number of ``DATA``; all else has none."""
_HEAD = Packing(">BQQQ")


class Kind(IntEnum):
    """What a frame is for."""

    DATA = 1
    HELLO = 2
    HERE = 3


class Reason(Enum):
    """Why a frame is refused."""

    GARBAGE = "garbage"
    """It is no frame."""
    REPLAYED = "replayed"
    """It came in before, or is too old to tell."""
    STALE = "stale"
    """It is of an earlier life of the peer, or was said to an earlier one of this agent."""
    STRANGER = "stranger"
    """More peers spoke than can be known."""


class Opened(Struct, frozen=True):
    """A frame that was taken."""

    payload: bytes | None
    """What the peer wrapped; None: it was only about who is there."""
    replies: tuple[bytes, ...] = ()
    """Frames to send to the peer now."""


class Refused(Struct, frozen=True):
    """A frame that was not taken."""

    reason: Reason
    replies: tuple[bytes, ...] = ()
    """Frames to send to the peer now."""


class Counters(Struct):
    """What became of what could not be sent at once."""

    shed: int = 0
    """Payloads dropped because too many waited."""
    lapsed: int = 0
    """Payloads dropped because they waited too long."""
    waiting: int = 0
    """Payloads that wait now."""


class _Peer:
    """What is known of a peer."""

    __slots__ = ("due", "incarnation", "pause", "sent", "waiting", "window")

    def __init__(self) -> None:
        self.incarnation = 0
        """Its latest life, 0 while none is known."""
        self.window = Window(_FIRST)
        self.sent = 0
        self.waiting: deque[tuple[float, bytes]] = deque()
        """When each payload is too old, and the payload."""
        self.due = inf
        """When a hello is to be said again."""
        self.pause = RETRY_S


class PlainSeal:
    """Numbers what one agent sends to its peers, and takes what they send once.

    Without I/O and without a clock: a payload or a frame and the time go in, frames come out.
    Times are in seconds of any clock that does not go back.
    """

    def __init__(self, incarnation: int) -> None:
        """Begin a life.

        Args:
            incarnation: higher than in any life before, from 1 on.

        Raises:
            ValueError: if it is not.

        """
        if not 1 <= incarnation < 1 << 64:
            raise ValueError(f"the incarnation is {incarnation}, allowed is 1 or more")
        self.counters = Counters()
        self._incarnation = incarnation
        self._peers: dict[str, _Peer] = {}
        self._due = inf

    @property
    def due(self) -> float | None:
        """When ``tick`` is to be called; None: not at all."""
        return None if self._due == inf else self._due

    def wrap(self, peer: str, payload: bytes, now: float) -> list[bytes]:
        """Return the frames to send to ``peer`` now.

        A payload for a peer of which nothing was heard waits for it, up to a bound.
        """
        state = self._peers.get(peer) or self._meet(peer)
        if state is None:
            self.counters.shed += 1
            return []
        if state.incarnation:
            return [self._data(state, payload)]
        if len(state.waiting) >= WAITING:
            self.counters.shed += 1
            return []
        state.waiting.append((now + WAITING_S, payload))
        self.counters.waiting += 1
        if state.due != inf:
            return []
        state.pause, state.due = RETRY_S, now + RETRY_S
        self._due = min(self._due, state.due)
        return [self._frame(Kind.HELLO, state)]

    def open(self, peer: str, frame: bytes, now: float) -> Opened | Refused:  # noqa: ARG002  # a seal's
        """Return what a frame was that came in as ``peer``'s, and what to send back."""
        if len(frame) < _HEAD.size:
            return Refused(Reason.GARBAGE)
        kind, sender, receiver, number = _HEAD.unpack_from(frame)
        if not sender or (kind == Kind.DATA) != (len(frame) > _HEAD.size):
            return Refused(Reason.GARBAGE)
        state = self._peers.get(peer) or self._meet(peer)
        if state is None:
            return Refused(Reason.STRANGER)
        if sender < state.incarnation:
            return Refused(Reason.STALE)
        match kind:
            case Kind.HELLO:
                here = self._frame(Kind.HERE, state, sender)
                return Opened(None, (here, *self._met(state, sender)))
            case Kind.HERE if receiver == self._incarnation:
                return Opened(None, self._met(state, sender))
            case Kind.DATA if receiver == self._incarnation:
                replies = self._met(state, sender)
                if not state.window.fresh(number):
                    return Refused(Reason.REPLAYED, replies)
                state.window.mark(number)
                return Opened(frame[_HEAD.size :], replies)
            case Kind.DATA:
                return Refused(Reason.STALE, (self._frame(Kind.HERE, state, sender),))
            case Kind.HERE:
                return Refused(Reason.STALE)
        return Refused(Reason.GARBAGE)

    def tick(self, now: float) -> list[tuple[str, bytes]]:
        """Return frames to send, (peer, frame), because time has passed; see ``due``."""
        frames = []
        for name, state in self._peers.items():
            if now < state.due:
                continue
            while state.waiting and state.waiting[0][0] <= now:
                state.waiting.popleft()
                self.counters.waiting -= 1
                self.counters.lapsed += 1
            if not state.waiting:
                state.due = inf
                continue
            state.pause = min(2 * state.pause, RETRY_MOST_S)
            state.due = now + state.pause
            frames.append((name, self._frame(Kind.HELLO, state)))
        self._due = min((state.due for state in self._peers.values()), default=inf)
        return frames

    def _meet(self, peer: str) -> _Peer | None:
        if len(self._peers) >= PEERS:
            return None
        state = self._peers[peer] = _Peer()
        return state

    def _met(self, state: _Peer, incarnation: int) -> tuple[bytes, ...]:
        """Know the peer's life from now on; return what waited for that."""
        if incarnation > state.incarnation:
            state.incarnation, state.window = incarnation, Window(_FIRST)
        self.counters.waiting -= len(state.waiting)
        frames = tuple(self._data(state, payload) for _, payload in state.waiting)
        state.waiting.clear()
        state.due = inf
        return frames

    def _data(self, state: _Peer, payload: bytes) -> bytes:
        state.sent += 1
        return _HEAD.pack(Kind.DATA, self._incarnation, state.incarnation, state.sent) + payload

    def _frame(self, kind: Kind, state: _Peer, receiver: int | None = None) -> bytes:
        to = state.incarnation if receiver is None else receiver
        return _HEAD.pack(kind, self._incarnation, to, 0)
