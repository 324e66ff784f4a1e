"""The process of a VNF: its command line, and the REST interface that the driver calls.

A VNF offers what its image says: links that it counts, flows that it records, verdicts that it
enforces. It imports the modules for that alone: each costs half a millisecond as it starts.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from .http import RefusedError, serve
from .nft import NftError

if TYPE_CHECKING:
    from .links import LinkCounters
    from .measures import KernelMeasures
    from .observations import Observations

LINKS, FLOWS = "links", "flows"
"""What a VNF may look at: counters of links, records of flows."""
_USAGE = "--role ROLE --socket PATH --table phx_<8 hexadecimal digits>"
_OPTIONS = ("--role", "--socket", "--table")

T = TypeVar("T")
Ended = Callable[[], object]
Program = Callable[[str], Ended | None]
"""A function's own program: given the name of the VNF's tables, returns what ends it. That may have
a method ``report()``, whose dictionary each reading of a measure holds beside its counters."""


def main(
    arguments: list[str],
    role: str,
    version: str,
    observes: tuple[str, ...],
    enforces: tuple[str, ...],
    program: Program | None = None,
) -> int:
    """Serve until SIGTERM, then remove everything and exit.

    Returns:
        The exit code if it could not begin; why stands on standard error.

    Args:
        arguments: of the command line; argparse would cost 10 ms.
        role: name of the VNF in the image.
        version: of the image.
        observes: what it looks at, of ``LINKS`` and ``FLOWS``.
        enforces: verdicts that it puts in force.
        program: what the function brings along; it runs as long as the VNF does.

    """
    given = dict(zip(arguments[::2], arguments[1::2], strict=False))
    if len(arguments) != 2 * len(_OPTIONS) or set(given) != set(_OPTIONS):
        return _fail(f"usage: {_USAGE}")
    asked, table, path = given["--role"], given["--table"], Path(given["--socket"])
    if asked != role:
        return _fail(f"--role: {asked!r} is not in this image; allowed: {role}")
    digits = table.removeprefix("phx_")
    if digits == table or len(digits) != 8 or not set("0123456789abcdef").issuperset(digits):
        return _fail(f"--table: {table!r} is not phx_ and 8 hexadecimal digits")
    signal.signal(signal.SIGTERM, _stop)
    ended: Ended | None = None
    try:
        server = VnfServer(role, version, table, observes, enforces)
        listener = _listen(path)
        if program is not None:
            ended = program(table)
            server.report = getattr(ended, "report", dict)
    except (NftError, OSError) as error:
        return _fail(str(error))
    try:
        with listener:
            serve(listener, server.handle)
    finally:  # SystemExit
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        path.unlink(missing_ok=True)
        if ended is not None:
            ended()
        server.close()


class VnfServer:
    """Handles requests for one VNF; what it does not offer is refused with 403."""

    def __init__(
        self,
        role: str,
        version: str,
        table: str,
        observes: tuple[str, ...],
        enforces: tuple[str, ...],
    ) -> None:
        """Take over or clear what an earlier process of ``table`` left.

        Raises:
            NftError: if nftables cannot be used.

        """
        self._role = role
        self._version = version
        self._links: LinkCounters | None = None
        self._observations: Observations | None = None
        self._measures: KernelMeasures | None = None
        self.report: Callable[[], dict[str, Any]] = dict
        """Tells what readings of measures hold beside their counters."""
        if LINKS in observes:
            from .links import LinkCounters  # noqa: PLC0415  # see above

            self._links = LinkCounters(table)
        if FLOWS in observes:
            from .observations import Observations  # noqa: PLC0415

            self._observations = Observations(table)
        if enforces:
            from .measures import KernelMeasures  # noqa: PLC0415

            self._measures = KernelMeasures(table, enforces)

    def handle(self, method: str, target: str, body: object) -> tuple[int, Any]:
        """Carry out a request and return status and answer.

        Raises:
            RefusedError: if it is not carried out.

        """
        room, slash, name = target.removeprefix("/").partition("/")
        name = unquote(name)
        try:
            match method, room, bool(slash):
                case "GET", "health", False:
                    return 200, {"vnf": self._role, "version": self._version, "pid": os.getpid()}
                case "GET", "measures", False:
                    return 200, self._offered(self._measures).counts()
                case _, "measures", True:
                    return self._measure(method, name, body)
                case "PUT", "measures", False:
                    return 200, {"refused": self._offered(self._measures).put_all(body)}
                case "POST", "lease", False:
                    return 200, {"measures": self._offered(self._measures).renew(body)}
                case "POST", "observations", False:
                    return 200, self._offered(self._observations).observe(body)
                case _, "links", True:
                    return self._link(method, name, body)
        except NftError as error:
            raise RefusedError(500, f"nftables: {error}") from error
        except OSError as error:
            raise RefusedError(500, f"the kernel: {error}") from error
        raise RefusedError(404, "no such resource")

    def close(self) -> None:
        """Remove all that is in force."""
        for room in (self._links, self._observations, self._measures):
            if room is not None:
                room.close()

    def _measure(self, method: str, name: str, body: object) -> tuple[int, Any]:
        measures = self._offered(self._measures)
        match method:
            case "PUT":
                measures.put(name, body)
                return 201, {}
            case "DELETE":
                return 200, measures.delete(name)
            case "GET":
                return 200, measures.get(name) | self.report()
        raise RefusedError(405, "a measure takes PUT, GET and DELETE")

    def _link(self, method: str, name: str, body: object) -> tuple[int, Any]:
        links = self._offered(self._links)
        match method:
            case "PUT":
                links.put(name, body)
                return 201, {}
            case "GET":
                return 200, links.get(name)
            case "POST":
                return 200, links.watch(name, body)
        raise RefusedError(405, "a link takes PUT, GET and POST")

    def _offered(self, room: T | None) -> T:
        if room is None:
            raise RefusedError(403, f"a {self._role} does not offer that")
        return room


def _listen(path: Path) -> socket.socket:
    """Listen on a Unix socket that only the owner may use."""
    path.unlink(missing_ok=True)  # an earlier process was killed
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(64)
    return listener


def _stop(*_: object) -> None:
    raise SystemExit(0)


def _fail(reason: str) -> int:
    sys.stderr.write(f"{reason}\n")
    return 2
