"""The messages of one auction among SPADE agents of one process, as in ``queue_net``.

Agents of one SPADE container hand each other messages directly. So they need no XMPP server,
and connect to none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from spade.agent import Agent
from spade.behaviour import CyclicBehaviour
from spade.container import Container
from spade.message import Message

from queue_net import ACCEPT, CFP, INFORM, PROPOSE, REJECT

PATIENCE_S = 600.0


class Offline(Agent):  # type: ignore[misc]  # SPADE has no types
    """An agent that meets others in its container only."""

    async def _async_connect(self) -> None:
        """Connect to no server."""


class Bid(CyclicBehaviour):  # type: ignore[misc]
    """Propose whatever is asked for; say so when it is done."""

    async def run(self) -> None:
        """Answer one message."""
        heard = await self.receive(timeout=PATIENCE_S)
        answer = {CFP: PROPOSE, ACCEPT: INFORM}.get(heard.get_metadata("performative"))
        if answer is not None:
            await self.send(_message(str(heard.sender), answer))


class Ask(CyclicBehaviour):  # type: ignore[misc]
    """Lends its mailbox to the initiator."""

    async def run(self) -> None:
        """Leave the mailbox alone."""
        await asyncio.sleep(PATIENCE_S)


def start(bidders: int) -> tuple[Sequence[Any], Any]:
    """Start agents; return the bidders and the initiator's behaviour."""
    agents = [Offline(f"bidder{number}@localhost", "secret") for number in range(bidders)]
    for agent in agents:
        agent.add_behaviour(Bid())
    initiator, ask = Offline("initiator@localhost", "secret"), Ask()
    initiator.add_behaviour(ask)

    async def begin() -> None:
        for agent in (*agents, initiator):
            await agent.start()

    Container().loop.run_until_complete(begin())
    return agents, ask


def auctions(bidders: int, rounds: int) -> list[float]:
    """Return the seconds that each of ``rounds`` auctions took."""
    agents, ask = start(bidders)
    names = [str(agent.jid) for agent in agents]

    async def auction(winner: str) -> float:
        begin = time.perf_counter()
        for name in names:
            await ask.send(_message(name, CFP))
        for _ in names:
            await ask.receive(timeout=PATIENCE_S)
        for name in names:
            await ask.send(_message(name, ACCEPT if name == winner else REJECT))
        heard = await ask.receive(timeout=PATIENCE_S)
        took = time.perf_counter() - begin
        assert heard.get_metadata("performative") == INFORM
        return took

    async def all_auctions() -> list[float]:
        took = [await auction(names[number % bidders]) for number in range(rounds)]
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        return took

    took: list[float] = Container().loop.run_until_complete(all_auctions())
    return took


def _message(to: str, performative: str) -> Any:
    return Message(to=to, body="", metadata={"performative": performative})
