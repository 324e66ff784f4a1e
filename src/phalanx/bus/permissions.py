"""Who may say and hear what: permissions that follow from an identity's role and name.

They are written down once, here. A NATS server is configured from them, and the broker in
memory asks them. An agent cannot speak as another, nor read what was said to another.
"""

from __future__ import annotations

from msgspec import Struct

from phalanx.bus.subjects import EVENTS, ONE, REGISTRY, REST, calls, covers, matches, pattern, token
from phalanx.identity.names import Identity, Role


class Grants(Struct, frozen=True):
    """What an identity may do; patterns as in ``subjects``."""

    publish: tuple[str, ...]
    """Patterns of subjects, also of those that a stream keeps."""
    subscribe: tuple[str, ...]
    follow: tuple[str, ...] = ()
    """Streams that it may read from their beginning."""
    put: tuple[tuple[str, str], ...] = ()
    """(table, key) that it may write; key ``*``: any."""
    watch: tuple[str, ...] = ()
    """Tables that it may read."""

    def may_publish(self, subject: str) -> bool:
        """Whether it may publish under ``subject``."""
        return any(matches(allowed, subject) for allowed in self.publish)

    def may_subscribe(self, wanted: str) -> bool:
        """Whether it may hear everything that the pattern ``wanted`` stands for."""
        return any(covers(allowed, wanted) for allowed in self.subscribe)

    def may_put(self, table: str, key: str) -> bool:
        """Whether it may write ``key`` of ``table``."""
        return (table, key) in self.put or (table, "*") in self.put


def grants(identity: Identity) -> Grants:
    """Return what an identity may do."""
    domain, me, role = identity.domain, identity.name, identity.role
    own = (pattern(domain, "evt", me, REST), pattern(domain, "pub", me, REST))
    own_calls = pattern(domain, "call", ONE, ONE, role.value, me)
    served = (calls(domain, me), pattern(domain, "pub", ONE, REST))
    events = pattern(domain, "evt", ONE, REST)
    put, watch = ((REGISTRY, token(me)),), (REGISTRY,)
    match role:
        case Role.AGENT:
            sent = (pattern(domain, "msg", ONE, me), pattern(domain, "mcast", me))
            heard = (pattern(domain, "msg", me, ONE), pattern(domain, "mcast", ONE))
            return Grants((*sent, *own, own_calls), (*heard, *served), put=put, watch=watch)
        case Role.NETWORK:
            return Grants(own, served, put=put, watch=watch)
        case Role.RECORDER:
            return Grants(own, (events, *served), (EVENTS,), put, watch)
        case Role.ORCHESTRATOR | Role.OPERATOR:
            return Grants((*own, own_calls), (events, *served), (EVENTS,), put, watch)
        case Role.OBSERVER:
            return Grants((), (events, served[1]), (EVENTS,), watch=watch)
        case Role.BROKER:
            return Grants(own[:1], ())
