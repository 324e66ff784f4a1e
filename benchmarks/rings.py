"""The scenario of figure 5.6: the published strategy on a ring of any size, without limits."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from phalanx.domain.events import Event
from phalanx.domain.messages import Performative
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import (
    ConstraintsSpec,
    HostSpec,
    LinkSpec,
    MonitorSpec,
    NetworkSpec,
    PopSpec,
    Scenario,
    TrafficSpec,
)
from phalanx.runtime.system import System

STRATEGY = Path(__file__).resolve().parents[1] / "scenarios" / "ddos-resilience.yaml"
UNLIMITED = 1e6
ATTACK_S = 5.0
LIMIT_S = 300.0

CONTRACT_NET = (
    Performative.CFP,
    Performative.PROPOSE,
    Performative.REFUSE,
    Performative.ACCEPT,
    Performative.REJECT,
    Performative.AGREE,
    Performative.FAILURE,
    Performative.CANCEL,
)


def ring_scenario(size: int) -> Scenario:
    """Return the strategy of section 5.1 on a ring, with one attacker (section 5.4.3).

    Functions, preferences and rates are those of the acceptance scenario; resources and
    bandwidth are as good as unlimited, and no goal has constraints.
    """
    strategy = load_scenario(STRATEGY)
    names = [f"pop{number:04d}" for number in range(size)]
    return replace(
        strategy,
        name=f"ring-{size}",
        strategy="published",
        duration_s=LIMIT_S,
        network=NetworkSpec(
            pops=tuple(PopSpec(name, UNLIMITED, UNLIMITED, UNLIMITED) for name in names),
            repository=names[size // 2],
            links=tuple(
                LinkSpec((names[i], names[(i + 1) % size]), UNLIMITED, 0.01) for i in range(size)
            ),
        ),
        hosts=(HostSpec("server", names[0], "10.0.0.10", 6.0),),
        traffic=(
            TrafficSpec("users", "http", 10, (names[1],), "server", 80, 0.1),
            TrafficSpec(
                "attacker", "syn-flood", 1, (names[size // 3],), "server", 80, 6.0, ATTACK_S
            ),
        ),
        monitors=(MonitorSpec(f"{names[0]}>server", names[0], 4.5),),
        goals={n: replace(g, constraints=ConstraintsSpec()) for n, g in strategy.goals.items()},
        timing=replace(strategy.timing, sample_s=10.0),
    )


def mitigate(system: System) -> None:
    """Run until the attacker's flow is blocked.

    Raises:
        RuntimeError: if that does not happen.

    """
    blocked: list[Event] = []

    def watch(event: Event) -> None:
        if event.data.get("effect", "").startswith("flowRateLimited"):
            blocked.append(event)

    system.log.listen(watch)
    system.run(should_stop=lambda: bool(blocked))
    if not blocked:
        raise RuntimeError("the attack was not stopped")


def nfva_messages(system: System) -> int:
    """Return how many messages all auctions took, final informs and signs of life included."""
    informs = sum(1 for event in system.log if event.kind == "contract.ended")
    return informs + sum(system.bus.sent.get(performative, 0) for performative in CONTRACT_NET)
