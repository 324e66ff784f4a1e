"""SYNPROXY for one address: handshakes are answered for it, only those completed reach it.

Rules after iptables-extensions(8), SYNPROXY. Beyond them, connections that were open before
live on: conntrack does not know them, so what the server itself acknowledges makes a tuple
known. A client's data of an unknown tuple may pass, slowly, to make the server do so; a forged
one earns a reset, which makes nothing known. A handshake never carries data: the proxy offers
a window of zero until the server has answered.

Servers on Linux 6.15 or later take the proxy's last acknowledgement for forged (its echoed time
stamp is not theirs) and wait for the client's data, or a second. Without time stamps there would
be neither window scaling nor selective acknowledgement, which costs more.
"""

from __future__ import annotations

from pathlib import Path

from .bundles import Bundle, gate
from .rules import ATTESTED, ENDS, SYN, TUPLE, TUPLE_BACK, TUPLE_TYPE, with_payload

KNOWN_S = 300
"""How long a connection that was open before may be silent and still be known, in seconds."""
KNOWN = 16_384
UNKNOWN_S = 500
"""Packets of unknown connections that may ask the server about them in a second."""
_SYSCTLS = {
    "net/netfilter/nf_conntrack_tcp_loose": "0",  # packets in mid-stream make no connection
    "net/ipv4/tcp_syncookies": "1",
    "net/ipv4/tcp_timestamps": "1",  # the cookie carries the options in them
}


def prepare() -> dict[str, str]:
    """Set what SYNPROXY needs in this namespace; conntrack must be loaded.

    Returns:
        The settings that were others before, with what they were.

    Raises:
        OSError: if the kernel does not let us.

    """
    before = {name: Path("/proc/sys", name).read_text().strip() for name in _SYSCTLS}
    changed = {name: value for name, value in before.items() if value != _SYSCTLS[name]}
    for name in changed:
        Path("/proc/sys", name).write_text(_SYSCTLS[name])
    return changed


def restore(settings: dict[str, str]) -> None:
    """Give settings that ``prepare`` changed their values back.

    Raises:
        OSError: if the kernel does not let us.

    """
    for name, value in settings.items():
        Path("/proc/sys", name).write_text(value)


def proxy(own: str, address: str) -> Bundle:
    """Answer the handshakes with ``address``; passed counts those completed."""
    leased = f"{gate(own)} ip daddr {address}"
    from_server = f"ip saddr {address}"
    unknown = f"{leased} ct state invalid"
    ask = f"limit rate {UNKNOWN_S}/second burst {UNKNOWN_S} packets accept"
    parts = {
        f"{own}known": f"set {{ {TUPLE_TYPE}; flags dynamic,timeout; size {KNOWN}; "
        f"timeout {KNOWN_S}s; }}",
        f"{own}asked": "counter",
        f"{own}passed": "counter",
        f"{own}raw": "chain { type filter hook prerouting priority raw; }",
        f"{own}forward": "chain { type filter hook forward priority filter; }",
        f"{own}out": "chain { type filter hook output priority filter; }",
    }
    forward = [
        f"{from_server} {ATTESTED} ct state invalid update @{own}known {{ {TUPLE_BACK} }} accept",
        f"ip daddr {address} {TUPLE} @{own}known ct state invalid accept",
        f"{unknown} {ENDS} {ask}",
        *with_payload(unknown, ask),
        f"{leased} meta l4proto tcp ct state invalid,untracked "
        "synproxy mss 1460 wscale 7 timestamp sack-perm",
        f"{unknown} meta l4proto tcp drop",
    ]
    rules = (
        (f"{own}raw", f"{leased} {SYN} counter name {own}asked notrack"),
        *((f"{own}forward", rule) for rule in forward),
        (f"{own}out", f"ip daddr {address} {SYN} counter name {own}passed"),
    )
    return Bundle("inet", own, parts, rules)
