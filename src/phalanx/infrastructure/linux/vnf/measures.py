"""What a VNF keeps in force: limits, blocks, handshake proxies and splits, each under a lease."""

from __future__ import annotations

import time
from threading import Lock
from typing import Any

from . import bundles, limits
from .bundles import Bundle
from .fields import Fields, RefusedError
from .netlink import Reader
from .nft import Nft, NftError
from .proxy import prepare, proxy, restore

KINDS = ("link", "address", "flow", "proxy", "split")
LONGEST_TTL_S = 3600.0
LARGEST_RATE_MB_S = 1e6
MOST = 1024
"""Measures that one process keeps at a time."""
MOST_AT_ONCE = 32
MOST_DEVICES, MOST_PARTS = 64, 64
SWEEP_EVERY_S = 1.0
"""Measures that have run out may lie in the kernel, without effect, for so much longer."""
LONGEST_NAME = 100
"""Octets of a measure's name; in hexadecimal it must fit the names of nftables."""
_FIELDS = {
    "link": ("rate_mb_s",),
    "address": ("address", "rate_mb_s"),
    "flow": ("source", "target", "rate_mb_s"),
    "proxy": ("address",),
    "split": ("address", "part", "parts"),
}

_Wanted = tuple[Bundle, float, float]
"""A measure: its bundle, its lease in seconds, and its rate in MB/s if it is limited."""


class Measures:
    """The measures of one process, in ``table netdev`` and ``table inet`` of its name.

    What an earlier process left in tables of that name is taken over as it is.
    """

    def __init__(self, table: str, kinds: tuple[str, ...]) -> None:
        """Take over what is there.

        Args:
            table: name of the tables.
            kinds: what may be put into force here, some of ``KINDS``.

        """
        self._table = table
        self._kinds = kinds
        self._nft = Nft()
        self._reader = Reader()
        self._lock = Lock()
        self._bundles = bundles.found(self._nft, table)
        self._swept = time.monotonic()
        self._settings: dict[str, str] = {}
        """Settings of the namespace that a proxy has changed, with what they were."""

    def put(self, name: str, body: object) -> None:
        """Put a measure into force, instead of the one of that name if there is one.

        Raises:
            RefusedError: 400 if the body is wrong, 403 if this VNF does no such thing, 409 if
                there are too many measures or the kernel refuses.

        """
        for refused in self._put({name: body}).values():
            raise refused

    def put_all(self, body: object) -> dict[str, str]:
        """Put the measures in force that ``body`` holds by name, in one transaction if it can be.

        Returns:
            Those refused, with the reason; see ``put``.

        Raises:
            RefusedError: 400 if the body holds none, or too many.

        """
        if not isinstance(body, dict) or not 1 <= len(body) <= MOST_AT_ONCE:
            raise RefusedError(400, f"the body must hold 1 to {MOST_AT_ONCE} measures by name")
        return {name: str(refused) for name, refused in self._put(body).items()}

    def delete(self, name: str) -> None:
        """Lift a measure. Unknown ones are no error.

        A proxy answers no more handshakes, but its rules stay until the process ends:
        connections that it brought about need their sequence numbers translated.
        """
        with self._lock:
            bundle = self._bundles.get(name)
            if bundle is None:
                return
            if bundle.family == "inet":
                self._nft.run(bundles.expiry(self._table, bundle))
            else:
                self._nft.run(bundles.removal(self._table, bundle))
                del self._bundles[name]

    def renew(self, body: object) -> int:
        """Extend all leases that have not run out and return how many there are.

        Raises:
            RefusedError: 400 if the body is wrong.

        """
        ttl_s = Fields(body, ("ttl_s",)).number("ttl_s", 0.01, LONGEST_TTL_S)
        with self._lock:
            self._sweep()
            held = [b for b in self._bundles.values() if self._remaining_s(b) > 0]
            if held:
                self._nft.run("".join(bundles.renewal(self._table, b, ttl_s) for b in held))
            return len(held)

    def get(self, name: str) -> dict[str, Any]:
        """Return what a measure passed and held since it was put into force.

        Octets are those of whole frames; of a proxy those of the packets that open a
        connection, since nothing else is held.

        Raises:
            RefusedError: 404 if it is unknown or its lease has run out.

        """
        with self._lock:
            bundle = self._bundles.get(name)
            ttl_s = 0.0 if bundle is None else self._remaining_s(bundle)
            if bundle is None or ttl_s <= 0:
                raise RefusedError(404, "no such measure")
            counts = {
                part.removeprefix(bundle.prefix): self._count(bundle, part)
                for part, what in bundle.parts.items()
                if what.startswith("counter")
            }
        passed, held = counts["passed"], counts.get("held", (0, 0))
        if "asked" in counts:  # a proxy: it holds the handshakes that were not completed
            asked = counts["asked"]
            held = max(0, asked[0] - passed[0]), max(0, asked[1] - passed[1])
        answer: dict[str, Any] = {
            "passed_octets": passed[1],
            "held_octets": held[1],
            "passed_packets": passed[0],
            "held_packets": held[0],
            "ttl_s": ttl_s,
        }
        shares = sorted((int(n[4:]), c) for n, c in counts.items() if n.startswith("part"))
        if shares:
            answer["parts"] = [{"octets": c[1], "packets": c[0]} for _, c in shares]
        return answer

    def close(self) -> None:
        """Remove everything, and give the namespace its settings back."""
        tables = (f"{family} {self._table}" for family in bundles.FAMILIES)
        self._nft.run("".join(f"add table {table}\ndelete table {table}\n" for table in tables))
        restore(self._settings)

    def _put(self, bodies: dict[str, object]) -> dict[str, RefusedError]:
        wanted: dict[str, _Wanted] = {}
        refused: dict[str, RefusedError] = {}
        for name, body in bodies.items():
            try:
                wanted[name] = self._checked(name, body)
            except RefusedError as error:
                refused[name] = error
        with self._lock:
            self._sweep()
            for name in reversed([name for name in wanted if name not in self._bundles]):
                if len(self._bundles.keys() | wanted.keys()) > MOST:
                    del wanted[name]
                    refused[name] = RefusedError(409, f"this VNF keeps {MOST} measures already")
            try:
                self._enforce(wanted)
            except (NftError, OSError):  # of which one?
                for name, one in wanted.items():
                    try:
                        self._enforce({name: one})
                    except (NftError, OSError) as error:
                        refused[name] = RefusedError(409, f"the measure was refused: {error}")
        return refused

    def _enforce(self, wanted: dict[str, _Wanted]) -> None:
        """Put measures in force, all or none of their rules."""
        script = ""
        for name, (bundle, ttl_s, _) in wanted.items():
            before = self._bundles.get(name)
            script += "" if before is None else bundles.removal(self._table, before)
            script += bundles.addition(self._table, bundle, ttl_s)
        self._nft.run(script)
        for name, (bundle, _, rate_mb_s) in wanted.items():
            self._bundles[name] = bundle
            if bundle.family == "inet":
                self._settings.update(prepare())
            elif rate_mb_s > 0:
                limits.drain(self._nft, self._table, bundle.prefix, rate_mb_s)

    def _checked(self, name: str, body: object) -> _Wanted:
        """Return what a body asks for."""
        if not 1 <= len(name.encode()) <= LONGEST_NAME:
            raise RefusedError(400, f"the name of a measure has 1 to {LONGEST_NAME} octets")
        own = bundles.prefix(name)
        every = ("kind", "devices", "ttl_s")
        kind = Fields(body, (*every, *(n for names in _FIELDS.values() for n in names))).choice(
            "kind", KINDS
        )
        fields = Fields(body, (*every, *_FIELDS[kind]))
        if kind not in self._kinds:
            raise RefusedError(403, f"this VNF does nothing of kind {kind}")
        ttl_s = fields.number("ttl_s", 0.01, LONGEST_TTL_S)
        if kind == "proxy":
            return proxy(own, fields.address("address")), ttl_s, 0.0
        devices = fields.devices("devices", MOST_DEVICES)
        if kind == "split":
            match = f"ip daddr {fields.address('address')}" if fields.has("address") else ""
            parts = fields.whole("parts", 1, MOST_PARTS)
            fields.whole("part", 0, MOST_PARTS, 0)
            return limits.split(own, devices, match, parts), ttl_s, 0.0
        rate_mb_s = fields.number("rate_mb_s", 0.0, LARGEST_RATE_MB_S)
        match = ""
        if kind == "address":
            match = f"ip daddr {fields.address('address')}"
        elif kind == "flow":
            source, target = fields.address("source"), fields.address("target")
            if rate_mb_s == 0:
                return limits.block(own, devices, source, target), ttl_s, 0.0
            match = f"ip saddr {source} ip daddr {target}"
        return limits.limit(own, devices, match, rate_mb_s), ttl_s, rate_mb_s

    def _sweep(self) -> None:
        """Remove measures whose lease has run out, if that was not done just now.

        The kernel has ended them already; to ask it about each takes time.
        """
        now = time.monotonic()
        if now - self._swept < SWEEP_EVERY_S and len(self._bundles) < MOST:
            return
        self._swept = now
        for name, bundle in list(self._bundles.items()):
            if bundle.family == "netdev" and self._remaining_s(bundle) <= 0:
                self._nft.run(bundles.removal(self._table, bundle))
                del self._bundles[name]

    def _remaining_s(self, bundle: Bundle) -> float:
        return bundles.remaining_s(self._reader, self._table, bundle)

    def _count(self, bundle: Bundle, name: str) -> tuple[int, int]:
        family = bundles.FAMILIES[bundle.family]
        return self._reader.counter(family, self._table, name)
