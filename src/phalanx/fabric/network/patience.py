"""How patient an agent is with its infrastructure, and what it counts."""

from __future__ import annotations

from msgspec import Struct, field


class Patience(Struct, frozen=True):
    """How long an agent waits, in seconds, and for how much."""

    retry_s: float = 0.5
    """When it asks again what was not answered."""
    give_up_s: float = 10.0
    """When an action fails of which nothing was heard; one under way, of whose service."""
    renew_s: float = 2.0
    """How often it asks for what it missed, and says what it has heard."""
    window: int = 64
    """Actions that may be asked for at a time; others wait for their turn."""
    waiting: int = 1_000
    """Actions that may wait; more fail at once."""


class Counters(Struct):
    """What became of what was asked."""

    asked: int = 0
    repeated: int = 0
    """Actions asked for again because nothing was heard."""
    given_up: int = 0
    """Actions of which nothing was heard for too long."""
    shed: int = 0
    """Actions that failed at once because too many waited."""
    gaps: int = 0
    """News that came before others."""
    refused: dict[str, int] = field(default_factory=dict)
    """What came in and was not taken: ``garbage``, ``stale`` (of another life)."""
