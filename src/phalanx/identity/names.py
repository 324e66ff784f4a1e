"""Identities: the name, the role and the domain of a process, as its certificate states them."""

from __future__ import annotations

import re
from enum import Enum

from msgspec import Struct

from phalanx.domain.errors import PhalanxError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class IdentityError(PhalanxError):
    """A certificate, a key or an authority is refused; the text is one line."""


class Role(Enum):
    """What a process is for."""

    AGENT = "agent"
    """The agent of one PoP, or of one part of a service."""
    NETWORK = "network"
    """Serves the infrastructure of PoPs to their agents."""
    RECORDER = "recorder"
    """Keeps the history of all agents."""
    ORCHESTRATOR = "orchestrator"
    """Deploys and changes pipelines of agents."""
    OPERATOR = "operator"
    """A person at the command line."""
    OBSERVER = "observer"
    """Looks, and changes nothing."""
    BROKER = "broker"
    """Keeps the broker itself: makes its streams and tables, and tells what it refused."""


class Identity(Struct, frozen=True):
    """Who a process is; proven by its certificate where there is a network between.

    Raises:
        ValueError: if its name or domain is none, such as a wildcard that would be all names.

    """

    name: str
    role: Role
    domain: str
    """The set of agents that work together; subjects of two domains never meet."""

    def __post_init__(self) -> None:
        for what, name in (("name", self.name), ("domain", self.domain)):
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{what} is {name!r}, allowed are up to 64 letters, digits, '.', '_' and '-', "
                    "a letter or digit first"
                )

    @property
    def uri(self) -> str:
        """The name in a certificate (subject alternative name, RFC 5280)."""
        return f"phalanx://{self.domain}/{self.role.value}/{self.name}"
