"""What a VNF keeps in force: a measure for each traffic rule, under a lease.

It knows verdicts, whatever function asks for them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from threading import Lock
from typing import TYPE_CHECKING, Any

from . import bundles
from .bundles import Matches, Place, RuleBundle
from .http import Fields, RefusedError
from .netlink import NetlinkReader
from .nft import ADDRESS_FAMILIES, AddressFamily, Nft, NftError, share

if TYPE_CHECKING:
    from .delay import DelayLine

LONGEST_TTL_S = 3600.0
LARGEST_RATE_MB_S = 1e6
MOST = 1024
"""Measures that one process keeps at a time."""
MOST_AT_ONCE = 32
MOST_DEVICES, MOST_PARTS, MOST_SOURCES = 64, 64, 16_384
SWEEP_EVERY_S = 1.0
"""Measures that have run out may lie in the kernel, without effect, for so much longer."""
LONGEST_NAME = 100
"""Octets of a measure's name; in hexadecimal it must fit the names of nftables."""
LONGEST_DELAY_MS = 60_000.0
_HOOKS = ("egress", "ingress")
_MATCH = ("source", "sources", "outside", "target", "protocol", "port", "part", "parts")
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "limit": ("rate_mb_s",),
    "drop": (),
    "proxy": (),
    "split": (),
    "steer": (),
    "mirror": (),
    "delay": ("delay_ms", "rate_mb_s"),
}
"""Verdicts, with their parameters."""
_PROTOCOLS = ("tcp", "udp", "icmp")


class _Wanted:
    """A measure that was asked for."""

    __slots__ = ("bundle", "lines", "rate_mb_s", "ttl_s")

    def __init__(
        self,
        bundle: RuleBundle,
        ttl_s: float,
        rate_mb_s: float = 0.0,
        lines: tuple[DelayLine, ...] = (),
    ) -> None:
        self.bundle = bundle
        self.ttl_s = ttl_s
        self.rate_mb_s = rate_mb_s
        """Of a limit, whose bucket is to be drained as it begins."""
        self.lines = lines
        """What holds the packets of a delay, one for each device."""


class KernelMeasures:
    """The measures of one process, in ``table netdev`` and ``table inet`` of its name.

    What an earlier process left in tables of that name is taken over as it is.
    """

    def __init__(self, table: str, verdicts: tuple[str, ...]) -> None:
        """Take over what is there.

        Args:
            table: name of the tables.
            verdicts: what may be put into force here.

        """
        self._table = table
        self._verdicts = verdicts
        self._nft = Nft()
        self._reader = NetlinkReader()
        self._lock = Lock()
        self._bundles = bundles.found(self._nft, table)
        self._lines: dict[str, tuple[DelayLine, ...]] = {}
        for name, bundle in list(self._bundles.items()):
            if bundle.delays:  # what held the packets ended with the process
                self._remove(name)
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

    def delete(self, name: str) -> dict[str, Any]:
        """Lift a measure, and return its last counts; see ``get``. Unknown ones are no error.

        A proxy answers no more handshakes, but its rules stay until the process ends:
        connections that it brought about need their sequence numbers translated.
        """
        counts: dict[str, Any] = {}
        with contextlib.suppress(RefusedError):
            counts = self.get(name)
        with self._lock:
            bundle = self._bundles.get(name)
            if bundle is None:
                return {}
            if bundle.family == "inet":
                self._nft.run(bundles.expiry(self._table, bundle))
            else:
                self._remove(name)
        return counts

    def counts(self) -> dict[str, dict[str, Any]]:
        """Return what each measure passed and held since it was put into force; see ``get``."""
        found = {}
        for name in list(self._bundles):
            with contextlib.suppress(RefusedError):  # it was lifted, or has run out
                found[name] = self.get(name)
        return found

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
            lines = self._lines.get(name, ())
            counts = {
                part.removeprefix(bundle.prefix): self._count(bundle, part)
                for part, what in bundle.parts.items()
                if what.startswith("counter")
            }
        if "matched" in counts:  # a delay: what neither went on nor waits was dropped
            counts["passed"] = _sum((line.sent, line.octets) for line in lines)
            waiting = _sum((1, len(frame)) for line in lines for _, frame in list(line.waiting))
            kept = _sum((counts["passed"], waiting))
            matched = counts["matched"]
            counts["held"] = max(0, matched[0] - kept[0]), max(0, matched[1] - kept[1])
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
        for lines in self._lines.values():
            _close(lines)
        bundles.restore(self._settings)

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
        for name, one in wanted.items():
            before = self._bundles.get(name)
            script += "" if before is None else bundles.removal(self._table, before)
            script += bundles.addition(self._table, one.bundle, one.ttl_s)
        opened: list[DelayLine] = []
        try:
            for name, one in wanted.items():
                if one.lines:
                    _close(self._lines.pop(name, ()))
                for line in one.lines:
                    line.open()
                    opened.append(line)
            self._nft.run(script)
        except (NftError, OSError):
            _close(opened)
            raise
        for name, one in wanted.items():
            self._bundles[name] = one.bundle
            _close(self._lines.pop(name, ()))
            if one.lines:
                self._lines[name] = one.lines
            if one.bundle.family == "inet":
                self._settings.update(bundles.prepare())
            elif one.rate_mb_s > 0:
                bundles.drain(self._nft, self._table, one.bundle.prefix, one.rate_mb_s)

    def _remove(self, name: str) -> None:
        self._nft.run(bundles.removal(self._table, self._bundles.pop(name)))
        _close(self._lines.pop(name, ()))

    def _checked(self, name: str, body: object) -> _Wanted:
        """Return what a body asks for."""
        if not 1 <= len(name.encode()) <= LONGEST_NAME:
            raise RefusedError(400, f"the name of a measure has 1 to {LONGEST_NAME} octets")
        own = bundles.prefix(name)
        every = ("verdict", "devices", "hook", "ttl_s", *_MATCH)
        verdict = Fields(body, (*every, "rate_mb_s", "delay_ms")).choice(
            "verdict", tuple(_PARAMETERS)
        )
        fields = Fields(body, (*every, *_PARAMETERS[verdict]))
        if verdict not in self._verdicts:
            raise RefusedError(403, f"this VNF does not {verdict} traffic")
        ttl_s = fields.number("ttl_s", 0.01, LONGEST_TTL_S)
        hook = fields.choice("hook", _HOOKS) if fields.has("hook") else "egress"
        enters = hook == "ingress"
        if verdict == "proxy":
            entries = fields.devices("devices", MOST_DEVICES) if enters else []
            return _Wanted(bundles.proxy(own, fields.address("target"), entries), ttl_s)
        devices = fields.devices("devices", MOST_DEVICES)
        if verdict == "mirror":
            reader = f"phi{self._table.removeprefix('phx_')}"
            return _Wanted(bundles.mirror(own, devices, fields.address("target"), reader), ttl_s)
        place = Place(devices, hook)
        parts = fields.whole("parts", 1, MOST_PARTS, 1)
        part = fields.whole("part", 0, parts - 1, 0)
        sources, outside = (
            fields.networks(name, MOST_SOURCES) if fields.has(name) else []
            for name in ("sources", "outside")
        )
        matches = _matches(fields, own, sources, outside)
        if verdict in ("split", "steer"):
            counted = bundles.count(own, place, matches, parts if verdict == "split" else 1)
            return _Wanted(counted.among(sources, outside), ttl_s)
        for family, match in matches.items():
            dealt = share(family.subscriber("saddr"), parts, part)
            matches[family] = f"{match} {dealt}".strip()
        if verdict == "drop":
            return _Wanted(bundles.block(own, place, matches).among(sources, outside), ttl_s)
        optional = 0.0 if verdict == "delay" else None
        rate_mb_s = fields.number("rate_mb_s", 0.0, LARGEST_RATE_MB_S, optional)
        if verdict == "limit":
            limited = bundles.limit(own, place, matches, rate_mb_s).among(sources, outside)
            return _Wanted(limited, ttl_s, rate_mb_s)
        if enters or sources or outside:
            raise RefusedError(400, "a delay is for what leaves, and names one source at most")
        delay_s = fields.number("delay_ms", 0.0, LONGEST_DELAY_MS) / 1e3
        from .delay import DelayLine  # noqa: PLC0415  # few measures need it

        lines = tuple(DelayLine(device, delay_s, rate_mb_s * 1e6) for device in devices)
        taps = {line.device: line.tap for line in lines}
        return _Wanted(bundles.delay(own, devices, matches, taps), ttl_s, 0.0, lines)

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
                with contextlib.suppress(NftError):  # another program has removed some of it
                    self._remove(name)

    def _remaining_s(self, bundle: RuleBundle) -> float:
        return bundles.remaining_s(self._reader, self._table, bundle)

    def _count(self, bundle: RuleBundle, name: str) -> tuple[int, int]:
        family = bundles.FAMILIES[bundle.family]
        return self._reader.counter(family, self._table, name)


def _matches(fields: Fields, own: str, sources: list[str], outside: list[str]) -> Matches:
    """Return the nftables match of a body's fields, for each family of its addresses."""
    ends = [fields.network(each) for each in ("source", "target") if fields.has(each)]
    matches = {
        family: _match(fields, own, family, any(map(family.has, outside)))
        for family in ADDRESS_FAMILIES
        if all(map(family.has, ends)) and (not sources or any(map(family.has, sources)))
    }
    if not matches:
        raise RefusedError(400, "nothing goes from IPv4 to IPv6, or from IPv6 to IPv4")
    return matches


def _match(fields: Fields, own: str, family: AddressFamily, but: bool) -> str:
    """Return the match of one family; empty: any packet."""
    words, ip = [], family.ip
    if fields.has("sources"):
        words.append(f"{ip} saddr @{own}sources{family.own}")
    if but:
        words.append(f"{ip} saddr != @{own}outside{family.own}")
    if fields.has("source"):
        words.append(f"{ip} saddr {fields.network('source')}")
    if fields.has("target"):
        words.append(f"{ip} daddr {fields.address('target')}")
    if fields.has("protocol"):
        protocol = fields.choice("protocol", _PROTOCOLS)
        words.append(f"meta l4proto {family.icmp if protocol == 'icmp' else protocol}")
        if fields.has("port"):
            port = fields.whole("port", 0, 0 if protocol == "icmp" else 65_535)
            words.append(f"{protocol} dport {port}" if port else family.later)
    elif fields.has("port"):
        raise RefusedError(400, "port needs a protocol")
    return " ".join(words)


def _close(lines: Iterable[DelayLine]) -> None:
    for line in lines:
        line.close()


def _sum(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    packets = octets = 0
    for more in counts:
        packets, octets = packets + more[0], octets + more[1]
    return packets, octets
