"""Who may look and who may act: tokens of two roles, signed sessions, and limits of rate.

Nothing is kept but one key: tokens, sessions and the secrets against forged requests are its
HMACs. So a session outlives a restart of the server, and a new key ends all of them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from msgspec import Struct

from phalanx.domain.errors import PhalanxError
from phalanx.identity.files import read, write

RoleName = Literal["viewer", "operator"]
ROLES: tuple[RoleName, ...] = ("viewer", "operator")
SESSION_S = 12 * 3600.0
CODE_S = 600.0
MOST_CLIENTS = 4096
"""Clients whose rate is remembered; the longest unseen is forgotten first."""


class ConsoleSession(Struct, frozen=True):
    """A login that was checked."""

    name: str
    """Distinguishes logins of one role in the audit."""
    role: RoleName
    cookie: str
    csrf: str
    """Must come with each action, which another site cannot read and so cannot send."""


class Sessions:
    """Checks tokens and cookies.

    Args:
        key: 32 octets or more; who has it can make any token.
        now: seconds since 1970.

    """

    def __init__(self, key: bytes, now: Callable[[], float]) -> None:
        self._key = key
        self._now = now
        self._codes: dict[str, tuple[RoleName, float]] = {}

    def token(self, role: RoleName) -> str:
        """Return the token of a role."""
        return self._mac(f"token {role}")

    def code(self, role: RoleName) -> str:
        """Return a word that logs in once, within ten minutes: for the address that is opened."""
        code = secrets.token_urlsafe(18)
        self._codes[code] = role, self._now() + CODE_S
        return code

    def login(self, token: str) -> ConsoleSession | None:
        """Return a new session for who has a token; None for who has none."""
        given = token.encode("utf-8", "replace")
        role, until = self._codes.pop(token, (None, 0.0))
        if role is not None and self._now() < until:
            return self._new(role)
        found = [r for r in ROLES if hmac.compare_digest(self.token(r).encode(), given)]
        return self._new(found[0]) if found else None

    def _new(self, role: RoleName) -> ConsoleSession:
        until = int(self._now() + SESSION_S)
        return self._session(f"{role}-{secrets.token_hex(3)}", role, until)

    def check(self, cookie: str) -> ConsoleSession | None:
        """Return the session of a cookie; None if it is none, or is over."""
        name, _, rest = cookie.partition(".")
        until, _, mac = rest.partition(".")
        role = next((r for r in ROLES if name.startswith(f"{r}-")), None)
        if role is None or not until.isdecimal() or len(until) > 12:
            return None
        session = self._session(name, role, int(until))
        good = hmac.compare_digest(session.cookie.encode(), cookie.encode("utf-8", "replace"))
        return session if good and self._now() < int(until) and mac else None

    def _session(self, name: str, role: RoleName, until: int) -> ConsoleSession:
        cookie = f"{name}.{until}.{self._mac(f'session {name} {until}')}"
        return ConsoleSession(name, role, cookie, self._mac(f"csrf {name} {until}"))

    def _mac(self, text: str) -> str:
        digest = hmac.new(self._key, text.encode("utf-8", "replace"), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest[:24]).decode()


class RateLimit:
    """A token bucket for each client.

    Args:
        burst: requests at once.
        per_s: requests a second in the long run.
        now: seconds that never go back.

    """

    def __init__(self, burst: float, per_s: float, now: Callable[[], float]) -> None:
        self._burst, self._per_s, self._now = burst, per_s, now
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, client: str) -> float:
        """Count a request; return 0 if it may pass, else after how many seconds one may."""
        now = self._now()
        left, before = self._left.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - before) * self._per_s)
        passes = left >= 1.0
        self._left[client] = (left - passes, now)
        if len(self._left) > MOST_CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if passes else (1.0 - left) / self._per_s


def session_key(path: Path | None = None) -> bytes:
    """Return the key that sessions are signed with; make it on the first start.

    Args:
        path: its file, 0600; None: ``phalanx/console.key`` in the user's state folder.

    Raises:
        PhalanxError: if it cannot be read or written.

    """
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    file = path or state / "phalanx" / "console.key"
    if not file.exists():
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise PhalanxError(f"{file.parent}: {error.strerror or error}") from None
        write(file, secrets.token_hex(32).encode(), secret=True)
    key = read(file, secret=True).strip()
    if len(key) < 32:
        raise PhalanxError(f"{file}: holds no key of 32 octets; remove it, and a new one is made")
    return key
