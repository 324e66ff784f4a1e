"""Rules in short, and packets to run them on."""

from phalanx.policy.mmt import read_mmt
from phalanx.policy.mmt_monitor import MmtMonitor
from tests.analytics.captures import ethernet, ip4, tcp, udp


def event(number, expression, about=""):
    escaped = expression.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return f'<event event_id="{number}" boolean_expression="{escaped}" description="{about}"/>'


def operator(value, *parts, delay="", tag="operator", extra=""):
    least, _, most = delay.partition("..")
    times = f'delay_units="ms" delay_min="{least}" delay_max="{most}"' if delay else ""
    return f'<{tag} value="{value}" {times} {extra}>{"".join(parts)}</{tag}>'


def rule(value, *parts, delay="", kind="ATTACK", number=1, extra="", about="what it is about"):
    has = f'property_id="{number}" type_property="{kind}" description="{about}" {extra}'
    return operator(value, *parts, delay=delay, tag="property", extra=has)


def document(*rules):
    return f"<beginning>{''.join(rules)}</beginning>"


def monitor(*rules, **settings):
    return MmtMonitor(read_mmt(document(*rules)), **settings)


def datagram(port, source="10.0.0.1", target="10.0.0.9", data=b""):
    return ethernet(ip4(source, target, 17, udp(5000, port, data)))


def segment(flags, *, port=80, data=b"", source="10.0.0.1", target="10.0.0.9"):
    return ethernet(ip4(source, target, 6, tcp(5000, port, flags, data)))


def feed(watch, *packets):
    """Give ``(seconds, frame)`` to a monitor; return its verdicts."""
    return [verdict for time, frame in packets for verdict in watch.packet(frame, time)]


def counters(verdict):
    """Return the numbers of the packets that a verdict stands on, by event."""
    return {match.event: match.counter for match in verdict.events}
