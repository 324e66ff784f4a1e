"""Bundles: all that one measure has in a table, made, leased and removed as one.

The names of its parts begin with the measure's name in hexadecimal, so that a process which
finds its tables again knows what is in them. Its rules are gated by a set with one element
that times out, so the kernel itself ends what nobody renews. That element is the ether type
of IPv4: one kind of lease for every hook.
"""

from __future__ import annotations

from .netlink import INET, NETDEV, Reader
from .nft import Nft, NftError

FAMILIES = {"netdev": NETDEV, "inet": INET}
_KINDS = ("set", "counter", "limit", "chain")


class Bundle:
    """The parts of a measure; references between them are by name."""

    __slots__ = ("family", "parts", "prefix", "rules")

    def __init__(
        self,
        family: str,
        prefix: str,
        parts: dict[str, str],
        rules: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.family = family
        self.prefix = prefix
        self.parts = parts
        """What each part is, by name: its kind, then for nft what it consists of."""
        self.rules = rules
        """Chain and rule, in order."""


def prefix(name: str) -> str:
    """Return what the names of the parts of a measure begin with."""
    return "m" + name.encode().hex() + "_"


def gate(own: str) -> str:
    """Return the match that holds as long as the lease does."""
    return f"meta protocol @{own}lease"


def addition(table: str, bundle: Bundle, ttl_s: float) -> str:
    """Return the commands that put a bundle into force."""
    place = f"{bundle.family} {table}"
    lines = [
        f"add table {place}",
        f"add set {place} {bundle.prefix}lease {{ type ether_type; flags timeout; }}",
        renewal(table, bundle, ttl_s),
    ]
    for name, what in bundle.parts.items():
        kind, _, body = what.partition(" ")
        lines.append(f"add {kind} {place} {name} {body}")
    lines.extend(f"add rule {place} {chain} {rule}" for chain, rule in bundle.rules)
    return "\n".join(lines) + "\n"


def renewal(table: str, bundle: Bundle, ttl_s: float) -> str:
    """Return the commands that set the end of a lease anew; no packet passes in between."""
    lease = f"{bundle.family} {table} {bundle.prefix}lease"
    return (
        f"add element {lease} {{ ip }}\n"
        f"delete element {lease} {{ ip }}\n"
        f"add element {lease} {{ ip timeout {round(ttl_s * 1000)}ms }}\n"
    )


def expiry(table: str, bundle: Bundle) -> str:
    """Return the commands that end a lease now and leave all else."""
    lease = f"{bundle.family} {table} {bundle.prefix}lease"
    return f"add element {lease} {{ ip }}\ndelete element {lease} {{ ip }}\n"


def removal(table: str, bundle: Bundle) -> str:
    """Return the commands that remove a bundle that is there."""
    place = f"{bundle.family} {table}"
    parts = [(what.partition(" ")[0], name) for name, what in bundle.parts.items()]
    chains = [name for kind, name in parts if kind == "chain"]
    lines = [f"flush chain {place} {name}" for name in chains]
    lines += [f"delete chain {place} {name}" for name in chains]
    lines += [f"delete {kind} {place} {name}" for kind, name in parts if kind != "chain"]
    return "\n".join([*lines, f"delete set {place} {bundle.prefix}lease"]) + "\n"


def remaining_s(reader: Reader, table: str, bundle: Bundle) -> float:
    """Return how long a lease still holds, in seconds; 0 if it has run out."""
    elements = reader.elements(FAMILIES[bundle.family], table, f"{bundle.prefix}lease")
    return elements[0].expires_s or 0.0 if elements else 0.0


def found(nft: Nft, table: str) -> dict[str, Bundle]:
    """Return the bundles that tables of the name ``table`` hold, by the measure's name."""
    bundles: dict[str, Bundle] = {}
    for family in FAMILIES:
        try:
            listing = nft.json(f"list table {family} {table}")["nftables"]
        except NftError:
            continue  # no such table
        for item in listing:
            for kind in _KINDS:
                full = item.get(kind, {}).get("name", "")
                own, _, rest = full.partition("_")
                if own[:1] != "m" or not rest:
                    continue
                name = bytes.fromhex(own[1:]).decode()
                bundle = bundles.setdefault(name, Bundle(family, f"{own}_", {}))
                if rest != "lease":
                    bundle.parts[full] = kind
    return bundles
