"""The seal: an agent's messages to others, so that nothing in between reads or changes them.

A machine without I/O and without a clock: a payload or a frame and the time go in, frames come
out. The protocol is in docs/reference/seal.md. The times are those of any clock that does not
go back; no two peers' need agree.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from phalanx.bus.seal.handshake import Own
from phalanx.bus.seal.limits import LIMITS, SealLimits
from phalanx.bus.seal.outcome import OpenedFrame, Reason, RefusedFrame, SealCounters
from phalanx.bus.seal.peer import Peer
from phalanx.identity import Credentials, IdentityError
from phalanx.identity.names import Identity


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
