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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from hmac import compare_digest
from hmac import digest as keyed
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Struct

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Library
from phalanx.bus import Bus
from phalanx.clock import Clock
from phalanx.clock.wall import WallClock
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError, StoreError
from phalanx.domain.events import Sink
from phalanx.domain.trust import Measure, Submit, UseKey
from phalanx.domain.version import VERSION
from phalanx.identity.files import read_secret
from phalanx.identity.names import Role
from phalanx.ledger import Checkpoint, Ledger, RecordedEntry, open_ledger
from phalanx.ledger.chain import EmbeddedChain
from phalanx.ledger.entries import RoundOpened
from phalanx.ledger.ethereum import Account
from phalanx.ledger.rpc import ChainServer
from phalanx.runtime.environment import Say
from phalanx.runtime.node import Node, Service
from phalanx.runtime.processes.spec import TrustFiles
from phalanx.runtime.processes.testbed import PHALANX, ProcessTestbed
from phalanx.runtime.scenario import TrustSpec
from phalanx.runtime.trusting import SECAAS, SECAAS_SCOPE, Nowhere, planned, submit, use_key
from phalanx.store.state import StateFile
from phalanx.trust.attestation import Attestation, TrustTerms
from phalanx.trust.attesting import Measured, MeasurerClient, MeasurerSocket
from phalanx.trust.evidence import Enrolment, RepositoryFolder, public
from phalanx.trust.keys import exchange_of
from phalanx.trust.measurement import MeasurementError, ReferenceValues
from phalanx.trust.measurer import ProcessMeasurer
from phalanx.trust.python_stacks import Call
from phalanx.trust.references import learned, library, reference_of, with_calls
from phalanx.trust.register import TrustRegister
from phalanx.trust.roots import EnrolledRoot
from phalanx.trust.secaas import Deployed, Secaas

SOFTWARE = "phalanx"
REHEARSAL_S = 4.0
"""How long the agent runs of which the reference values are learned, in real seconds."""
LEARN_PAUSE_S = 0.003
"""Between samples while calls are learned, in real seconds."""
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


class _ReadBefore(Struct, frozen=True):
    """What a process has read of the ledger, up to a checkpoint."""

    checkpoint: Checkpoint
    register: TrustRegister
    by_attribute: bool
    """Whether evidence is kept by attribute; what an older version read is read anew."""


class ProcessTrust:
    """What one process attests itself and others with, or only reads the ledger by.

    What it has read of the ledger it keeps at the beginning of each round, and when it is started
    again it reads what came since, if the ledger still has the head that it had. What it keeps is
    authenticated with its own secret, and used by the version alone that wrote it.
    """

    def __init__(
        self, files: TrustFiles, clock: WallClock, state: StateFile, unusable: Callable[[str], None]
    ) -> None:
        """Open the ledger; nothing is told before ``follow``.

        Args:
            files: where everything is.
            clock: makes all calls.
            state: of the process.
            unusable: told why the ledger has to be read from its beginning, in one line.

        Raises:
            PhalanxError: with one line, if a file is not usable.

        """
        secret = read_secret(Path(files.secret))
        self._clock, self._state, self._unusable = clock, state, unusable
        self._key = derived(secret, f"register {VERSION}")
        self._keeping = False
        self._node = open_ledger(files.ledger, clock)
        self._before = self._read_before()
        if self._before is not None:
            self._node.resume(self._before.checkpoint)
        ledger = self._ledger = self._node.join(derived(secret, "account"))
        self.terms = TrustTerms(
            RepositoryFolder(Path(files.repository)),
            derived(secret, "looks"),
            frozenset({SECAAS}),
            X25519PrivateKey.from_private_bytes(derived(secret, "exchange")),
            Account(derived(secret, "account")),
            ANSWER_S,
        )
        self.keys: list[UseKey] = []
        self.services: Mapping[type, Service] = {
            Submit: partial(submit, ledger),
            Measure: MeasurerClient(Path(files.measurer), clock),
            UseKey: partial(use_key, lambda key, _: self.keys.append(key)),
        }

    def follow(
        self,
        seen: Callable[[RecordedEntry], None],
        resume: Callable[[TrustRegister], None],
        register: Callable[[], TrustRegister],
    ) -> None:
        """Tell what the ledger records.

        Args:
            seen: told of each entry.
            resume: told before them what an earlier life has read: ``seen`` is told the rest. Of
                an empty register, if the ledger turns out to be another.
            register: returns what follows from all entries that were told.

        """
        before = self._before

        def read(recorded: RecordedEntry) -> None:
            seen(recorded)
            if isinstance(recorded.entry, RoundOpened) and not self._keeping:
                self._keeping = True
                self._clock.call_soon(partial(self._keep, register))  # after what came with it

        def begins(known: bool) -> None:
            if not known:
                self._unusable("the ledger is not the one that was read before: it is read anew")
            resume(before.register if known and before is not None else TrustRegister())

        since = None if before is None else before.checkpoint
        self._ledger.follow(read, since=since, begins=begins)

    def _keep(self, register: Callable[[], TrustRegister]) -> None:
        self._keeping = False
        checkpoint = self._ledger.checkpoint()
        if checkpoint is None:
            return
        octets = msgspec.msgpack.encode(_ReadBefore(checkpoint, register(), by_attribute=True))
        with contextlib.suppress(StoreError):  # more is to be read then at the next start
            self._state.put("register", keyed(self._key, octets, "sha256") + octets)

    def _read_before(self) -> _ReadBefore | None:
        try:
            found = self._state.get("register")
            if found is None:
                return None
            if not compare_digest(keyed(self._key, found[32:], "sha256"), found[:32]):
                raise StoreError("what was read of the ledger was altered, or is another version's")
            return msgspec.msgpack.decode(found[32:], type=_ReadBefore)
        except (StoreError, msgspec.MsgspecError) as error:
            self._unusable(f"{error}: the ledger is read from its beginning")
            return None

    def close(self) -> None:
        """Close the ledger."""
        self._node.close()


def derived(secret: bytes, purpose: str) -> bytes:
    """Return a key of 32 octets for one purpose."""
    return sha256(secret + b"/" + purpose.encode()).digest()


def enrolment_of(
    agent: AgentId,
    secret: bytes,
    measurer: str,
    reference: ReferenceValues,
    root: EnrolledRoot | None = None,
) -> Enrolment:
    """Return what is to be enrolled of an agent.

    Args:
        agent: its name.
        secret: that its ``TrustFiles`` name.
        measurer: public key of what measures it, in hexadecimal.
        reference: what it looks like while it is genuine.
        root: the hardware that vouches for what the measurer says; None: there is none.

    """
    exchange = X25519PrivateKey.from_private_bytes(derived(secret, "exchange"))
    software = f"{reference.software} {reference.version}"
    account = Account(derived(secret, "account")).address
    public_key = exchange_of(exchange)
    return Enrolment(agent, software, reference.digest(), measurer, public_key, account, root)


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
    folder: Path,
    plan: Path,
    say: Say,
    program: Sequence[str] = PHALANX,
    *,
    calls_s: float = 0.0,
    hash_seed: str | None = None,
) -> tuple[ReferenceValues, float]:
    """Return the reference values of an agent: of its files, and of one that is started for it.

    That one belongs to a domain of its own, so that no other agent ever hears of it. How long the
    first look at it took is returned as well, in seconds.

    Args:
        folder: is made for that domain.
        plan: that the agent follows.
        say: told in one line what is done.
        program: what agents are started by, before its verb.
        calls_s: how long it is learned which function calls which; 0: not at all.
        hash_seed: that agents are started with; None: that of this process's environment.

    Raises:
        PhalanxError: with one line, if it cannot be started or measured.

    """
    say("what a genuine agent looks like is measured first")
    late = (*library(), *sys.modules) if calls_s else None  # ours are those of an agent, too
    reference = reference_of(SOFTWARE, VERSION, late=late, calls=calls_s > 0, hash_seed=hash_seed)
    folder.mkdir()
    processes = ProcessTestbed(folder, [("rehearsal", Role.AGENT)])
    processes.environment = reference.environment
    try:
        processes.start("agent", "rehearsal", {"plan": str(plan)}, program=program)
        end = time.monotonic() + REHEARSAL_S
        while time.monotonic() < end:
            time.sleep(0.1)
            if not processes.lives("rehearsal"):
                raise PhalanxError(f"the rehearsal ended: {processes.end_of('rehearsal')}")
        pid = processes.pid("rehearsal")
        if calls_s:
            reference = learned_calls(reference, pid, calls_s, say)
        with ProcessMeasurer(pid, reference.software, reference.version) as measurer:
            look = measurer.look()
            return learned(reference, look, measurer.details()), look.took_s
    except MeasurementError as error:
        raise PhalanxError(f"no agent can be measured here: {error}") from None
    finally:
        processes.close()


def learned_calls(reference: ReferenceValues, pid: int, for_s: float, say: Say) -> ReferenceValues:
    """Return reference values to which the calls of a trusted process were added.

    Args:
        reference: what is known.
        pid: of the process, which something else should keep busy.
        for_s: how long it is sampled, in real seconds.
        say: told in one line what was seen, and how likely something new comes: the share of
            samples with a call that was seen once (Good and Turing).

    Raises:
        MeasurementError: if its stacks cannot be read.

    """
    seen, samples, end = Counter[Call](), 0, time.monotonic() + for_s
    with ProcessMeasurer(pid, reference.software, reference.version) as measurer:
        sampler = measurer.sampler()
        while time.monotonic() < end:
            seen.update(sampler.sample())
            samples += 1
            time.sleep(LEARN_PAUSE_S)
    once = sum(count == 1 for count in seen.values()) / samples
    say(f"process {pid}: {len(seen)} calls in {samples} samples; {once:.2%} had a new one at last")
    return with_calls(reference, seen)


class _NotBefore:
    """A clock whose time never is before second 0: a chain has no negative times."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.call_soon = clock.call_soon
        self.call_at = clock.call_at

    def now(self) -> float:
        """Return the time in seconds."""
        return max(self._clock.now(), 0.0)
