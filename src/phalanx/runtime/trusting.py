"""Trust in one run: the ledger, what enrols the agents, and a measurer for each of them.

Agents that share one process cannot measure each other honestly: whoever can write into one can
write into all. So the measurer of such a run is a model, which sees what the test bench did to an
agent, and every result says ``modelled``. All else is as with processes: keys, signatures,
challenges, the ledger and its rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec.structs import replace

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Library
from phalanx.bus import Bus
from phalanx.clock import Clock
from phalanx.domain.actions import (
    Done,
    Enforce,
    Failed,
    Hold,
    Lift,
    Outcome,
    ReadEntry,
    ReadLink,
    ReadMeasure,
    ReadRules,
    ReadService,
    Release,
    RulesInForce,
    Stop,
)
from phalanx.domain.agents import AgentId, Scope
from phalanx.domain.bids import Bid
from phalanx.domain.events import Sink
from phalanx.domain.messages import Message, Proposal
from phalanx.domain.network import PopId
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.domain.trust import Evidence, GroupKeys, Measure, Submit, UseKey
from phalanx.domain.version import VERSION
from phalanx.infrastructure import Answer, Infrastructure
from phalanx.ledger import Ledger, RecordedEntry, Refused, open_ledger
from phalanx.ledger.entries import Attested, AuditAnchored, Planned
from phalanx.ledger.ethereum import Account
from phalanx.runtime.node import Node, Service
from phalanx.runtime.scenario import TrustSpec
from phalanx.trust.attestation import Attestation, TrustTerms
from phalanx.trust.evidence import Enrolment, public, signed
from phalanx.trust.keys import exchange_of
from phalanx.trust.measurement import Activity, MappedObject, ProcessMeasurement, ReferenceValues
from phalanx.trust.register import TrustRegister, TrustStanding
from phalanx.trust.secaas import Deployed, Secaas

SECAAS = "secaas"
"""Name of what hardens and enrols the agents of a run."""
SECAAS_SCOPE = Scope("domain", "one administrative domain")
_SOFTWARE = "phalanx-agent"


class ModelledTrust:
    """Enrols the agents of a run, and gives each what it needs to attest itself and others."""

    def __init__(
        self,
        plan: TrustSpec,
        agents: tuple[AgentId, ...],
        seed: int,
        clock: Clock,
        bus: Bus,
        sink: Sink,
        cause: str,
        expelled: Callable[[AgentId, str], None],
        keyed: Callable[[GroupKeys, str], None],
    ) -> None:
        """Open the ledger; nothing happens before ``start``.

        ``expelled`` is called with an agent that is not genuine, or not honest, and the cause: what
        it has put in force is to end. ``keyed`` is called with what protects the words of all, each
        time that it changes, and the cause.

        Raises:
            PhalanxError: if the ledger cannot be opened.

        """
        self._clock = clock
        self._cause = cause
        self._seed = seed
        self._plan = plan
        self._infected: set[AgentId] = set()
        self._liars: dict[AgentId, str] = {}
        """How each lies; see ``corrupt``."""
        self._keyed = keyed
        self._used: dict[AgentId, UseKey] = {}
        """What protects the words of each agent."""
        self.keys = GroupKeys(1)
        """As the ledger and all agents together have them."""
        self._follows: dict[AgentId, Callable[[], None]] = {}
        self.ledger = open_ledger(plan.ledger, clock)
        self.ledger.found(self._secret(SECAAS, "account"), SECAAS)
        self._accounts: dict[AgentId, Ledger] = {
            name: self.ledger.join(self._secret(name, "account")) for name in (*agents, SECAAS)
        }
        self._keys = {
            name: Ed25519PrivateKey.from_private_bytes(self._secret(name, "measurer"))
            for name in agents
        }
        self._enrolments = {name: self._enrolment(name) for name in agents}
        self._watch = ExpelledAgents(expelled, cause)
        self.register = self._watch.register
        """As the infrastructure reads the ledger: it serves no agent that is out."""
        library = Library([Attestation, Secaas])
        secaas = Agent(SECAAS, library, sink, scope=SECAAS_SCOPE)
        secaas.capability(Attestation).terms = self.terms(SECAAS)
        self._secaas = Node(secaas, clock, bus, Nowhere(), services=self.services(SECAAS))

    def start(self) -> None:
        """Enrol all agents, and let the group attest itself from now on."""
        self._accounts[SECAAS].follow(self._read)
        self._secaas.start(self._cause)
        self.follow(SECAAS, self._secaas)
        for name in self._enrolments:
            self.deployed(name, self._cause)
        self._secaas.tell(planned(self._plan), self._cause)

    def deployed(self, agent: AgentId, cause: str) -> None:
        """Enrol an agent that was deployed, if it is not of the group; it is genuine again."""
        if self.register.belongs(agent) and agent not in {*self._infected, *self._liars}:
            return
        self._infected.discard(agent)
        self._liars.pop(agent, None)
        self._secaas.tell(Deployed(self._enrolments[agent].entry()), cause)

    def follow(self, agent: AgentId, node: Node) -> None:
        """Tell an agent what the ledger records; what was read already it is told as it stands."""
        self.unfollow(agent)
        account, register = self._accounts[agent], self.register.copied()
        self._follows[agent] = account.follow(
            lambda recorded: node.tell(recorded, self._cause),
            since=account.checkpoint(),
            begins=lambda known: node.tell(register if known else TrustRegister(), self._cause),
        )

    def unfollow(self, agent: AgentId) -> None:
        """Tell an agent nothing more, as it has ended."""
        end = self._follows.pop(agent, None)
        if end is not None:
            end()

    def corrupt(self, agent: AgentId, how: str) -> None:
        """Alter the program of an agent, as its measurer can tell (``infect``); or make it lie.

        A liar's program is genuine. ``lie`` offers every VNF at once and for nothing, and drops all
        traffic to the target of whatever it is to put in force. ``bid`` lies in its bids alone,
        ``propose`` to auctioneers alone, ``keep`` says that all that is wanted is in force there,
        and ``idle`` puts nothing in force that it says it does.
        """
        if how == "infect":
            self._infected.add(agent)
        else:
            self._liars[agent] = how

    def get(self, agent: AgentId) -> Enrolment | None:
        """Return what was enrolled of an agent; see ``Repository``."""
        return self._enrolments.get(agent)

    def values(self, reference: str) -> ReferenceValues | None:
        """Return the reference values, which are the same for all; see ``Repository``."""
        return _VALUES if reference == _VALUES.digest() else None

    def terms(self, agent: AgentId) -> TrustTerms:
        """Return the terms of an agent's attestation."""
        exchange = X25519PrivateKey.from_private_bytes(self._secret(agent, "exchange"))
        account = Account(self._secret(agent, "account"))
        secret = self._secret(agent, "looks")
        return TrustTerms(self, secret, frozenset({SECAAS}), exchange, account)

    def services(self, agent: AgentId) -> Mapping[type, Service]:
        """Return what measures an agent, and what writes into the ledger for it."""
        return {
            Submit: partial(submit, self._accounts[agent]),
            Measure: partial(self._measure, agent),
            UseKey: partial(use_key, partial(self._use, agent)),
        }

    def guarded(self, agent: AgentId, infrastructure: Infrastructure) -> Infrastructure:
        """Return an infrastructure that serves the agent for as long as it is not out."""
        return GuardedInfrastructure(
            infrastructure,
            partial(self._watch.may, agent),
            lambda: self._liars.get(agent, ""),
        )

    def bus(self, agent: AgentId, bus: Bus) -> Bus:
        """Return a bus over which the agent's bids are false while it is a liar."""
        return BiasedBus(bus, lambda: self._liars.get(agent, ""))

    def anchor(self, head: AuditAnchored) -> None:
        """Record the head of the run's audit trail."""
        self._accounts[SECAAS].submit(head)

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()

    def _read(self, recorded: RecordedEntry) -> None:
        self._watch.read(recorded)
        entry = recorded.entry
        self._rekey((entry.result.cause if isinstance(entry, Attested) else "") or self._cause)

    def _use(self, agent: AgentId, key: UseKey, cause: str) -> None:
        self._used[agent] = key
        self._rekey(cause)

    def _rekey(self, cause: str) -> None:
        register = self.register
        keys = GroupKeys(
            register.epoch,
            frozenset(register.with_standing(TrustStanding.QUARANTINED)),
            frozenset(register.with_standing(TrustStanding.RETIRED)),
            {
                name: key.secret
                for name, key in self._used.items()
                if key.epoch == register.epoch and name in register.holders
            },
        )
        if keys != self.keys:
            self.keys = keys
            self._keyed(keys, cause)

    def _secret(self, name: str, purpose: str) -> bytes:
        return sha256(f"{self._seed}/{name}/{purpose}".encode()).digest()

    def _enrolment(self, agent: AgentId) -> Enrolment:
        exchange = X25519PrivateKey.from_private_bytes(self._secret(agent, "exchange"))
        return Enrolment(
            agent,
            f"{_SOFTWARE} {VERSION}",
            _VALUES.digest(),
            public(self._keys[agent]),
            exchange_of(exchange),
            self._accounts[agent].account,
        )

    def _measure(self, agent: AgentId, action: Measure, cause: str, answer: Answer) -> None:  # noqa: ARG002
        now = self._clock.now()
        text = _ALTERED if agent in self._infected else _GENUINE
        measured = ProcessMeasurement(
            _SOFTWARE,
            VERSION,
            pid=1,
            started=0,
            at_s=now,
            activity=Activity("S", now, 0.0, 0.0, 0.0),
            objects={_SOFTWARE: MappedObject(text)},
        )
        evidence = Evidence(
            agent, action.nonce, f"{_SOFTWARE} {VERSION}", measured.encode(), modelled=True
        )
        answer(signed(evidence, self._keys[agent]))


_BEGINS_NOTHING = (Release, Stop, Lift, ReadEntry, ReadLink, ReadMeasure, ReadRules, ReadService)
_GENUINE, _ALTERED = (sha256(text.encode()).hexdigest() for text in ("genuine", "altered"))
_VALUES = ReferenceValues(_SOFTWARE, VERSION, objects={_SOFTWARE: (_GENUINE,)}, counts=False)


def planned(plan: TrustSpec) -> Planned:
    """Return what the ledger records of how the group attests itself."""
    return Planned(plan.period_s, plan.verifiers, plan.misses)


def submit(ledger: Ledger, action: Submit, cause: str, answer: Callable[[Outcome], None]) -> None:  # noqa: ARG001
    """Write an entry into the ledger for an agent."""

    def answered(outcome: object) -> None:
        answer(Failed(outcome.reason) if isinstance(outcome, Refused) else Done())

    ledger.submit(action.entry, answered)  # type: ignore[arg-type]


def use_key(
    use: Callable[[UseKey, str], None],
    action: UseKey,
    cause: str,
    answer: Callable[[Outcome], None],
) -> None:
    """Hand a key to what protects an agent's words."""
    use(action, cause)
    answer(Done())


def end_doings(network: Infrastructure, agent: AgentId, pop: PopId, cause: str) -> None:
    """End what an agent has put in force at its PoP, as it is not to be trusted."""

    def stop(found: Outcome) -> None:
        own = f"{agent}."
        rules = found.rules if isinstance(found, RulesInForce) else ()
        for instance in sorted({r.instance for r in rules if r.instance.startswith(own)}):
            reason = f"{agent} is not trusted any more"
            network.perform(pop, Stop(instance, reason), cause, lambda _: None)

    network.perform(pop, ReadRules(pop), cause, stop)


class ExpelledAgents:
    """Follows the ledger for an infrastructure: which agents it does not serve any more."""

    def __init__(self, expelled: Callable[[AgentId, str], None], cause: str) -> None:
        """Know nobody yet; ``expelled`` is called with an agent, and why, as an event's id."""
        self.register = TrustRegister()
        self._expelled = expelled
        self._cause = cause

    def resume(self, register: TrustRegister) -> None:
        """Go on with what was read of the ledger before, up to an entry."""
        self.register = register
        for agent in register.with_standing(TrustStanding.QUARANTINED):
            self._expelled(agent, register.members[agent].cause or self._cause)

    def read(self, recorded: RecordedEntry) -> None:
        """Take an entry of the ledger in."""
        for change in self.register.apply(recorded):
            if change.now is TrustStanding.QUARANTINED:
                cause = self.register.members[change.agent].cause
                self._expelled(change.agent, cause or self._cause)

    def out(self, agent: AgentId) -> bool:
        """Whether an agent is served nothing any more, not even for what it has in force."""
        return self.register.standing(agent) is TrustStanding.QUARANTINED

    def may(self, agent: AgentId, action: object) -> bool:
        """Whether an agent is served an action.

        One that is silent or not yet verified may come back, so it looks after what it has in
        force, and may end that; it begins nothing, and its leases run out.
        """
        if self.register.excluded(agent):
            return not self.out(agent) and isinstance(action, _BEGINS_NOTHING)
        return True


class GuardedInfrastructure:
    """An infrastructure that serves one agent while that is not out."""

    def __init__(
        self,
        infrastructure: Infrastructure,
        may: Callable[[object], bool],
        lies: Callable[[], str],
    ) -> None:
        """Guard an infrastructure; ``lies`` says how the agent lies, see ``corrupt``."""
        self._infrastructure = infrastructure
        self._may = may
        self._lies = lies
        self.attach = infrastructure.attach
        self.detach = infrastructure.detach

    def perform(self, pop: PopId, action: object, cause: str, answer: Answer) -> None:
        """Carry out an action, unless the agent is out; see ``Infrastructure``."""
        how = self._lies()
        if isinstance(action, Hold) and how in ("lie", "bid"):
            action = replace(action, bids=_false(action.bids))
        elif isinstance(action, Enforce) and how == "lie":
            rule = TrafficRule(TrafficMatch(target=action.rule.match.target), TrafficVerdict.DROP)
            action = replace(action, rule=rule)
        if not self._may(action):
            answer(Failed("the agent is not trusted any more"))
        elif (how, type(action)) in (("idle", Enforce), ("keep", Hold)):
            answer(Done())
        else:
            self._infrastructure.perform(pop, action, cause, answer)  # type: ignore[arg-type]


class BiasedBus:
    """The bus of one agent, over which it bids falsely while it lies."""

    def __init__(self, bus: Bus, lies: Callable[[], str]) -> None:
        self._bus = bus
        self._lies = lies
        self.attach = bus.attach
        self.detach = bus.detach
        self.peers = bus.peers

    def send(self, message: Message) -> None:
        """Send a message; see ``Bus``."""
        content, how = message.content, self._lies()
        if isinstance(content, Proposal) and how in ("lie", "bid", "propose"):
            message = replace(message, content=Proposal(_false(content.bids)))
        elif isinstance(content, Proposal) and how == "keep":
            kept = tuple(replace(bid, kept=True) for bid in content.bids)
            message = replace(message, content=Proposal(kept))
        self._bus.send(message)


def _false(bids: tuple[Bid, ...]) -> tuple[Bid, ...]:
    return tuple(replace(bid, terms={**bid.terms, "T": 0.0, "C": 0.0}) for bid in bids)


class Nowhere:
    """The infrastructure of an agent that stands at no PoP."""

    def attach(self, *_: object) -> None:
        """Tell nothing."""

    def detach(self, *_: object) -> None:
        """Tell nothing more."""

    def perform(self, pop: PopId, action: object, cause: str, answer: Answer) -> None:  # noqa: ARG002
        """Refuse."""
        answer(Failed("there is no PoP here"))
