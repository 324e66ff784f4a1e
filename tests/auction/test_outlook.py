"""Agents that tell each other who lives: they agree soon, whatever was said, and fall silent."""

from __future__ import annotations

from collections import deque

import pytest
from msgspec.structs import replace

from phalanx.auction.outlook import GOSSIP, Outlook
from phalanx.auction.settings import Settings
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Library
from phalanx.domain.actions import SiteState
from phalanx.domain.agents import MOST_STAMP, AgentState
from phalanx.domain.messages import Advertisement, Digest, Message, Performative
from phalanx.domain.resources import NOTHING, Resources

NAMES = ("a", "b", "c")
ROOM = Resources(4, 16, 100)
LIBRARY = Library([Outlook])


class Talk:
    """Agents that know nothing but their outlook; messages arrive in the order sent."""

    def __init__(self) -> None:
        self.agents: dict[str, Agent] = {}
        self.waiting: deque[Message] = deque()
        self.cut: set[str] = set()
        """Agents that neither hear nor are heard."""
        for name in NAMES:
            self.start(name)

    def start(self, name: str, incarnation: int = 1) -> None:
        agent = Agent(name, LIBRARY, lambda _: None, pop=name, incarnation=incarnation)
        agent.capability(Outlook).settings = Settings(NAMES, "a", {})
        self.agents[name] = agent

    def perceive(self, name: str, free: Resources = ROOM) -> None:
        site = SiteState(ROOM, free, ())
        self.waiting.extend(self.agents[name].perceive(site, 0.0, "test"))

    def say(self, sender: str, receiver: str, content: Advertisement | Digest) -> None:
        asks = isinstance(content, Digest)
        how = Performative.QUERY if asks else Performative.INFORM
        self.waiting.append(Message("m", how, sender, receiver, GOSSIP, content, "test"))

    def settle(self, most: int = 100) -> int:
        """Deliver until nobody has more to say; return how many messages that took."""
        count = 0
        while self.waiting:
            message = self.waiting.popleft()
            if not self.cut & {message.sender, message.receiver}:
                count += 1
                assert count <= most, "they go on without end"
                self.waiting.extend(self.agents[message.receiver].receive(message, 0.0))
        return count

    def believed(self, of: str) -> list[AgentState | None]:
        return [agent.capability(Outlook).view.get(of) for agent in self.agents.values()]

    def take_for_dead(self, who: str, dead: str) -> None:
        agent = self.agents[who]
        agent.capability(Outlook).declare_dead(agent, dead)
        self.waiting.extend(agent.settle())


@pytest.fixture
def talk() -> Talk:
    made = Talk()
    for name in NAMES:
        made.perceive(name)
    made.settle()
    assert len({agent.capability(Outlook).view.digest for agent in made.agents.values()}) == 1
    return made


def test_two_that_take_earlier_lives_of_each_other_for_dead_agree_and_fall_silent(
    talk: Talk,
) -> None:
    talk.cut = {"b"}
    talk.take_for_dead("a", "b")
    talk.settle()
    talk.start("b", incarnation=2)
    talk.perceive("b")
    talk.take_for_dead("b", "a")  # it never heard of it in this life
    talk.settle()
    talk.cut = set()
    talk.say("b", "a", Advertisement(()))
    talk.settle(12)
    for name in ("a", "b"):
        assert all(state is None or state.alive for state in talk.believed(name)[:2])


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("stamp", [(1, 10**9), (900, 1), (900, 10**9)])
def test_what_is_said_falsely_of_an_agent_is_contradicted_for_good(
    talk: Talk, stamp: tuple[int, int], alive: bool
) -> None:
    false = AgentState("b", "b", *stamp, ROOM, NOTHING, alive=alive)
    for receiver in ("a", "b"):
        talk.say("c", receiver, Advertisement((false,)))
    talk.settle(40)
    talk.perceive("b", replace(ROOM, cores=3.0))
    talk.settle(10)
    for state in talk.believed("b"):
        assert state is not None
        assert state.alive
        assert state.free.cores == 3.0
    talk.start("b", incarnation=2)
    talk.perceive("b", replace(ROOM, cores=2.0))
    talk.say("a", "b", Advertisement(tuple(talk.agents["a"].capability(Outlook).view.states)))
    talk.settle(40)
    for state in talk.believed("b"):
        assert state is not None
        assert state.free.cores == 2.0
        assert state.forgets(stamp[0]) is (stamp[0] > 1 or state.incarnation == 2)


def test_what_cannot_be_contradicted_is_not_argued_about(talk: Talk) -> None:
    false = AgentState("b", "b", MOST_STAMP, MOST_STAMP, ROOM, NOTHING, alive=False)
    for receiver in ("a", "b", "c"):
        talk.say("c", receiver, Advertisement((false,)))
    talk.settle(20)
    talk.perceive("b", NOTHING)
    talk.settle(20)


def test_agents_that_cannot_tell_of_themselves_yet_do_not_ask_each_other_without_end() -> None:
    talk = Talk()
    earlier = {name: AgentState(name, name, 0, 1, ROOM, ROOM) for name in ("a", "b")}
    talk.say("c", "a", Advertisement((earlier["b"],)))
    talk.say("c", "b", Advertisement((earlier["a"],)))
    talk.settle()
    talk.say("b", "a", Digest(0))
    talk.settle(20)
