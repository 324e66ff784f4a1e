"""Who verified whom in a run, who was expelled and why, and who got which keys."""

from __future__ import annotations

from msgspec import Struct

from phalanx.domain.events import Event
from phalanx.reporting.event_text import describe
from phalanx.reporting.log import number, text

OUT = ("quarantined", "silent")
"""Standings of agents that nobody deals with."""


class StandingStep(Struct, frozen=True):
    """What an agent is from some time on."""

    time: float
    standing: str
    """``trusted``, ``silent``, ``quarantined`` or ``retired``."""
    reason: str
    event: str
    """Id of the event that tells of it."""


class ChainLink(Struct, frozen=True):
    """One agent verified the next in the initial chain."""

    time: float
    verifier: str
    agent: str
    event: str


class VerifiedAgent(Struct):
    """What was found of one agent."""

    agent: str
    affirmed: int = 0
    """Results by which it is genuine."""
    against: int = 0
    """All other results."""
    last_s: float | None = None
    """When it was last found genuine, in seconds; None: never."""
    by: str = ""
    """Who found it so."""
    steps: list[StandingStep] = []

    @property
    def story(self) -> str:
        """When it was expelled or silent and why, and when it was back; empty: it never was."""
        words: list[str] = []
        for step in self.steps:
            reason = f": {step.reason}" if step.reason else ""
            if step.standing in OUT:
                verb = "expelled" if step.standing == "quarantined" else "silent"
                words.append(f"{verb} at {step.time:.1f} s{reason}")
            elif words and step.standing == "trusted":
                words.append(f"back at {step.time:.1f} s")
        return ", ".join(words)


class KeyEpoch(Struct):
    """One epoch of the overlay's keys."""

    epoch: int
    since: float
    by: str
    agents: list[str]


class TrustStory(Struct, frozen=True):
    """What a log tells of trust so far."""

    chain: tuple[ChainLink, ...]
    """The first verification of each agent."""
    verified_s: float
    """When the last agent of the chain was trusted, in seconds."""
    agents: tuple[VerifiedAgent, ...]
    epochs: tuple[KeyEpoch, ...]
    associations: int
    """Pairs of agents with a service level."""
    breaches: tuple[tuple[Event, str], ...]
    """Events of agents that saw one broken, with their text."""
    modelled: bool
    """Whether measurers were models, as where all agents share one process."""

    @property
    def line(self) -> str:
        """The story in one line."""
        count = f"{len(self.chain)} agent{'' if len(self.chain) == 1 else 's'}"
        told = (f"{agent.agent} {agent.story}" for agent in self.agents if agent.story)
        begin = f"{count} verified in a chain by {self.verified_s:.1f} s"
        levels = f"service levels broken: {len(self.breaches)}" if self.breaches else ""
        return "; ".join(filter(None, (begin, *told, levels)))


class TrustView:
    """Follows a run event by event."""

    def __init__(self) -> None:
        self._chain: dict[str, ChainLink] = {}
        self._verified_s = 0.0
        self._agents: dict[str, VerifiedAgent] = {}
        self._epochs: dict[int, KeyEpoch] = {}
        self._positions: set[tuple[str, float]] = set()
        self._modelled = False
        self._agreed: set[frozenset[str]] = set()
        self._breaches: list[tuple[Event, str]] = []

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        data = event.data
        if event.kind == "attestation.result":
            agent = self._agent(text(data, "attester"))
            self._modelled |= data.get("modelled") is True
            if text(data, "tier") != "affirming":
                agent.against += 1
                return
            agent.affirmed += 1
            agent.last_s, agent.by = event.time, event.agent
            if number(data, "round") == 0:
                link = ChainLink(event.time, event.agent, agent.agent, event.id)
                self._chain.setdefault(agent.agent, link)
        elif event.kind == "trust.changed":
            self._changed(event)
        elif event.kind == "association.agreed":
            self._agreed.add(frozenset((event.agent, text(data, "agent"))))
        elif event.kind == "association.breached":
            self._breaches.append((event, describe(event)))
        elif event.kind == "key.installed":
            epoch, by = int(number(data, "epoch")), text(data, "by")
            found = self._epochs.setdefault(epoch, KeyEpoch(epoch, event.time, by, []))
            if event.agent not in found.agents:
                found.agents.append(event.agent)

    def result(self) -> TrustStory | None:
        """Return the story so far; None: nobody attests anybody in this run."""
        if not self._agents:
            return None
        return TrustStory(
            tuple(self._chain.values()),
            self._verified_s,
            tuple(self._agents[name] for name in sorted(self._agents)),
            tuple(self._epochs[number] for number in sorted(self._epochs)),
            len(self._agreed),
            tuple(self._breaches),
            self._modelled,
        )

    def _agent(self, name: str) -> VerifiedAgent:
        return self._agents.setdefault(name, VerifiedAgent(name))

    def _changed(self, event: Event) -> None:
        """Keep a change of standing once, whoever of those that see it tells of it first."""
        agent = self._agent(text(event.data, "agent"))
        place = agent.agent, number(event.data, "position")
        standing = text(event.data, "standing")
        if place in self._positions:
            return
        self._positions.add(place)
        if standing == "trusted" and not agent.steps:
            self._verified_s = max(self._verified_s, event.time)
        agent.steps.append(StandingStep(event.time, standing, text(event.data, "reason"), event.id))
