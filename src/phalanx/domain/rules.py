"""Traffic rules: what the network is to do with which packets, as data.

A network function says by rules what its predicates mean for traffic; drivers carry rules out
and know no predicates. Not every driver offers every verdict: each names those that it does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from math import inf
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from phalanx.domain.network import LinkId, PopId


class TrafficVerdict(Enum):
    """What becomes of packets that match. Parameters by name, with their units."""

    LIMIT = "limit"
    """At most ``rate_mb_s`` (MB/s) passes, the rest is dropped; 0 lets nothing pass."""
    DROP = "drop"
    """Nothing passes; connections of a single flow are reset where that is possible."""
    PROXY = "proxy"
    """TCP handshakes with the target are answered for it; only those completed reach it."""
    SPLIT = "split"
    """The part of the sources that matches passes the instance, which counts its shares."""
    MIRROR = "mirror"
    """The instance gets copies, of both directions. Packets alone can be copied, not flows."""
    STEER = "steer"
    """Everything passes the instance; with ``encrypted`` (1) nobody reads it on the way there, nor
    from the target's own PoP to a replica, and none of it crosses a link that is not trusted after
    that."""
    SERVE = "serve"
    """The instance answers in place of the target, at most ``rate_mb_s`` (MB/s)."""
    ENLARGE = "enlarge"
    """The target itself, at the instance's PoP, has its units as well: it answers ``rate_mb_s``
    (MB/s) more."""
    DELAY = "delay"
    """Every packet is held for ``delay_ms`` (ms); at most ``rate_mb_s`` (MB/s), if given, pass."""


_NEEDED = {
    TrafficVerdict.LIMIT: {"rate_mb_s"},
    TrafficVerdict.SERVE: {"rate_mb_s"},
    TrafficVerdict.ENLARGE: {"rate_mb_s"},
    TrafficVerdict.DELAY: {"delay_ms"},
}
_ALLOWED = {**_NEEDED, TrafficVerdict.DELAY: {"delay_ms", "rate_mb_s"}}
_ALLOWED[TrafficVerdict.STEER] = {"encrypted"}
LONGEST_DELAY_MS = 60_000.0


class TrafficMatch(Struct, frozen=True):
    """Which packets a rule is about: those that all fields agree with. None: any."""

    link: LinkId | None = None
    """Directed link that they pass."""
    source: str | None = None
    """Address or prefix that they come from."""
    sources: tuple[str, ...] = ()
    """Addresses or prefixes that they come from, one of them; empty: any. One rule for many."""
    outside: tuple[str, ...] = ()
    """Addresses or prefixes that they do not come from."""
    entry: PopId | None = None
    """PoP at which they enter the network."""
    target: str | None = None
    """Address that they go to."""
    port: int | None = None
    """Port at the target; 0: packets without ports, of a fragmented one all but the first."""
    protocol: str | None = None
    """``tcp``, ``udp`` or ``icmp``: of the last all but errors, which nothing holds back."""
    part: int = 0
    """Which share of the sources, from 0 to ``parts`` - 1; sources are dealt out by a hash."""
    parts: int = 1

    def source_problem(self) -> str:
        """Return what is wrong with what it says of sources; empty: nothing."""
        if self.sources and self.source is not None:
            return "a rule names one source or several, not both"
        try:
            PrefixSet((*self.sources, *self.outside))
        except ValueError as error:
            return str(error)
        if self.target is not None and any(
            (":" in each) != (":" in self.target)
            for each in (*self.sources, *filter(None, (self.source,)))
        ):
            return "nothing goes from IPv4 to IPv6, or from IPv6 to IPv4"
        return ""

    def of_source(self) -> Callable[[str], bool]:
        """Return what says of an address whether it is one of ``sources``, not ``outside``."""
        listed, left_out = PrefixSet(self.sources), PrefixSet(self.outside)
        return lambda address: (not self.sources or address in listed) and address not in left_out


@lru_cache(65_536)  # the same addresses are asked for with every rule and at every look
def _parsed(text: str) -> tuple[int, int, int]:
    """Return a prefix's bits, those of them that say nothing, and its first address."""
    try:
        network = ip_network(text)
    except ValueError:
        raise ValueError(f"{text} is no address or prefix") from None
    length = network.max_prefixlen
    return length, length - network.prefixlen, int(network.network_address)


class PrefixSet:
    """Addresses and prefixes; asks in constant time, however many there are."""

    def __init__(self, prefixes: Iterable[str]) -> None:
        """Hold prefixes; raises ValueError if one is none."""
        self._held: dict[tuple[int, int], set[int]] = {}
        """By how many bits an address has, and how many of them say nothing."""
        for text in prefixes:
            size, bits, first = _parsed(text)
            self._held.setdefault((size, bits), set()).add(first >> bits)

    def __contains__(self, address: str) -> bool:
        """Whether an address, or all of a prefix, is in one of the prefixes."""
        if not self._held:
            return False
        length, own, first = _parsed(address)
        for (size, bits), held in self._held.items():  # asked for each source of each rule
            if size == length and bits >= own and first >> bits in held:
                return True
        return False


class AllowedSources(Struct, frozen=True, forbid_unknown_fields=True):
    """Sources that are never blocked or limited, whatever they do."""

    prefix: Annotated[str, Meta(max_length=43)]
    """Address or prefix, of IPv4 or IPv6."""
    reason: Annotated[str, Meta(min_length=1, max_length=100)]
    """Why, as the log tells it where it matters: a word or two, such as ``office``."""


class AllowList:
    """What is never blocked or limited: agents and drivers both narrow their rules by it."""

    def __init__(self, entries: Iterable[AllowedSources] = ()) -> None:
        """Hold the entries; raises ValueError if the prefix of one is none."""
        self.entries = tuple(entries)
        self._prefixes = PrefixSet(each.prefix for each in self.entries)

    def find(self, address: str) -> AllowedSources | None:
        """Return the first entry that has an address, or all of a prefix; None if none does."""
        if address not in self._prefixes:
            return None
        found = ip_network(address)
        return next(e for e in self.entries if _within(found, ip_network(e.prefix)))

    def spare(self, rule: TrafficRule) -> TrafficRule | None:
        """Return a rule that leaves out what is allowed; None if nothing else is in it.

        Only what blocks or limits is narrowed: all other verdicts let packets pass. A proxy answers
        handshakes in place of the target, and who completes them is served.
        """
        match = rule.match
        if not self.entries or rule.verdict not in (TrafficVerdict.DROP, TrafficVerdict.LIMIT):
            return rule
        named = match.sources or tuple(filter(None, (match.source,)))
        listed = [(each, ip_network(each)) for each in named]
        allowed = [(each.prefix, ip_network(each.prefix)) for each in self.entries]
        kept = [(e, n) for e, n in listed if not any(_within(n, a) for _, a in allowed)]
        if named and not kept:
            return None
        if match.target is not None:
            allowed = [(p, a) for p, a in allowed if (a.version == 6) == (":" in match.target)]
        hit = (p for p, a in allowed if not kept or any(_within(a, n) for _, n in kept))
        outside = tuple(dict.fromkeys((*match.outside, *hit)))
        sources = tuple(each for each, _ in kept) if match.sources else ()
        spared = replace(match, sources=sources, outside=outside)
        return rule if spared == match else replace(rule, match=spared)


def _within(inner: IPv4Network | IPv6Network, outer: IPv4Network | IPv6Network) -> bool:
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    return (
        isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network) and inner.subnet_of(outer)
    )


class TrafficRule(Struct, frozen=True):
    """One rule: a match, a verdict and the verdict's parameters."""

    match: TrafficMatch
    verdict: TrafficVerdict
    parameters: dict[str, float] = {}

    @property
    def rate_mb_s(self) -> float:
        """What the rule lets pass in MB/s; 0 if it is no matter of a rate."""
        return self.parameters.get("rate_mb_s", 0.0)

    def problem(self, offered: Collection[TrafficVerdict]) -> str | None:
        """Return why no instance of a driver can carry the rule out; None if one can.

        Args:
            offered: the verdicts that the driver offers.

        """
        match, verdict, given = self.match, self.verdict, self.parameters
        if verdict not in offered:
            return f"nothing here can {verdict.value} traffic; offered are {listed(offered)}"
        needed, allowed = _NEEDED.get(verdict, set()), _ALLOWED.get(verdict, set())
        for name in sorted(needed - given.keys()):
            return f"a rule to {verdict.value} traffic needs {name}"
        for name in sorted(given.keys() - allowed):
            return f"a rule to {verdict.value} traffic has no parameter {name!r}"
        if not 0 <= self.rate_mb_s < inf:
            return f"cannot limit traffic to {self.rate_mb_s:g} MB/s"
        if not 0 <= given.get("delay_ms", 0.0) <= LONGEST_DELAY_MS:
            return f"cannot delay traffic by {given['delay_ms']:g} ms"
        if match.link is None and match.target is None:
            return "a rule needs a link or a target"
        whole = TrafficMatch(target=match.target, entry=match.entry)
        if verdict is TrafficVerdict.PROXY and match != whole:
            return "handshakes can only be proxied for a target as a whole"
        if verdict is TrafficVerdict.MIRROR and match != TrafficMatch(target=match.target):
            return "traffic is copied for a target as a whole, both ways"
        if why := match.source_problem():
            return why
        if not 0 <= match.part < match.parts:
            return f"no part {match.part} of {match.parts}"
        if match.protocol not in (None, "tcp", "udp", "icmp"):
            return f"no protocol {match.protocol!r}; tcp, udp and icmp are known"
        most = 0 if match.protocol == "icmp" else 65_535
        if match.port is not None and not (match.protocol and 0 <= match.port <= most):
            return f"port {match.port} needs a protocol and must be from 0 to {most}"
        return None


def listed(verdicts: Collection[TrafficVerdict]) -> str:
    """Return the names of verdicts as text, in the order of their declaration."""
    return ", ".join(verdict.value for verdict in TrafficVerdict if verdict in verdicts)
