"""JSON-RPC over HTTP: to any Ethereum node, and from the embedded chain to other processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw, Struct

from phalanx.clock import Clock
from phalanx.clock.wall import WallClock
from phalanx.ledger import LedgerError
from phalanx.ledger.chain import EmbeddedChain, RpcError
from phalanx.ledger.ethereum import one_line
from phalanx.ledger.node import Answered, EthereumNode, options_of, seconds
from phalanx.loading.http import ClockedWorker, HttpClient

TIMEOUT_S = 5.0
"""For which a node may be silent."""
LONGEST = 8 << 20
"""Octets of an answer."""
LONGEST_QUESTION = 256 << 10


class _Fault(Struct):
    message: str = ""


class _Reply(Struct):
    result: Raw = Raw(b"null")
    error: _Fault | None = None
    id: int | None = None


class HttpCarrier:
    """Asks a node over HTTP, one question after the other, in a thread of its own."""

    def __init__(self, url: str, clock: WallClock, poll_s: float) -> None:
        """Take the node's URL, and how often it is asked whether there is a new block.

        Raises:
            LedgerError: if the URL names no host.

        """
        headers = {"Content-Type": "application/json"}
        self._client = HttpClient(url, "the node", LedgerError, TIMEOUT_S, LONGEST, headers)
        query = urlsplit(url).query
        self._path = (self._client.base or "/") + (f"?{query}" if query else "")
        self._clock = clock
        self._poll_s = poll_s
        self._worker = ClockedWorker(clock, "ledger")
        self._asked = 0
        self._closed = False

    def ask(self, method: str, params: list[Any], answered: Answered) -> None:
        """Ask the node; the answer comes by the clock."""
        self._asked += 1
        self._worker.do(partial(self._post, self._asked, method, params), answered)

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` each time that the node is to be asked."""

        def again() -> None:
            if not self._closed:
                changed()
                self._clock.call_at(self._clock.now() + self._poll_s, again)

        self._clock.call_soon(again)

    def close(self) -> None:
        """End, without waiting for an answer."""
        self._closed = True
        self._worker.close(self._client.close)

    def _post(self, number: int, method: str, params: list[Any]) -> Any:
        """Ask, and return the result or the error; what else is wrong is a LedgerError."""
        if self._closed:
            return None
        asked = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        _, octets = self._client.exchange("POST", self._path, json.dumps(asked))
        try:
            reply = msgspec.json.decode(octets, type=_Reply)
            if reply.id != number:
                raise ValueError
            if reply.error is not None:
                return RpcError(one_line(reply.error.message))
            return msgspec.json.decode(reply.result)
        except (ValueError, RecursionError):  # msgspec's errors are of the first kind
            self._client.close()
            return LedgerError(f"the node answered {method} with something else")


def open_http(url: str, clock: Clock) -> EthereumNode:
    """Open the ledger at an Ethereum node.

    Raises:
        LedgerError: if the URL is wrong, or the clock is not the wall clock.

    """
    if not isinstance(clock, WallClock):
        raise LedgerError("an Ethereum node keeps real time; on virtual time there is 'memory:'")
    bare, options = options_of(url, ("operator", "confirmations", "gas_price", "poll"))
    carrier = HttpCarrier(bare, clock, seconds(options, "poll", 1.0))
    parts = urlsplit(bare)
    # The rest of the URL may be a key of whoever runs the node.
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return EthereumNode(shown, clock, carrier, options)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that went away."""


class ChainServer:
    """Serves an embedded chain's JSON-RPC while the clock runs."""

    def __init__(
        self, chain: EmbeddedChain, clock: WallClock, port: int, host: str = "127.0.0.1"
    ) -> None:
        """Listen; 0 takes any port.

        Raises:
            LedgerError: if the port is taken, or the address is none of this machine.

        """

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60.0
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_POST(self) -> None:
                """Answer one question."""
                size = self.headers.get("Content-Length", "")
                if not size.isdecimal() or int(size) > LONGEST_QUESTION:
                    self.send_error(413)
                    return
                octets = self.rfile.read(int(size))
                made: Future[Any] = Future()
                loop.call_soon_threadsafe(
                    clock.call_soon, lambda: made.set_result(_answer(chain, octets))
                )
                try:
                    reply = json.dumps(made.result(TIMEOUT_S)).encode()
                except TimeoutError:  # the clock stands
                    self.send_error(503)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        loop: asyncio.AbstractEventLoop = clock.loop
        try:
            self._server = _Server((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise LedgerError(f"port {port} cannot be used: {error}") from None
        self.url = f"http://{host}:{self._server.server_port}"
        serving = partial(self._server.serve_forever, poll_interval=0.05)
        Thread(target=serving, name="ledger", daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


def _answer(chain: EmbeddedChain, octets: bytes) -> dict[str, Any]:
    """Return what a node answers to the octets of a question."""
    number = None
    try:
        asked = msgspec.json.decode(octets)
        number = asked["id"]
        return {
            "jsonrpc": "2.0",
            "id": number,
            "result": chain.ask(asked["method"], asked["params"]),
        }
    except LedgerError as error:
        fault = {"code": -32000, "message": str(error)}
    except (msgspec.MsgspecError, TypeError, KeyError, RecursionError):
        fault = {"code": -32600, "message": "invalid request"}
    return {"jsonrpc": "2.0", "id": number, "error": fault}
