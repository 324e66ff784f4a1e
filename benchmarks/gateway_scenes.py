"""Scenes at the gateway of ``bench_fastnetmon``: floods, a crowd, and a day without an attack.

Who sends what from when on is said by the ``Source`` of the scenarios. All numbers are those of a
small server on a link of 3 Mbit/s; a day is pressed into a minute.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from gateway import FEED_PORT, PORT, SERVER, UDP_PORT
from phalanx.domain.traffic import (
    HTTP,
    NTP_REFLECTION,
    SYN_FLOOD,
    SYN_FLOOD_SPOOFED,
    VIDEO,
    Profile,
    Source,
)
from phalanx.testrange.processes import PAGE_OCTETS

ATTACKERS = tuple(f"10.8.1.{n}" for n in range(11, 19))
TALK = Profile("datagrams", responsive=False, protocol="udp", packet_octets=150.0, syn_share=0.0)
"""Queries of a resolver: each is answered."""
CALL = replace(TALK, name="call", packet_octets=250.0)
"""A QUIC connection or a call: answered packet by packet."""


FEED = replace(TALK, name="feed", packet_octets=250.0, reply_share=0.0)
"""Telemetry, or a picture without RTCP: never answered."""


class Scene(Struct, frozen=True):
    """What happens at the gateway."""

    title: str
    seconds: float
    sources: tuple[Source, ...]
    spans: dict[str, tuple[float, float]]
    """When users' goodput is looked at, in seconds of the scene."""
    attack: tuple[float, float] | None = None
    """When the attack begins and ends; None: nobody attacks."""

    @property
    def honest(self) -> tuple[Source, ...]:
        """The sources that attack nobody."""
        return tuple(source for source in self.sources if not source.profile.malicious)


def _source(
    number: int,
    port: int,
    profile: Profile,
    demand_mb_s: float,
    start_s: float,
    end_s: float | None,
) -> Source:
    address = f"10.8.1.{number}"
    return Source(
        f"{profile.name}-{number}",
        profile.name,
        "street",
        address,
        SERVER,
        port,
        profile,
        demand_mb_s,
        start_s,
        end_s,
    )


def pages(
    first: int, count: int, asks_s: float, start_s: float = 0.0, end_s: float | None = None
) -> Iterator[Source]:
    """Yield users from 10.8.1.``first`` on, each of whom asks for so many pages a second."""
    for n in range(first, first + count):
        demand = asks_s * PAGE_OCTETS / 1e6
        yield _source(n, PORT, HTTP, demand, start_s, end_s)


def talk(
    number: int,
    profile: Profile,
    packets_s: float,
    start_s: float = 0.0,
    end_s: float | None = None,
) -> Source:
    """Return a host that sends so many datagrams a second."""
    demand = packets_s * profile.packet_octets / 1e6
    port = UDP_PORT if profile.reply_share else FEED_PORT
    return _source(number, port, profile, demand, start_s, end_s)


def download(number: int, mb_s: float, start_s: float, end_s: float) -> Source:
    """Return a user who loads a large file."""
    return _source(number, PORT, VIDEO, mb_s, start_s, end_s)


USUAL = (*pages(21, 10, 4), talk(41, TALK, 40), talk(42, TALK, 40))
"""Ten users of pages and two resolvers."""


def flood(title: str, attackers: Sequence[Source], before_s: float, flood_s: float) -> Scene:
    """Return the scene in which these attack what serves the usual users."""
    end = before_s + flood_s
    after = end + 1.0  # a request of the flood has failed by then
    return Scene(
        title,
        end + 3.5,
        (*USUAL, *attackers),
        {
            "before": (0.5, before_s),
            "during": (before_s, end),
            "at its end": (end - 2.0, end),
            "after it": (after, end + 3.5),
        },
        (before_s, end),
    )


def floods(before_s: float, flood_s: float) -> Iterator[Scene]:
    """Yield the floods; all are beyond what the server's link carries."""

    def from_all(profile: Profile, packets_s: float, port: int = PORT) -> list[Source]:
        demand = packets_s / len(ATTACKERS) * profile.packet_octets / 1e6
        at = (before_s, before_s + flood_s)
        numbers = (int(address.rpartition(".")[2]) for address in ATTACKERS)
        return [_source(n, port, profile, demand, *at) for n in numbers]

    for rate in (18_000, 150_000):
        title = f"SYN flood of 8 sources, {rate:,} packets/s asked for"
        yield flood(title, from_all(SYN_FLOOD, rate), before_s, flood_s)
    title = "Reflection: answers of 8 NTP servers that nobody asked, 19 Mbit/s"
    yield flood(title, from_all(NTP_REFLECTION, 5_000, 4444), before_s, flood_s)
    forged = replace(from_all(SYN_FLOOD_SPOOFED, 18_000)[0], demand_mb_s=18_000 * 60 / 1e6)
    title = "SYN flood of forged sources, 18,000 packets/s asked for"
    yield flood(title, [forged], before_s, flood_s)


def crowd(before_s: float, crowd_s: float) -> Scene:
    """Return the scene in which users become ten times as many within 3 s."""
    users = [
        user
        for n in range(90)
        for user in pages(101 + n, 1, 4, before_s + n / 30, before_s + crowd_s)
    ]
    end = before_s + crowd_s
    return Scene(
        "A crowd: ten times as many users within 3 s, and nobody attacks",
        end + 2.0,
        (*USUAL, *users),
        {
            "before": (0.5, before_s),
            "while it grows": (before_s, before_s + 3.0),
            "at its end": (end - 3.0, end),
        },
    )


def feed(before_s: float, feed_s: float) -> Scene:
    """Return the scene in which an honest host sends datagrams that nobody answers."""
    end = before_s + feed_s
    return Scene(
        "A feed: an honest host sends 320 datagrams/s that need no answer, and nobody attacks",
        end + 1.0,
        (*USUAL, talk(61, FEED, 320, before_s, end)),
        {"before": (0.5, before_s), "while it is sent": (before_s, end)},
    )


def day() -> Scene:
    """Return a day of honest traffic of several kinds in a minute."""
    sources = (
        *pages(21, 4, 2),
        *pages(25, 12, 4, 12.0, 52.0),
        *(user for at in (18.0, 32.0, 44.0) for user in pages(101, 60, 5, at, at + 3.0)),
        talk(41, TALK, 40),
        talk(42, TALK, 120, 20.0, 26.0),
        talk(43, CALL, 260, 22.0, 50.0),
        download(51, 4.0, 14.0, 28.0),
        download(52, 2.0, 30.0, 56.0),
    )
    return Scene(
        "A day of honest traffic in a minute: pages, bursts, downloads, calls; nobody attacks",
        60.0,
        sources,
        {
            "night (0-12 s)": (0.5, 12.0),
            "day (12-52 s)": (12.0, 52.0),
            "evening (52-60 s)": (52.0, 60.0),
        },
    )
