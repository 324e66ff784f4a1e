"""A crowd of SPADE agents, one in each process, over SPADE's own XMPP server with its TLS.

The server is pyjabber, which SPADE brings and starts by ``spade run``; accounts are in memory.
It takes passwords, and shows a certificate that SPADE's agents do not check by default.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from spade.agent import Agent
from spade.behaviour import CyclicBehaviour
from spade.container import Container
from spade.message import Message

from contract_net import ANSWERS, Caller, Saying, samples
from crowd import AUCTIONEER, Holding, bidders, obey
from phalanx.domain.messages import Performative

HOST = "localhost"
PATIENCE_S = 600.0
READY_S = 60.0


class Hear(CyclicBehaviour):  # type: ignore[misc]  # SPADE has no types
    """Receives one message after the other."""

    async def run(self) -> None:
        """Hand one message to the agent, and send what it answers."""
        heard = await self.receive(timeout=PATIENCE_S)
        if heard is not None:
            performative = Performative(heard.get_metadata("performative"))
            for to, answer, auction in self.agent.answer(
                str(heard.sender.bare), performative, int(heard.thread)
            ):
                await self.send(_message(to, answer, auction, self.agent.samples[answer]))


class Begin(CyclicBehaviour):  # type: ignore[misc]
    """Sends the calls of auctions that are to begin."""

    async def run(self) -> None:
        """Begin one auction."""
        for saying in self.agent.caller.begin(await self.agent.beginning.get()):
            to = f"{saying.to}@{HOST}"
            octets = self.agent.samples[saying.performative]
            self.agent.messages += 1
            await self.send(_message(to, saying.performative, saying.auction, octets))


class Bidder(Agent):  # type: ignore[misc]
    """Proposes whatever is asked for; says so when it is done."""

    samples: dict[Performative, str]

    async def setup(self) -> None:
        """Begin to hear."""
        self.add_behaviour(Hear())

    def answer(
        self, sender: str, performative: Performative, auction: int
    ) -> Iterable[tuple[str, Performative, int]]:
        """Return what to say to what was heard."""
        answer = ANSWERS.get(performative)
        return () if answer is None else ((sender, answer, auction),)


class Auctioneer(Bidder):
    """Holds auctions."""

    caller: Caller
    holding: Holding
    beginning: asyncio.Queue[int]
    messages: int

    async def setup(self) -> None:
        """Begin to hear, and to hold auctions."""
        await super().setup()
        self.beginning = asyncio.Queue()
        self.add_behaviour(Begin())

    def answer(
        self,
        sender: str,  # noqa: ARG002  # it says what auctions say
        performative: Performative,
        auction: int,
    ) -> Iterable[tuple[str, Performative, int]]:
        """Return what to say now; note that an auction is over."""
        sayings: list[Saying] | None = self.caller.hear(performative, auction)
        self.messages += 1 + len(sayings or ())
        if sayings is None:
            self.holding.ended(auction)
        return [(f"{s.to}@{HOST}", s.performative, s.auction) for s in sayings or ()]


class Spade:
    """SPADE over XMPP; bodies are the octets of messages as text."""

    def __init__(self, folder: Path, size: int) -> None:
        self._names = bidders(size)
        self._samples = {
            said: octets[1:].decode() for said, octets in samples(folder.parent).items()
        }
        with ExitStack() as stack:
            probes = [stack.enter_context(socket.socket()) for _ in range(2)]
            for probe in probes:
                probe.bind(("127.0.0.1", 0))
            self._port, self._meets_at = (probe.getsockname()[1] for probe in probes)
        certificates = folder / "certificates"
        package = importlib.import_module("pyjabber.network").__path__[0]
        shutil.copytree(Path(package) / "certs", certificates)  # it signs its own with them
        fork = multiprocessing.get_context("fork")
        self._server = fork.Process(target=self._serve, args=(certificates,))
        self._server.start()
        end = time.monotonic() + READY_S
        while not self._answers():
            if time.monotonic() > end or not self._server.is_alive():
                raise TimeoutError(f"no XMPP server answers at {HOST}:{self._port}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self._port)) == 0

    def servers(self) -> Iterable[int]:
        """Return the servers; see ``crowd.Way``."""
        assert self._server.pid is not None
        return (self._server.pid,)

    def close(self) -> None:
        """Stop them; see ``crowd.Way``."""
        pids = (*self._pool(), *self.servers())
        for pid in pids:  # told to end, the server would wait for its pool
            os.kill(pid, signal.SIGKILL)
        self._server.join()

    def _pool(self) -> list[int]:
        """Return the processes that the server has check passwords."""
        pid = self._server.pid
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def bidder(self, number: int, orders: Connection) -> None:
        """Be a bidder; see ``crowd.Way``."""
        self._live(self._agent(Bidder, self._names[number]), orders)

    def auctioneer(self, orders: Connection) -> None:
        """Be the auctioneer; see ``crowd.Way``."""
        agent = self._agent(Auctioneer, AUCTIONEER)
        agent.caller, agent.messages = Caller(self._names), 0
        agent.holding = Holding(
            lambda number: agent.beginning.put_nowait(number),  # noqa: PLW0108  # it is made later
            orders,
            lambda: agent.messages,
        )
        self._live(agent, orders, agent.holding)

    def _agent(self, kind: type[Any], name: str) -> Any:
        logging.disable()
        agent = kind(f"{name}@{HOST}", "secret", port=self._port)
        agent.samples = self._samples
        return agent

    def _live(self, agent: Any, orders: Connection, holding: Holding | None = None) -> None:
        async def live() -> None:
            over = asyncio.Event()
            async with asyncio.timeout(READY_S):
                await agent.start()
            hold = None if holding is None else holding.hold
            obey(asyncio.get_running_loop(), orders, over.set, hold)
            await over.wait()

        Container().loop.run_until_complete(live())

    def _serve(self, certificates: Path) -> None:
        server = importlib.import_module("pyjabber.server")
        parameters = importlib.import_module("pyjabber.server_parameters")
        importlib.import_module("loguru").logger.remove()

        async def serve() -> None:
            serving = server.Server(
                parameters.Parameters(
                    host=HOST,
                    client_port=self._port,
                    server_port=self._meets_at,
                    connection_timeout=int(PATIENCE_S),
                    database_in_memory=True,
                    cert_path=str(certificates),
                )
            )
            serving._public_ip = None  # the loopback alone
            serving._http_server = None  # its port is always the same
            await serving.start()

        Container().loop.run_until_complete(serve())


def _message(to: str, performative: Performative, auction: int, body: str) -> Any:
    metadata = {"performative": performative.value}
    return Message(to=to, body=body, thread=str(auction), metadata=metadata)
