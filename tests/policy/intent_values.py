"""Intents of every kind, for tests of what is written, read and made of them."""

from __future__ import annotations

from hypothesis import strategies as st

from phalanx.policy.intents import (
    AccessIntent,
    AnalysisIntent,
    AvailabilityIntent,
    DelayIntent,
    EncryptionIntent,
    IsolationIntent,
    LocationIntent,
    RateIntent,
    TransportPorts,
    TunnelIntent,
)
from phalanx.policy.rules import PortRange, RuleSchedule
from phalanx.policy.ssla import METRICS, Penalty, SecurityMetric

MEMBERS = {
    "cameras": ("10.1.0.0/28", "2001:db8:1::/124"),
    "sensors": ("10.1.0.32/28",),
    "servers": ("10.1.0.64/29", "10.1.0.80/30"),
}
SLICES = st.sampled_from(sorted(MEMBERS))
ODD_NAMES = st.sampled_from(["cameras", "from", "Slice", "tcp", "a.b", "5g-core", "it", "x_1", "s"])
PREFIXES = st.sampled_from(
    ["10.1.0.8/29", "10.1.0.64/28", "10.1.0.0/24", "192.0.2.7", "2001:db8::/32", "::/0"]
)
SECONDS = st.one_of(
    st.integers(1, 10**6).map(float), st.floats(0.001, 1e6).map(lambda x: float(f"{x:.6g}"))
)
FIGURES = st.floats(1e-6, 1.0, exclude_min=False)


def _ranges() -> st.SearchStrategy[PortRange]:
    ports = st.integers(0, 65_535)
    return st.tuples(ports, ports).map(lambda x: PortRange(min(x), max(x)))


def _services() -> st.SearchStrategy[tuple[TransportPorts, ...]]:
    with_ports = st.builds(
        TransportPorts,
        st.sampled_from(["tcp", "udp", "sctp"]),
        st.lists(_ranges(), max_size=2).map(tuple),
    )
    without = st.sampled_from(["icmp", "icmpv6", "gre", "esp"]).map(TransportPorts)
    return st.lists(st.one_of(with_ports, without), max_size=2).map(tuple)


def schedules() -> st.SearchStrategy[RuleSchedule]:
    """Return schedules that hold at some time."""
    days = st.lists(st.integers(0, 6), unique=True, max_size=7).map(tuple)
    some = st.builds(RuleSchedule, days, st.integers(0, 1439), st.integers(1, 1440))
    return st.one_of(st.just(RuleSchedule()), some).filter(lambda x: x.start != x.end)


def things(names: st.SearchStrategy[str], least: int = 0) -> st.SearchStrategy[tuple[str, ...]]:
    """Return slices and prefixes."""
    return st.lists(st.one_of(names, PREFIXES), min_size=least, max_size=3, unique=True).map(tuple)


def _promise(kind: type, metric: SecurityMetric, names, plain: bool, **fields):
    remedies = st.lists(st.sampled_from(METRICS[metric].remedies), unique=True, max_size=3)
    penalty = st.builds(Penalty, FIGURES, st.one_of(st.just(0.0), SECONDS))
    return st.builds(
        kind,
        slice=names,
        window_s=st.just(10.0) if plain else SECONDS.map(lambda x: min(x, 86_400.0)),
        remediation=st.just(()) if plain else remedies.map(tuple),
        penalty=st.none() if plain else st.one_of(st.none(), penalty),
        **fields,
    )


def isolations(names=SLICES, *, plain: bool = False):
    """Return isolations of slices."""
    fields = {"sources": things(names), "allowed": things(names)}
    return _promise(IsolationIntent, SecurityMetric.FOREIGN_SOURCES, names, plain, **fields)


def accesses(names=SLICES):
    """Return rights of access."""
    sides = {"sources": things(names, 1), "targets": things(names, 1), "services": _services()}
    effects = st.sampled_from(["permit", "deny", "only"])
    return st.builds(AccessIntent, **sides, effect=effects, schedule=schedules())


def rates(names=SLICES):
    """Return limits of rates."""
    sides = {"sources": things(names, 1), "targets": things(names, 1), "services": _services()}
    return st.builds(RateIntent, **sides, at_most_mb_s=st.integers(1, 10**6).map(lambda x: x / 8))


def intents(names=ODD_NAMES):
    """Return intents of every kind."""
    laws = st.lists(st.sampled_from(["FI", "SE", "or", "eu-west"]), min_size=1, unique=True)
    kinds = st.sampled_from(["deploy", "patch", "reconfigure", "revoke", "switch"])
    delay, metric = SecurityMetric.RECONFIGURE_DELAY, SecurityMetric
    return st.one_of(
        isolations(names),
        accesses(names),
        rates(names),
        _promise(EncryptionIntent, metric.CLEAR_TEXT, names, False),
        _promise(
            AvailabilityIntent, metric.AVAILABILITY, names, False, at_least=st.floats(0.0, 1.0)
        ),
        _promise(LocationIntent, metric.GEOLOCATION, names, False, jurisdictions=laws.map(tuple)),
        _promise(AnalysisIntent, metric.ANALYSIS_INTERVAL, names, False, every_s=SECONDS),
        _promise(TunnelIntent, metric.GTP_TUNNELS, names, False, at_most=st.integers(0, 10**6)),
        kinds.flatmap(
            lambda of: _promise(
                DelayIntent,
                delay if of == "reconfigure" else SecurityMetric(f"{of}-delay"),
                *(names, False),
                of=st.just(of),
                within_s=SECONDS,
            )
        ),
    )
