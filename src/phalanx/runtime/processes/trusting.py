"""Trust between processes: what each of them holds, and what the one that starts them all does.

Whoever starts the agents of a run is also what hardens and enrols them, what measures them from
outside, and what keeps the ledger on loopback. It holds no key of an agent's seals, and the
agents hold none of its.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from phalanx.bdi import Agent, Library
from phalanx.bus import Bus
from phalanx.clock import Clock
from phalanx.clock.wall import WallClock
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Sink
from phalanx.domain.trust import Measure, Submit, UseKey
from phalanx.domain.version import VERSION
from phalanx.identity.files import read_secret
from phalanx.identity.names import Role
from phalanx.ledger import Ledger, RecordedEntry, open_ledger
from phalanx.ledger.chain import EmbeddedChain
from phalanx.ledger.ethereum import Account
from phalanx.ledger.rpc import ChainServer
from phalanx.runtime.environment import Say
from phalanx.runtime.node import Node, Service
from phalanx.runtime.processes.spec import TrustFiles
from phalanx.runtime.processes.testbed import PHALANX, ProcessTestbed
from phalanx.runtime.scenario import TrustSpec
from phalanx.runtime.trusting import SECAAS, SECAAS_SCOPE, Nowhere, planned, submit, use_key
from phalanx.trust.attestation import Attestation, TrustTerms
from phalanx.trust.attesting import Measured, MeasurerClient, MeasurerSocket
from phalanx.trust.evidence import Enrolment, RepositoryFolder, public
from phalanx.trust.keys import exchange_of
from phalanx.trust.measurement import MeasurementError, ReferenceValues
from phalanx.trust.measurer import ProcessMeasurer
from phalanx.trust.references import learned, reference_of
from phalanx.trust.secaas import Deployed, Secaas

SOFTWARE = "phalanx"
REHEARSAL_S = 4.0
"""How long the agent runs of which the reference values are learned, in real seconds."""
ANSWER_S = 6.0
"""How long a verifier waits for evidence, in seconds of the run."""
_ALTER = """
import sys
pid = int(sys.argv[1])
with open(f"/proc/{pid}/maps") as maps:
    line = next(line for line in maps if " r-xp " in line and "libpython" in line or
                " r-xp " in line and "/python" in line)
end = int(line.split()[0].partition("-")[2], 16)
with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
    memory.seek(end - 1)
    old = memory.read(1)
    memory.seek(end - 1)
    memory.write(bytes([old[0] ^ 0x5A]))
"""
"""Writes into another process: the last octet of its interpreter's code, which nothing runs."""


def write_into(pid: int) -> None:
    """Have another process alter the code of process ``pid``, which runs on."""
    subprocess.run([sys.executable, "-c", _ALTER, str(pid)], check=False)  # noqa: S603


class ProcessTrust:
    """What one process attests itself and others with, or only reads the ledger by."""

    def __init__(self, files: TrustFiles, clock: WallClock) -> None:
        """Open the ledger; nothing is read before ``follow``.

        Raises:
            PhalanxError: with one line, if a file is not usable.

        """
        secret = read_secret(Path(files.secret))
        self._node = open_ledger(files.ledger, clock)
        ledger = self._node.join(derived(secret, "account"))
        self._follow = ledger.follow
        self.terms = TrustTerms(
            RepositoryFolder(Path(files.repository)),
            derived(secret, "looks"),
            frozenset({SECAAS}),
            X25519PrivateKey.from_private_bytes(derived(secret, "exchange")),
            ANSWER_S,
        )
        self.keys: list[UseKey] = []
        self.services: Mapping[type, Service] = {
            Submit: partial(submit, ledger),
            Measure: MeasurerClient(Path(files.measurer), clock),
            UseKey: partial(use_key, lambda key, _: self.keys.append(key)),
        }

    def follow(self, seen: Callable[[RecordedEntry], None]) -> None:
        """Tell what the ledger records, from the beginning on."""
        self._follow(seen)

    def close(self) -> None:
        """Close the ledger."""
        self._node.close()


def derived(secret: bytes, purpose: str) -> bytes:
    """Return a key of 32 octets for one purpose."""
    return sha256(secret + b"/" + purpose.encode()).digest()


def enrolment_of(
    agent: AgentId, secret: bytes, measurer: str, reference: ReferenceValues
) -> Enrolment:
    """Return what is to be enrolled of an agent.

    Args:
        agent: its name.
        secret: that its ``TrustFiles`` name.
        measurer: public key of what measures it, in hexadecimal.
        reference: what it looks like while it is genuine.

    """
    exchange = X25519PrivateKey.from_private_bytes(derived(secret, "exchange"))
    software = f"{reference.software} {reference.version}"
    account = Account(derived(secret, "account")).address
    return Enrolment(agent, software, reference.digest(), measurer, exchange_of(exchange), account)


class SecaasNode:
    """What enrols agents with an operator's account, and verifies the first of the chain."""

    def __init__(
        self,
        ledger: Ledger,
        repository: RepositoryFolder,
        clock: Clock,
        bus: Bus,
        sink: Sink,
        cause: str,
        incarnation: int = 1,
    ) -> None:
        """Begin to follow the ledger.

        Args:
            ledger: for the operator's account.
            repository: of enrolments and reference values.
            clock: makes all calls.
            bus: of the identity ``SECAAS``.
            sink: told of what it records.
            cause: the event that it does all this for.
            incarnation: how often it has begun.

        """
        library = Library([Attestation, Secaas])
        agent = Agent(SECAAS, library, sink, scope=SECAAS_SCOPE, incarnation=incarnation)
        attestation = agent.capability(Attestation)
        attestation.terms = TrustTerms(
            repository, secrets.token_bytes(32), frozenset({SECAAS}), answer_s=ANSWER_S
        )
        self.register = attestation.register
        services: dict[type, Service] = {Submit: partial(submit, ledger)}
        self._node = Node(agent, clock, bus, Nowhere(), services=services)
        self._node.start(cause)
        ledger.follow(lambda recorded: self._node.tell(recorded, cause))

    def enrol(self, enrolment: Enrolment, cause: str) -> None:
        """Enrol an agent, anew if it is of the group; it is to be verified then."""
        self._node.tell(Deployed(enrolment.entry()), cause)

    def plan(self, plan: TrustSpec, cause: str) -> None:
        """Say how the group attests itself from now on."""
        self._node.tell(planned(plan), cause)


class TrustTestbed:
    """Hardens, enrols and measures the agents of a run, and keeps its ledger."""

    def __init__(
        self,
        plan: TrustSpec,
        agents: tuple[AgentId, ...],
        processes: ProcessTestbed,
        clock: WallClock,
        reference: ReferenceValues,
    ) -> None:
        """Make the ledger, the repository and the secrets of all.

        Args:
            plan: how agents attest each other.
            agents: their names.
            processes: where they will run.
            clock: of the run.
            reference: of a genuine agent.

        Raises:
            PhalanxError: with one line, if the ledger cannot be made.

        """
        self._plan, self._clock, self._processes = plan, clock, processes
        self.folder = processes.folder / "trust"
        self.folder.mkdir(mode=0o700)
        since = _NotBefore(clock)
        self._chain = EmbeddedChain(since, "", 1.0)
        self._server = ChainServer(self._chain, clock, 0)
        self._operator = secrets.token_bytes(32)
        founder = open_ledger(self._server.url, clock)
        address = founder.found(self._operator, SECAAS)
        self._node = founder
        self.url = f"{self._server.url}?operator={address}"
        repository = RepositoryFolder(self.folder / "repository")
        self._enrolled: dict[AgentId, Enrolment] = {}
        measured: dict[AgentId, Measured] = {}
        for name in (*agents, "network"):
            secret = secrets.token_bytes(32)
            path = self.folder / f"{name}.secret"
            path.touch(mode=0o600)
            path.write_text(secret.hex(), encoding="ascii")
            if name == "network":
                continue
            key = Ed25519PrivateKey.generate()
            self._enrolled[name] = enrolment_of(name, secret, public(key), reference)
            repository.put(self._enrolled[name], reference)
            measured[name] = Measured(name, partial(self._pid, name), key, reference)
        self._measurer = MeasurerSocket(self.folder / "measurer.sock", measured)
        self._serving = clock.loop.create_task(self._measurer.serve())
        self._repository = repository

    def _pid(self, name: AgentId) -> int | None:
        return self._processes.pid(name) if self._processes.lives(name) else None

    def config(self, name: str) -> dict[str, str]:
        """Return the fields of a process's ``TrustFiles``."""
        return {
            "ledger": self.url,
            "secret": str(self.folder / f"{name}.secret"),
            "repository": str(self.folder / "repository"),
            "measurer": str(self.folder / "measurer.sock"),
        }

    def start(self, bus: Bus, sink: Sink, cause: str) -> None:
        """Enrol all agents; then the group attests itself."""
        ledger = self._node.join(self._operator)
        self._secaas = SecaasNode(ledger, self._repository, self._clock, bus, sink, cause)
        for enrolment in self._enrolled.values():
            self._secaas.enrol(enrolment, cause)
        self._secaas.plan(self._plan, cause)

    def started(self, name: str) -> None:
        """Look at a process that has loaded its program: the first look takes seconds."""
        if name in self._enrolled:
            self._measurer.expect(name)

    def deployed(self, agent: AgentId, cause: str) -> None:
        """Enrol an agent anew that was started again, if it is not of the group."""
        if not self._secaas.register.belongs(agent):
            self._secaas.enrol(self._enrolled[agent], cause)

    def infect(self, agent: AgentId) -> None:
        """Have another process write into the code of the agent's, while it runs."""
        write_into(self._processes.pid(agent))

    def close(self) -> None:
        """End what was begun, while the clock is still there."""
        self._serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            self._clock.loop.run_until_complete(self._serving)
        self._measurer.close()
        self._node.close()
        self._server.close()
        self._chain.close()


def genuine(
    folder: Path, plan: Path, say: Say, program: Sequence[str] = PHALANX
) -> ReferenceValues:
    """Return the reference values of an agent: of its files, and of one that is started for it.

    That one belongs to a domain of its own, so that no other agent ever hears of it.

    Args:
        folder: is made for that domain.
        plan: that the agent follows.
        say: told in one line what is done.
        program: what agents are started by, before its verb.

    Raises:
        PhalanxError: with one line, if it cannot be started or measured.

    """
    say("what a genuine agent looks like is measured first")
    reference = reference_of(SOFTWARE, VERSION)
    folder.mkdir()
    processes = ProcessTestbed(folder, [("rehearsal", Role.AGENT)])
    try:
        processes.start("agent", "rehearsal", {"plan": str(plan)}, program=program)
        end = time.monotonic() + REHEARSAL_S
        while time.monotonic() < end:
            time.sleep(0.1)
            if not processes.lives("rehearsal"):
                raise PhalanxError(f"the rehearsal ended: {processes.end_of('rehearsal')}")
        pid = processes.pid("rehearsal")
        with ProcessMeasurer(pid, reference.software, reference.version) as measurer:
            return learned(reference, measurer.look(), measurer.details())
    except MeasurementError as error:
        raise PhalanxError(f"no agent can be measured here: {error}") from None
    finally:
        processes.close()


class _NotBefore:
    """A clock whose time never is before second 0: a chain has no negative times."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.call_soon = clock.call_soon
        self.call_at = clock.call_at

    def now(self) -> float:
        """Return the time in seconds."""
        return max(self._clock.now(), 0.0)
