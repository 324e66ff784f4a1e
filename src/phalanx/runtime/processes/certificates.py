"""A process's certificate while it runs: taken anew from its files, and told of before its end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from phalanx.bus.client import BrokerClient
from phalanx.clock import Clock
from phalanx.identity import Credentials, LiveCredentials

LOOK_S = 2.0
"""How often the files are looked at, in real seconds: four ``stat``."""
_DAY = timedelta(days=1)


class Certificates:
    """Has a process use the certificate, key and revocation list that stand in its files.

    It looks at them every two seconds, and when a connection has ended, so that the next one is
    opened with what is there then. What it sees it records:

    ======================  ===============================================================
    event                   when
    ======================  ===============================================================
    ``certificate.holds``   at the begin, and when another certificate is in use
    ``certificate.ends``    once a day when it ends soon, or has ended
    ``certificate.unused``  the files hold something that is not used
    ``revocations.known``   a newer list of those who were revoked is in use
    ======================  ===============================================================
    """

    def __init__(
        self,
        live: LiveCredentials,
        exchange: BrokerClient,
        clock: Clock,
        record: Callable[..., Any],
        cause: str,
        *,
        speed: float = 1.0,
    ) -> None:
        """Begin to look.

        Args:
            live: the process's credentials, which the exchange connects with.
            exchange: of the process.
            clock: makes the turns.
            record: ``record(kind, cause, **data)``, as ``domain.events.Recorder.record``.
            cause: id of the event under which all this stands.
            speed: seconds of ``clock`` per second.

        """
        self._live = live
        self._clock = clock
        self._record = record
        self._cause = cause
        self._pause_s = LOOK_S * speed
        self._used = live.present
        self._told: str | None = None
        """The trouble that was recorded."""
        self._day: int | None = None
        """The day before the end that was recorded last."""
        live.on_change(self._changed)
        exchange.on_change(self._connected)
        self._say("certificate.holds")
        self._turn()

    def wrong(self) -> str | None:
        """Return what needs a look, in words; a health check."""
        live = self._live
        if live.trouble is not None:
            return f"not used: {live.trouble}"
        if live.ends_soon:
            name = live.present.identity.name
            verb = "ends" if live.left > timedelta() else "ended"
            return f"{verb} on {live.until:%Y-%m-%d %H:%M} UTC; phalanx domain renew DIR {name}"
        return None

    def _turn(self) -> None:
        self._look()
        self._clock.call_at(self._clock.now() + self._pause_s, self._turn)

    def _connected(self, connected: bool) -> None:
        if not connected:
            self._look()

    def _look(self) -> None:
        live = self._live
        live.look()
        if live.trouble != self._told:
            self._told = live.trouble
            if live.trouble is not None:
                self._record("certificate.unused", self._cause, reason=live.trouble)
        if live.ends_soon and (day := live.left // _DAY) != self._day:
            self._day = day
            self._say("certificate.ends")

    def _changed(self, fresh: Credentials) -> None:
        before, self._used = self._used, fresh
        if fresh.trust.number != before.trust.number:
            self._record("revocations.known", self._cause, number=fresh.trust.number)
        if fresh.certificate != before.certificate:
            self._day = None
            self._say("certificate.holds")

    def _say(self, kind: str) -> None:
        live = self._live
        self._record(
            kind,
            self._cause,
            until=f"{live.until:%Y-%m-%dT%H:%M:%SZ}",
            days=round(live.left / _DAY, 2),
        )
