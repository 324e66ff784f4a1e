"""The attesting environment: a process beside the agents that measures them and signs (RFC 9334).

It has a key that no agent has, and measures whoever asks: the kernel says which process is at the
other end of the socket, so an agent gets evidence of itself and of nobody else. It has to run as
root, or as the agents' user where that may read their memory.

A question is one line, the nonce; the answer is one line, an ``Evidence`` or why there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta, Struct
from msgspec.structs import replace

from phalanx.clock.wall import WallClock
from phalanx.domain.actions import Failed, Outcome
from phalanx.domain.agents import AgentId
from phalanx.domain.trust import Evidence, Measure
from phalanx.trust.evidence import quoted, signed
from phalanx.trust.measurement import MeasurementError, ProcessMeasurement, ReferenceValues
from phalanx.trust.measurer import ProcessMeasurer
from phalanx.trust.roots import RootOfTrust

LARGEST = 600_000
"""Octets of a measurement at most: a message holds no more."""
LONGEST = 1 << 20
"""Octets of an answer at most."""
ANSWER_S = 10.0
"""How long an agent waits for its measurer."""
SAMPLES_PER_S = 10.0
"""Of the stacks of an agent, where calls were learned."""
_RANDOM = SystemRandom()
_CREDENTIALS = struct.Struct("3i")
Nonce = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]


class Measured(Struct, frozen=True):
    """One agent that a measurer looks after."""

    agent: AgentId
    pid: Callable[[], int | None]
    """Returns the number of its process now; None: it does not run."""
    key: Ed25519PrivateKey
    """Signs the evidence of this agent."""
    reference: ReferenceValues
    """What a genuine process looks like: what differs is told in detail."""


class NoEvidence(Struct, frozen=True, tag=True):
    """Why there is no evidence."""

    reason: str


class MeasurerSocket:
    """Serves evidence on a Unix socket."""

    def __init__(
        self,
        path: Path,
        agents: Mapping[AgentId, Measured],
        group: int | None = None,
        root: RootOfTrust | None = None,
        samples_per_s: float = SAMPLES_PER_S,
    ) -> None:
        """Serve nothing yet.

        Args:
            path: of the socket; made usable for this user alone.
            agents: those to measure, by name.
            group: number of the group that may ask as well; None: there is none.
            root: vouches for all evidence, or there is none; None: the agents' keys do alone.
            samples_per_s: of the stacks of each agent, on average, between looks; none are taken
                where its reference values have no calls.

        """
        self._samples_per_s = samples_per_s
        self._path = path
        self._root = root
        self._agents = agents
        self._group = group
        self._measurers: dict[int, ProcessMeasurer] = {}
        # One look after the other, and beside the loop: the first at a process takes seconds.
        self._looking = ThreadPoolExecutor(1)
        self._asked: dict[int, list[tuple[str, Future[Evidence | NoEvidence]]]] = {}
        """By process: who asked for evidence of it, and is answered by its next look."""
        self._answering: set[asyncio.Task[None]] = set()

    def expect(self, agent: AgentId) -> None:
        """Look at an agent that was just started, so that later looks are quick."""
        self._looking.submit(self._expect, self._agents[agent])

    def _expect(self, measured: Measured) -> None:
        pid = measured.pid()
        if pid is not None:
            with contextlib.suppress(MeasurementError):
                self._look(pid, measured.reference)

    async def serve(self) -> None:
        """Answer until cancelled."""
        self._path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._accept, self._path, limit=LONGEST)
        if self._group is not None:
            os.chown(self._path, -1, self._group)
        self._path.chmod(0o600 if self._group is None else 0o660)
        sampling = asyncio.ensure_future(self._sample())
        try:
            async with server:
                await server.serve_forever()
        finally:  # nobody waits for a look that takes seconds
            for task in (sampling, *self._answering):
                task.cancel()
            await asyncio.gather(sampling, *self._answering, return_exceptions=True)

    def close(self) -> None:
        """Close what was opened of the processes."""
        self._looking.shutdown(cancel_futures=True)
        for measurer in self._measurers.values():
            measurer.close()
        self._path.unlink(missing_ok=True)

    async def _sample(self) -> None:
        """Sample the stacks of agents that were looked at, at times that nobody can foresee.

        That is beside the loop, which answers meanwhile, and never while an agent is looked at.
        """
        while self._samples_per_s:
            rate = self._samples_per_s * max(1, len(self._measurers))
            await asyncio.sleep(_RANDOM.expovariate(rate))
            await asyncio.wrap_future(self._looking.submit(self._sample_one))

    def _sample_one(self) -> None:
        with contextlib.suppress(MeasurementError, IndexError):
            _RANDOM.choice(list(self._measurers.values())).sample()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._answer(reader, writer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._exchange(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError):  # whoever asked has gone, or says too much
            line = await asyncio.wait_for(reader.readline(), ANSWER_S)
            peer = writer.get_extra_info("socket")
            octets = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid, _, _ = _CREDENTIALS.unpack(octets)
            writer.write(msgspec.json.encode(await self._evidence(pid, line)) + b"\n")
            await writer.drain()

    async def _evidence(self, pid: int, line: bytes) -> Evidence | NoEvidence:
        try:
            nonce = msgspec.convert(line.decode("ascii").strip(), Nonce)
        except (UnicodeDecodeError, msgspec.ValidationError):
            return NoEvidence("the nonce is not 32 hexadecimal digits")
        answer: Future[Evidence | NoEvidence] = Future()
        asked = self._asked.setdefault(pid, [])
        asked.append((nonce, answer))
        if len(asked) == 1:
            self._looking.submit(self._answer_all, pid)
        return await asyncio.wrap_future(answer)

    def _answer_all(self, pid: int) -> None:
        """Look once for all who asked before: evidence is as fresh as its challenge wants it."""
        asked = self._asked.pop(pid)
        try:
            found = next((each for each in self._agents.values() if each.pid() == pid), None)
            if found is None:
                raise MeasurementError(f"process {pid} is no agent that is measured here")
            measured = self._look(pid, found.reference)
        except MeasurementError as error:
            for _, answer in asked:
                answer.set_result(NoEvidence(str(error)))
            return
        software, octets = f"{measured.software} {measured.version}", measured.encode()
        if len(octets) > LARGEST:  # more is altered than a message holds: that it is has to do
            octets = replace(measured, details={}).encode()
        for nonce, answer in asked:
            evidence = Evidence(found.agent, nonce, software, octets, modelled=False)
            try:
                whole = evidence if self._root is None else quoted(evidence, self._root)
                answer.set_result(signed(whole, found.key))
            except MeasurementError as error:
                answer.set_result(NoEvidence(str(error)))

    def _look(self, pid: int, reference: ReferenceValues) -> ProcessMeasurement:
        if pid not in self._measurers:
            for old in [p for p in self._measurers if not Path(f"/proc/{p}").exists()]:
                self._measurers.pop(old).close()
            measurer = ProcessMeasurer(pid, reference.software, reference.version)
            self._measurers[pid] = measurer
        try:
            return self._measurers[pid].look(reference=reference)
        except MeasurementError:  # it has ended, and another may have its number
            self._measurers.pop(pid).close()
            raise


_reader = msgspec.json.Decoder(Evidence | NoEvidence)


class MeasurerClient:
    """Asks the measurer of this machine for evidence of the process that it is called in."""

    def __init__(self, path: Path, clock: WallClock) -> None:
        self._path = path
        self._clock = clock
        self._asking: set[asyncio.Task[None]] = set()

    def __call__(self, action: Measure, cause: str, answer: Callable[[Outcome], None]) -> None:  # noqa: ARG002
        """Answer with evidence, or why there is none."""
        task = self._clock.loop.create_task(self._ask(action.nonce, answer))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, nonce: str, answer: Callable[[Outcome], None]) -> None:
        outcome: Outcome
        try:
            found = await asyncio.wait_for(self._exchange(nonce), ANSWER_S)
            outcome = found if isinstance(found, Evidence) else Failed(found.reason)
        except (OSError, ValueError, TimeoutError, msgspec.MsgspecError) as error:
            outcome = Failed(f"the measurer does not answer: {type(error).__name__}")
        self._clock.call_soon(partial(answer, outcome))

    async def _exchange(self, nonce: str) -> Evidence | NoEvidence:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=LONGEST)
        try:
            writer.write(f"{nonce}\n".encode())
            await writer.drain()
            found: Evidence | NoEvidence = _reader.decode(await reader.readline())
            return found
        finally:
            writer.close()
