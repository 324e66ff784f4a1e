"""What no fault may cost a domain of processes."""

from __future__ import annotations

import time
from collections.abc import Collection
from functools import partial

from phalanx.checking import Violation, check
from tests.system.process_lab import Lab
from tests.system.process_log import (
    allocated_twice,
    enforced_twice,
    timeline,
    unprotected,
)
from tests.system.process_plan import FIRST, LEASE_S, NETWORK

TELLING = (
    "measure.",
    "lease.",
    "instance.st",
    "agent.",
    "connection.",
    "process.",
    "contract.",
    "auction.awarded",
    "auction.failed",
    "goal.taken_over",
)
"""Of what is in force, and who sees to it."""
RENEGOTIATED_S = 5.0
"""Within so many seconds an attack is held off again."""


def caught_up(lab: Lab, alive: Collection[str]) -> None:
    """Wait until all that has happened so far is heard: a stream without a leader keeps nothing."""
    now = time.time()

    def network_heard() -> bool:
        latest = timeline(one for one in lab.heard if one.event.agent == NETWORK)[-1:]
        return any(one.at >= now for one in latest)

    lab.until(network_heard, "the network is heard")
    lab.eventually(lambda: all(map(lab.answers, alive)), "all that run answer")
    lab.eventually(
        lambda: all(lab.status(pop).events_waiting == 0 for pop in alive), "all events are kept"
    )


def incomplete(lab: Lab) -> list[Violation]:
    """Return what shows that events are missing in what was heard, or there twice."""
    found = check([one.event for one in lab.heard], whole=True)
    return [violation for violation in found if violation.rule in ("ids", "causes")]


def check_in_order(lab: Lab, since: float, *, gone: Collection[str] = ()) -> None:
    """Check what no fault may cost, once everything has come to rest.

    Args:
        lab: where it happened.
        since: when, by the broker's clock.
        gone: agents that are not meant to live.

    """
    alive = [pop for pop in lab.pops if pop not in gone]
    caught_up(lab, alive)
    lab.until(lab.held_off, "the attack is held off")

    def leases_have_holders() -> bool:
        held = lab.estate(*alive)
        return all(lease in held or lease in FIRST for lease in lab.books().leases)

    lab.eventually(leases_have_holders, "each lease is that of a living agent, or has run out")
    lab.rest(1.0)
    caught_up(lab, alive)
    # What is on its way arrives; what was lost never does.
    lab.until(lambda: not incomplete(lab), "no event and no cause is missing")
    happened = timeline(lab.heard)
    spell = max(unprotected(happened, since, happened[-1].at), default=0.0)
    told = partial(lab.story, 80, TELLING)
    assert spell <= RENEGOTIATED_S, f"nothing held the attack off for {spell:g} s\n{told()}"
    for doubled in (enforced_twice(happened), allocated_twice(happened)):
        assert [d for d in doubled if d[1] > LEASE_S + 1.0] == [], told()
    assert set(lab.testbed.ended()) == {*gone}, lab.story()
    for name in (*lab.pops, NETWORK):
        assert "Traceback" not in lab.testbed.log(name).read_text(), lab.testbed.log(
            name
        ).read_text()
