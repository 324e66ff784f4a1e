"""Questions to an HTTP server: bounded in time and size, each failure one line."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any, TypeVar
from urllib.parse import urlsplit

from phalanx.clock.wall import WallClock
from phalanx.domain.errors import PhalanxError
from phalanx.loading.refusals import one_line

T = TypeVar("T")


class HttpClient:
    """Asks one server, one question after the other, on a connection that stays open."""

    def __init__(
        self,
        url: str,
        server: str,
        fault: type[PhalanxError],
        timeout_s: float,
        longest: int,
        headers: dict[str, str],
        ca: Path | None = None,
    ) -> None:
        """Take where the server is; nothing is sent yet.

        Args:
            url: http://HOST:PORT/PATH or https://HOST/PATH.
            server: what it is called in errors, such as ``the node``.
            fault: class of the errors that are raised.
            timeout_s: for which an answer is waited for, in seconds.
            longest: octets of an answer.
            headers: of all questions.
            ca: certificates (PEM) that a server over TLS is verified with; None: the system's.

        Raises:
            PhalanxError: a ``fault``, if the URL names no host, or the certificates are none.

        """
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if host is None or parts.scheme not in ("http", "https"):
            raise fault(f"the URL of {server} is http://HOST:PORT or https://HOST")
        self.base = parts.path
        self._server, self._fault, self._headers = server, fault, headers
        self._timeout_s, self._longest = timeout_s, longest
        self._wire = http.client.HTTPConnection(host, port, timeout=timeout_s)
        if parts.scheme == "https":
            try:
                context = ssl.create_default_context(cafile=ca)
            except OSError as error:
                raise fault(one_line(f"{ca}: no certificates of an authority: {error}")) from None
            self._wire = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)

    def exchange(self, method: str, target: str, body: str | None = None) -> tuple[int, bytes]:
        """Send a request; return the status and the body of the answer.

        Raises:
            PhalanxError: a ``fault``, if there is no answer in time, or it is too large.

        """
        late = Timer(self._timeout_s, self._cut)  # of a socket it bounds each pause alone
        reused = self._wire.sock is not None
        try:
            self._wire.request(method, target, body, self._headers)
            self._cutting = self._wire.sock
            late.start()
            with self._wire.getresponse() as response:
                octets = response.read(self._longest + 1)
            if response.length and len(octets) <= self._longest:
                raise http.client.IncompleteRead(octets, response.length)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()  # the next question opens it again
            if reused and isinstance(error, ConnectionError):  # servers end idle connections
                return self.exchange(method, target, body)
            why = f"{self._server} cannot be reached: {str(error) or type(error).__name__}"
            raise self._fault(one_line(why)[:200]) from None
        finally:
            late.cancel()
        if len(octets) > self._longest:
            self.close()
            raise self._fault(f"an answer of {self._server} is larger than {self._longest} octets")
        return response.status, octets

    def close(self) -> None:
        """Close the connection; another question opens it again."""
        self._wire.close()

    def _cut(self) -> None:
        with suppress(OSError):
            self._cutting.shutdown(socket.SHUT_RDWR)


class ClockedWorker:
    """Does what waits, in a thread of its own; what comes of it is told by the clock."""

    def __init__(self, clock: WallClock, name: str) -> None:
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, name)
        self._closed = False

    def do(self, work: Callable[[], T], done: Callable[[T | PhalanxError], None]) -> None:
        """Do ``work`` after what was asked for before; ``done`` takes its result or its error."""
        if not self._closed:
            self._thread.submit(work).add_done_callback(partial(self._back, done))

    def close(self, last: Callable[[], None]) -> None:
        """End with ``last``, without waiting for it; nothing is told any more."""
        self._closed = True
        self._thread.submit(last)
        self._thread.shutdown(wait=False)

    def _back(self, done: Callable[[Any], None], work: Future[Any]) -> None:
        if self._closed or work.cancelled():
            return
        result = work.exception() or work.result()
        call = partial(self._clock.call_soon, partial(done, result))
        with suppress(RuntimeError):  # the clock has been closed, and nobody waits
            self._clock.loop.call_soon_threadsafe(call)
