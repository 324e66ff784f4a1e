"""Serves the console for a log, a run in this process, or a domain."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from msgspec import Struct

from phalanx.console.api import Api, Controls
from phalanx.console.feed import Feed, Thinning
from phalanx.console.resources import StandingView
from phalanx.console.sessions import Sessions
from phalanx.console.story import StoryView
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event

PORT = 8420
LOOPBACK = ("127.0.0.1", "localhost")


class Address(Struct, frozen=True):
    """Where to serve."""

    host: str = LOOPBACK[0]
    port: int = PORT
    certificate: Path | None = None
    """PEM of TLS, with the key in the same file or beside it; None: plain HTTP."""
    key: Path | None = None

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOOPBACK

    @property
    def url(self) -> str:
        """Where a browser of this machine finds it."""
        name = LOOPBACK[0] if self.host == "0.0.0.0" else self.host  # noqa: S104
        return f"{'http' if self.certificate is None else 'https'}://{name}:{self.port}/"


class ConsoleServer:
    """The console's server; it takes events from any thread.

    Args:
        address: where to serve.
        sessions: checks who asks.
        controls: what can be done; None: nothing.
        live: whether the log grows.
        thinning: what is left out of a large log.

    Raises:
        PhalanxError: if it cannot listen there.

    """

    def __init__(
        self,
        address: Address,
        sessions: Sessions,
        *,
        controls: Controls | None = None,
        live: bool = False,
        thinning: Thinning | None = None,
    ) -> None:
        self.feed = Feed(thinning)
        self._resources = StandingView()
        self._story = StoryView()
        self._socket = _listen(address)
        port = self._socket.getsockname()[1]
        self.address = Address(address.host, port, address.certificate, address.key)
        hosts = [*LOOPBACK] if address.loopback else ["*"]
        self._api = Api(
            self.feed,
            self._resources,
            self._story,
            sessions,
            hosts=hosts,
            controls=controls,
            live=live,
            secure=address.certificate is not None,
        )
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._api.app,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
                ssl_certfile=address.certificate,
                ssl_keyfile=address.key,
            )
        )

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        self._resources.add(event)
        self._story.add(event)
        self.feed.add(event)

    def serve(self) -> None:
        """Serve until SIGINT or SIGTERM, or until ``stop``."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._api.closing = True
            self._socket.close()
            self.feed.close()

    def stop(self) -> None:
        """Have ``serve`` return soon."""
        self._api.closing = True
        self._server.should_exit = True

    @property
    def stopping(self) -> bool:
        """Whether the end was asked for."""
        return self._server.should_exit

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Serve in a thread of its own while the block runs."""
        thread = threading.Thread(target=self.serve, name="console", daemon=True)
        thread.start()
        while not self._server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield
        finally:
            self.stop()
            thread.join(5.0)


def _listen(address: Address) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((address.host, address.port))
    except OSError as error:
        listening.close()
        where = f"{address.host}:{address.port}"
        why = error.strerror or error
        raise PhalanxError(f"{where}: {why}; --port chooses another one, 0 a free one") from None
    listening.listen(128)  # who comes before the server runs waits, and is not refused
    listening.set_inheritable(False)
    return listening


def open_browser(url: str, code: str) -> None:
    """Open the page in the user's browser, logged in.

    The code goes through a file that its owner alone can read, not through an argument.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".html", delete=False) as file:
        file.write(
            f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" '
            f'content="0; url={url}#login={code}"><title>Phalanx</title>'
        )
    path = Path(file.name)
    webbrowser.open(path.as_uri())
    threading.Timer(20.0, lambda: path.unlink(missing_ok=True)).start()
