"""Who may say and hear what: permissions that follow from an identity's role and name.

They are written down once, here. A NATS server is configured from them, and the broker in
memory asks them. An agent cannot speak as another, nor read what was said to another.
"""

from __future__ import annotations

from msgspec import Struct

from phalanx.bus.subjects import EVENTS, REGISTRY, calls, covers, matches, pattern, token
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
    own_events = pattern(domain, "evt", me, ">")
    own_calls = pattern(domain, "call", "*", "*", role.value, me)
    called = calls(domain, me)
    own_news = pattern(domain, "pub", me, ">")
    news = pattern(domain, "pub", "*", ">")
    events = pattern(domain, "evt", "*", ">")
    own_entry = ((REGISTRY, token(me)),)
    match role:
        case Role.AGENT:
            return Grants(
                publish=(
                    pattern(domain, "msg", "*", me),
                    own_events,
                    own_calls,
                    own_news,
                ),
                subscribe=(
                    pattern(domain, "msg", me, "*"),
                    called,
                    news,
                ),
                put=own_entry,
                watch=(REGISTRY,),
            )
        case Role.NETWORK:
            return Grants(
                publish=(own_events, own_news),
                subscribe=(called, news),
                put=own_entry,
                watch=(REGISTRY,),
            )
        case Role.RECORDER:
            return Grants(
                publish=(own_events, own_news),
                subscribe=(events, called, news),
                follow=(EVENTS,),
                put=own_entry,
                watch=(REGISTRY,),
            )
        case Role.ORCHESTRATOR | Role.OPERATOR:
            return Grants(
                publish=(own_calls, own_events, own_news),
                subscribe=(events, called, news),
                follow=(EVENTS,),
                put=own_entry,
                watch=(REGISTRY,),
            )
        case Role.OBSERVER:
            return Grants(publish=(), subscribe=(events, news), follow=(EVENTS,), watch=(REGISTRY,))
        case Role.BROKER:
            return Grants(publish=(own_events,), subscribe=())
