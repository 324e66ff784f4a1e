"""The operator's part of a domain whose agents attest each other: the ledger's begin, enrolment.

No process that runs all the time holds the operator's account: it is used by commands, which
found the ledger, enrol agents, and verify the first of the chain as ``SECAAS``. From then on the
agents verify each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from phalanx.bus.agents import AgentBus
from phalanx.bus.seal import Seal
from phalanx.clock.wall import WallClock
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import ScenarioError
from phalanx.domain.events import Event
from phalanx.identity.files import read_secret
from phalanx.ledger import Confirmed, Ledger, LedgerError, Refused, open_ledger
from phalanx.loading.refusals import unknown
from phalanx.runtime.domain.directory import BUS_FILE
from phalanx.runtime.domain.spec import read_bundle
from phalanx.runtime.environment import Say
from phalanx.runtime.processes.process import FLUSH_S, RecordingClient, run_clock
from phalanx.runtime.processes.spec import RunSpec
from phalanx.runtime.processes.trusting import SecaasNode
from phalanx.runtime.scenario import TrustSpec
from phalanx.runtime.trusting import SECAAS, planned
from phalanx.trust.evidence import Enrolment, RepositoryFolder
from phalanx.trust.register import OPERATOR, TrustRegister, TrustStanding

WAIT_S = 30.0
"""How long the ledger may take to tell what it holds, or to record something."""


class SecaasIdentity(RecordingClient):
    """Speaks on a domain's bus as ``SECAAS``, and records events."""

    def __init__(
        self, stack: ExitStack, bus: Path, state: Path, clock: WallClock, run: RunSpec | None = None
    ) -> None:
        """Connect as soon as the clock runs.

        Args:
            stack: closes it.
            bus: its ``bus.toml``.
            state: directory of what it keeps.
            clock: makes all calls.
            run: that it is part of, if any.

        Raises:
            PhalanxError: with one line, if a file is not usable, or is another identity's.

        """
        bundle = read_bundle(bus)
        if bundle.identity.name != SECAAS:
            raise ScenarioError(f"{bus}: is of {bundle.identity.name}; {SECAAS} is expected")
        super().__init__(stack, bundle, state, clock, run)
        self.bus = AgentBus(self.client, clock, Seal(bundle.credentials, self.incarnation))


def found(url: str, key: Path, plan: TrustSpec) -> str:
    """Begin a ledger unless that was done, and record how the group attests itself.

    Args:
        url: of the ledger.
        key: file of the operator's account.
        plan: how agents attest each other.

    Returns:
        The URL by which all others open it.

    Raises:
        PhalanxError: with one line, if the ledger cannot be opened, is another operator's, or
            does not record it in time.

    """
    secret, clock, answers = read_secret(key), run_clock(None), list[Confirmed | Refused]()
    with ExitStack() as stack:
        stack.callback(clock.close)
        node = open_ledger(url, clock)
        stack.callback(node.close)
        address = node.found(secret, SECAAS)
        ledger = node.join(secret)
        ledger.submit(planned(plan), answers.append)
        clock.run(clock.now() + WAIT_S, lambda: bool(answers))
        match answers:
            case [Refused(reason)]:
                raise LedgerError(f"the ledger refuses it: {reason}")
            case [Confirmed()]:
                mark = "&" if "?" in url else "?"
                return url if "operator=" in url else f"{url}{mark}operator={address}"
        why = ledger.status().reason or "it does not answer"
        raise LedgerError(f"not recorded after {WAIT_S:.0f} s: {why}")


def enrol(
    url: str, key: Path, folder: Path, names: Sequence[AgentId], within_s: float, say: Say
) -> dict[AgentId, TrustStanding | None]:
    """Enrol agents, and see to it that they are verified.

    Args:
        url: of the ledger, as ``found`` returned it.
        key: file of the operator's account, in the bundle of the identity ``SECAAS``.
        folder: repository of enrolments and reference values.
        names: the agents: those of them that are out, or run something else than was enrolled,
            are enrolled anew. Empty: those of the repository that never were.
        within_s: how long to wait for them, in seconds.
        say: told in one line what is done.

    Returns:
        What each of them is at the end, by name: trusted or not; None: it is not enrolled.

    Raises:
        PhalanxError: with one line, if a file is not usable, the ledger cannot be read, or it
            refuses an enrolment.

    """
    repository = RepositoryFolder(folder)
    wanted = _enrolments(repository, folder, names)
    secret, clock, refused = read_secret(key), run_clock(None), list[str]()
    with ExitStack() as stack:
        stack.callback(clock.close)
        node = open_ledger(url, clock)
        stack.callback(node.close)
        me = SecaasIdentity(stack, key.with_name(BUS_FILE), key.with_name("state"), clock)

        def told(event: Event) -> None:
            me.stream(event)
            if event.kind == "ledger.refused" and event.data["entry"] == "Enrolled":
                refused.append(event.data["reason"])

        recorder, cause = me.started(OPERATOR)
        ledger = node.join(secret)
        secaas = SecaasNode(ledger, repository, clock, me.bus, told, cause, me.incarnation)
        _read(ledger, clock)
        lives = {
            enrolment.agent: _enrolled(secaas, enrolment, cause, named=bool(names))
            for enrolment in wanted
        }
        say(f"{', '.join(lives)}: enrolled, and to be verified")
        register, end = secaas.register, clock.now() + within_s
        clock.run(
            end, lambda: bool(refused) or all(_settled(register, *it) for it in lives.items())
        )
        recorder.record("process.ended", cause, reason="it has enrolled agents")
        clock.run(clock.now() + FLUSH_S, lambda: not me.stream.waiting)
    if refused:
        raise LedgerError(f"the ledger refuses it: {refused[0]}")
    return {name: register.standing(name) for name in lives}


def _enrolments(
    repository: RepositoryFolder, folder: Path, names: Sequence[AgentId]
) -> list[Enrolment]:
    there, found = repository.agents(), []
    for name in names or there:
        if name not in there:
            raise ScenarioError(f"{folder}: {unknown('enrolment', name, there)}")
        enrolment = repository.get(name)
        if enrolment is None or repository.values(enrolment.reference) is None:
            raise ScenarioError(f"{folder}: has no reference values of {name} that can be used")
        found.append(enrolment)
    if not found:
        raise ScenarioError(f"{folder}: has no enrolment; phalanx trust learn makes them")
    return found


def _read(ledger: Ledger, clock: WallClock) -> None:
    """Let the ledger tell all that it holds."""
    before, end = None, clock.now() + WAIT_S
    while clock.now() < end:
        clock.run(clock.now() + 0.2)
        head = ledger.status().head
        if head is not None and head == before:
            return
        before = head
    raise LedgerError(f"the ledger cannot be read: {ledger.status().reason or 'no answer'}")


def _enrolled(secaas: SecaasNode, enrolment: Enrolment, cause: str, *, named: bool) -> int:
    """Enrol an agent if that is wanted; return how often it will have been enrolled then."""
    agent, register = enrolment.agent, secaas.register
    member = register.members.get(agent)
    if member is not None:
        same = register.belongs(agent) and member.reference == enrolment.digest()
        if same or not named:
            return member.enrolments
    secaas.enrol(enrolment, cause)
    return 1 if member is None else member.enrolments + 1


def _settled(register: TrustRegister, agent: AgentId, enrolments: int) -> bool:
    member, open_ = register.members.get(agent), (TrustStanding.ENROLLED, TrustStanding.SILENT)
    return member is not None and member.enrolments >= enrolments and member.standing not in open_
