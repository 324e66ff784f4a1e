"""The REST interface of a VNF: which role offers what, and how requests reach it.

A role imports its own rooms alone: each module costs a VNF half a millisecond as it starts.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from .fields import RefusedError
from .nft import NftError

if TYPE_CHECKING:
    from .links import Links
    from .measures import Measures
    from .observations import Observations

KINDS_OF: dict[str, tuple[str, ...]] = {
    "rate-limiter": ("link", "address", "flow"),
    "load-balancer": ("split",),
    "syn-proxy": ("proxy",),
}
"""Roles that keep measures, and of which kinds."""
OBSERVERS = ("anomaly-detector", "classifier", "classifier-lite")
MONITORS = ("link-monitor",)
ROLES = (*MONITORS, *OBSERVERS, *KINDS_OF)

T = TypeVar("T")


class Server:
    """Handles requests for one role; what the role does not offer is refused with 403."""

    def __init__(self, role: str, version: str, table: str) -> None:
        """Take over or clear what an earlier process of ``table`` left.

        Raises:
            NftError: if nftables cannot be used.

        """
        self._role = role
        self._version = version
        self._links: Links | None = None
        self._observations: Observations | None = None
        self._measures: Measures | None = None
        if role in MONITORS:
            from .links import Links  # noqa: PLC0415  # see above

            self._links = Links(table)
        elif role in OBSERVERS:
            from .observations import Observations  # noqa: PLC0415

            self._observations = Observations(table)
        else:
            from .measures import Measures  # noqa: PLC0415

            self._measures = Measures(table, KINDS_OF[role])

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
                measures.delete(name)
                return 204, None
            case "GET":
                return 200, measures.get(name)
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
