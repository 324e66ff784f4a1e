"""A domain: the agents that work together, their identities, and the brokers between them."""

from phalanx.runtime.domain.directory import Domain, Member, Standing
from phalanx.runtime.domain.spec import (
    BrokerSpec,
    Bundle,
    DomainSpec,
    parse_domain,
    read_bundle,
    read_domain,
    role_named,
    split_server,
)

__all__ = [
    "BrokerSpec",
    "Bundle",
    "Domain",
    "DomainSpec",
    "Member",
    "Standing",
    "parse_domain",
    "read_bundle",
    "read_domain",
    "role_named",
    "split_server",
]
