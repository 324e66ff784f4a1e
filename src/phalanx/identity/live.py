"""The credentials of a process that runs: they follow their files.

Files are replaced one after the other, by tools that may write them in place. So what is read
counts only if no file changed meanwhile and all fit together; until then what was in use stays.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from phalanx.identity.credentials import Credentials, Files, tls_context
from phalanx.identity.errors import IdentityError
from phalanx.identity.trust import wall_time

OnChange = Callable[[Credentials], object]
"""Told of credentials that are in use from now on."""

SOON = timedelta(days=14)


class LiveCredentials:
    """The credentials in ``files``, and those that replace them later.

    Args:
        files: where they are.
        time: the time of day.

    Raises:
        IdentityError: as ``Credentials.read`` and ``tls_context``.

    """

    def __init__(self, files: Files, time: Callable[[], datetime] = wall_time) -> None:
        self.files = files
        self.trouble: str | None = None
        """Why what the files hold now is not in use; None: it is."""
        self._time = time
        self._seen = _stamps(files)
        self.present = Credentials.read(files, time)
        """Those in use."""
        self.tls = tls_context(files)
        """How to connect with them; the same object always, also for later connections."""
        self._told: list[OnChange] = []

    @property
    def until(self) -> datetime:
        """When the certificate ends."""
        return self.present.certificate.not_valid_after_utc

    @property
    def left(self) -> timedelta:
        """How long the certificate still holds; negative once it has ended."""
        return self.until - self._time()

    @property
    def ends_soon(self) -> bool:
        """Whether it is time to renew it: in its last 14 days, or its last quarter if shorter."""
        life = self.until - self.present.certificate.not_valid_before_utc
        return self.left < min(SOON, life / 4)

    def on_change(self, handler: OnChange) -> None:
        """Tell ``handler`` of credentials that are in use from now on."""
        self._told.append(handler)

    def look(self) -> bool:
        """Use what the files hold, if it is new and usable; return whether that is so.

        It costs four ``stat`` where nothing changed. What was in use stays if the files hold
        another identity or authority, an older revocation list, or nothing that is usable.
        """
        stamps = _stamps(self.files)
        if stamps == self._seen:
            return False
        try:
            fresh = Credentials.read(self.files, self._time)
            self._check(fresh)
            tls_context(self.files)  # tried apart: one that fails leaves the one in use half new
            if _stamps(self.files) != stamps:
                return False  # somebody is writing: the next look finds it whole
            self.tls.load_cert_chain(self.files.certificate, self.files.key)
        except (IdentityError, OSError) as error:
            self.trouble = str(error)
            return False  # and is read again the next time: a certificate may become valid
        self._seen, self.trouble = stamps, None
        before, self.present = self.present, fresh
        if (fresh.certificate, fresh.trust.number) == (before.certificate, before.trust.number):
            return False
        for handler in self._told:
            handler(fresh)
        return True

    def _check(self, fresh: Credentials) -> None:
        files, present = self.files, self.present
        if fresh.identity != present.identity:
            raise IdentityError(
                f"{files.certificate}: is that of {fresh.identity.uri}; "
                f"this process is {present.identity.uri}"
            )
        if fresh.trust.authority != present.trust.authority:
            raise IdentityError(
                f"{files.authority}: is another authority; it is taken when the process starts anew"
            )
        if fresh.trust.number < present.trust.number:
            raise IdentityError(
                f"{files.revoked}: number {fresh.trust.number} is older than the list in use, "
                f"number {present.trust.number}"
            )


def _stamps(files: Files) -> tuple[tuple[int, ...] | None, ...]:
    """Return what changes when one of the files does."""
    return tuple(map(_stamp, (files.certificate, files.key, files.authority, files.revoked)))


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode
