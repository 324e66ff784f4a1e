"""Intents: what an operator wants to hold, before it is agreements and rules.

An intent is written as a sentence (``policy.language``) or as a mapping of YAML, and means the
same either way; ``said`` says it back in other words, which are sentences of the language too.
``policy.translation`` makes agreements and rules of intents.

Source: seed 004, 3.1 (intents of network slices; metrics and delays of enforcement).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from ipaddress import ip_network
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from phalanx.domain.errors import PhalanxError
from phalanx.loading import Name, Offence, show, unknown
from phalanx.policy.rules import WITH_PORTS, Cidr, PortRange, Protocol, RuleSchedule
from phalanx.policy.ssla import METRICS, Penalty, Remediation, SecurityMetric

MOST_INTENTS = 1000

Thing = Annotated[str, Meta(pattern=r"^[A-Za-z0-9:][A-Za-z0-9._:/-]*\Z", max_length=64)]
"""A slice by its name, or an address or prefix."""
Things = Annotated[tuple[Thing, ...], Meta(max_length=1000)]
SomeThings = Annotated[tuple[Thing, ...], Meta(min_length=1, max_length=1000)]
Seconds = Annotated[float, Meta(gt=0, le=1e9)]
Enforcement = Literal["deploy", "patch", "reconfigure", "revoke", "switch"]


class IntentError(PhalanxError):
    """An intent is not taken, or cannot be met; the text says why, and what can be."""


class Intent(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """What every intent has."""

    name: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?\Z", max_length=64)] = ""
    """By which its terms, rules and breaches name it; empty: one is given."""


class SliceIntent(Intent, frozen=True, kw_only=True):
    """A promise about one slice, which is measured; its kinds follow."""

    slice: Name
    window_s: Annotated[float, Meta(gt=0, le=86_400)] = 10.0
    """Time over which it is measured, in s."""
    remediation: Annotated[tuple[Remediation, ...], Meta(max_length=8)] = ()
    """What is done about a breach; empty: all that the metric has, but ``reject`` of clear text."""
    penalty: Penalty | None = None


class IsolationIntent(SliceIntent, frozen=True, kw_only=True, tag="isolation"):
    """Packets from elsewhere do not reach the slice."""

    sources: Things = ()
    """From which it is isolated; empty: from everything outside it."""
    allowed: Things = ()
    """What may come in all the same."""


class EncryptionIntent(SliceIntent, frozen=True, kw_only=True, tag="encryption"):
    """No packet of the slice is on the wire in the clear."""


class AvailabilityIntent(SliceIntent, frozen=True, kw_only=True, tag="availability"):
    """Users of the slice get what they ask for."""

    at_least: Annotated[float, Meta(ge=0, le=1)]
    """Share of it."""


class LocationIntent(SliceIntent, frozen=True, kw_only=True, tag="location"):
    """Functions of the slice stand in some jurisdictions only."""

    jurisdictions: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=300)]


class DelayIntent(SliceIntent, frozen=True, kw_only=True, tag="delay"):
    """Something about the slice is enforced in time."""

    of: Enforcement
    within_s: Seconds


class AnalysisIntent(SliceIntent, frozen=True, kw_only=True, tag="analysis"):
    """The slice's traffic is analysed again and again."""

    every_s: Seconds


class TunnelIntent(SliceIntent, frozen=True, kw_only=True, tag="gtp-tunnels"):
    """Subscribers of the slice have few GTP tunnels open."""

    at_most: Annotated[int, Meta(ge=0, le=1_000_000)]
    """Tunnels of one subscriber."""


class TransportPorts(Struct, frozen=True, forbid_unknown_fields=True):
    """A protocol, and ports at the target; none: all."""

    protocol: Protocol
    ports: Annotated[tuple[PortRange, ...], Meta(max_length=100)] = ()


class TrafficIntent(Intent, frozen=True, kw_only=True):
    """What holds of packets from one side to another; its kinds follow."""

    sources: SomeThings
    targets: SomeThings
    services: Annotated[tuple[TransportPorts, ...], Meta(max_length=100)] = ()
    """Empty: all."""


class AccessIntent(TrafficIntent, frozen=True, kw_only=True, tag="access"):
    """Who may reach what."""

    effect: Literal["permit", "deny", "only"]
    """``only``: the sources may, in the schedule, and nothing else ever."""
    schedule: RuleSchedule = RuleSchedule()


class RateIntent(TrafficIntent, frozen=True, kw_only=True, tag="rate"):
    """How much may pass."""

    at_most_mb_s: Annotated[float, Meta(gt=0, le=1e9)]


AnyIntent = (
    IsolationIntent
    | EncryptionIntent
    | AvailabilityIntent
    | LocationIntent
    | DelayIntent
    | AnalysisIntent
    | TunnelIntent
    | AccessIntent
    | RateIntent
)


class IntentHeader(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What documents of intents have beside these."""

    name: Name
    members: Annotated[dict[Name, tuple[Cidr, ...]], Meta(max_length=1000)] = {}
    """Prefixes of the slices' devices and users."""
    provider: Annotated[str, Meta(max_length=64)] = ""
    consumer: Annotated[str, Meta(max_length=64)] = ""
    about: Annotated[str, Meta(max_length=4000)] = ""


class IntentDocument(IntentHeader, frozen=True, kw_only=True):
    """A document as it is written: sentences, and mappings with a ``kind``."""

    intents: Annotated[tuple[str | AnyIntent, ...], Meta(min_length=1, max_length=MOST_INTENTS)]


class IntentSet(IntentHeader, frozen=True, kw_only=True):
    """What a document means."""

    intents: tuple[AnyIntent, ...] = ()


def promised(intent: SliceIntent) -> tuple[SecurityMetric, float]:
    """Return the metric of a promise, and its objective in the metric's unit."""
    match intent:
        case IsolationIntent():
            return SecurityMetric.FOREIGN_SOURCES, 0.0
        case AvailabilityIntent():
            return SecurityMetric.AVAILABILITY, intent.at_least
        case LocationIntent():
            return SecurityMetric.GEOLOCATION, 0.0
        case DelayIntent():
            return SecurityMetric(f"{intent.of}-delay"), intent.within_s
        case AnalysisIntent():
            return SecurityMetric.ANALYSIS_INTERVAL, intent.every_s
        case TunnelIntent():
            return SecurityMetric.GTP_TUNNELS, float(intent.at_most)
    return SecurityMetric.CLEAR_TEXT, 0.0


def is_address(thing: str) -> bool:
    """Whether something that an intent names is an address or prefix, and no slice."""
    return bool({":", "/"} & set(thing)) or re.fullmatch(r"[0-9]+(\.[0-9]+){3}", thing) is not None


def wrong_prefix(thing: str) -> str:
    """Return what is wrong with an address or prefix; empty: nothing."""
    try:
        ip_network(thing)
    except ValueError:
        return f"{show(thing)} is no IPv4 or IPv6 prefix without host bits"
    return ""


def intent_offences(intent: AnyIntent, slices: Collection[str] | None = None) -> Iterator[Offence]:
    """Yield everything in an intent that does not fit together.

    Args:
        intent: typed as the schema has it.
        slices: names of the slices that there are; None: not known here.

    """
    sides = {"sources", "targets", "allowed"} & set(intent.__struct_fields__)
    things = [
        (f"{side}[{i}]", x) for side in sorted(sides) for i, x in enumerate(getattr(intent, side))
    ]
    if isinstance(intent, SliceIntent):
        things.append(("slice", intent.slice))
        metric, _ = promised(intent)
        for place, remedy in enumerate(intent.remediation):
            if remedy not in METRICS[metric].remedies:
                allowed = ", ".join(each.value for each in METRICS[metric].remedies)
                why = f"{remedy.value} does nothing about {metric.value}; allowed are {allowed}"
                yield f"remediation[{place}]", why
    for path, thing in things:
        if is_address(thing):
            if why := wrong_prefix(thing):
                yield path, why
        elif slices is not None and thing not in slices:
            yield path, unknown("slice", thing, slices)
    if isinstance(intent, TrafficIntent):
        for place, each in enumerate(intent.services):
            if each.ports and each.protocol not in WITH_PORTS:
                yield f"services[{place}].ports", "ports need the protocol tcp, udp or sctp"
            if any(ports.first > ports.last for ports in each.ports):
                yield f"services[{place}].ports", "the first port of a range is above its last"


def named(intents: Iterable[AnyIntent]) -> Iterator[AnyIntent]:
    """Yield the intents, those without a name with one of their own."""
    given = list(intents)
    used = {each.name for each in given}
    for each in given:
        name, number = each.name, 1
        if not name:
            if isinstance(each, SliceIntent):
                kind = each.of if isinstance(each, DelayIntent) else each.__struct_config__.tag
                stem = f"{each.slice[:48]}-{kind}"
            else:
                words = f"{each.sources[0][:24]}-to-{each.targets[0][:24]}"
                stem = "".join(sign if sign.isalnum() else "-" for sign in words).strip("-")
            name = stem
            while name in used:
                number += 1
                name = f"{stem}-{number}"
            used.add(name)
        yield replace(each, name=name)
