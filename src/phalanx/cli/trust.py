"""``phalanx trust``: who is trusted by what a ledger holds, who said so, and who verifies whom.

All of it follows from the ledger alone, so everybody who can read it sees what the agents see.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct
from msgspec.structs import astuple
from rich.table import Table
from rich.text import Text

from phalanx.cli.ledger import reading
from phalanx.cli.terminal import (
    AsJson,
    StopSignal,
    counted,
    emit,
    emit_json,
    group,
    out,
    refuse,
    say,
    table_of,
)
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event
from phalanx.domain.trust import TrustTier
from phalanx.identity.files import read_secret
from phalanx.ledger import Confirmed, Ledger, RecordedEntry, Refused
from phalanx.ledger.entries import (
    AgentRetired,
    Associated,
    Attested,
    AuditAnchored,
    Breached,
    Enrolled,
    Entry,
    Faulted,
    Revoked,
)
from phalanx.loading.files import parse_as, read_text
from phalanx.loading.refusals import one_line, unknown
from phalanx.reporting.event_text import describe
from phalanx.slices.agreements import Scores, SubjectKind, agent_score, scores
from phalanx.trust.register import OPERATOR, Association, TrustRegister, TrustStanding, unseen
from phalanx.trust.score import TrustScore

if TYPE_CHECKING:
    from phalanx.runtime.scenario import Scenario

ATTEST_S = 10.0
"""How long ``attest`` waits for what verifiers find."""
CONFIRMED_S = 30.0
"""How long an entry may take to be recorded."""
EPOCH_S = 1e9
"""Ledgers of real time count seconds since 1970; those of a simulation, since its start."""
ROUNDS = (1, 5, 10)
"""After which the probability of staying unseen is printed."""
STYLES = {"trusted": "green", "silent": "yellow", "quarantined": "red"}

app = group("Show who is trusted and why, as a ledger has it; enrol and revoke agents.")

Url = Annotated[
    str, typer.Option("--ledger", metavar="URL", help="Such as evm:FILE, or http://HOST:PORT….")
]
Key = Annotated[
    Path, typer.Option("--key", help="Key of an operator: 64 hexadecimal digits, mode 0600.")
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE", help="Scenario whose agreement counts (agreement:)."),
]
MeasurerConfig = Annotated[
    Path, typer.Option("--config", help="Configuration of the measurer (TOML).")
]


class _EnrolmentFile(Enrolled, frozen=True, tag=False, forbid_unknown_fields=True):
    """What an operator writes of an agent."""


class _Told(Struct, frozen=True):
    """An entry about one agent, in words."""

    position: int
    time_s: float
    agent: AgentId
    text: str
    standing: TrustStanding | None
    """What the agent is from then on; None: as before."""
    score: TrustScore | None = None
    """Its score then; None: it has none."""


class _Verified(Struct, frozen=True):
    """Who verified an agent last, and which entry settled it."""

    position: int
    time_s: float
    by: tuple[AgentId, ...]


class _AgentRow(Struct, frozen=True):
    """One agent, as ``status`` shows it."""

    agent: AgentId
    standing: TrustStanding
    score: float
    verified: _Verified | None
    software: str
    results: dict[TrustTier, int]
    enrolments: int


class _ScoreRow(Struct, frozen=True):
    """The score of something, and what it follows from."""

    kind: SubjectKind
    name: str
    score: TrustScore


class _PlanRow(Struct, frozen=True):
    """Who verifies one agent in the open round, and what was found."""

    agent: AgentId
    verifiers: tuple[AgentId, ...]
    said: dict[AgentId, TrustTier]


class LedgerReader:
    """What a ledger says of trust.

    Raises:
        typer.Exit: with code 1, if not all of the ledger can be read; nothing is shown then.

    """

    def __init__(
        self, ledger: Ledger, seen: list[RecordedEntry], plan: Scenario | None = None
    ) -> None:
        self.plan = plan
        """Whose agreement counts in scores; None: the ledger alone does."""
        agreement = None if plan is None else plan.agreement
        self._score: Callable[[AgentId], TrustScore] = lambda name: (
            self.register.members[name].scored
        )
        if plan is not None and agreement is not None:
            at, given = plan.standing(), agreement
            self._score = lambda name: agent_score(given, name, at.get(name), self.register)
        found = ledger.status()
        if found.reason or found.head is None:
            refuse(f"the ledger cannot be read: {found.reason or 'it does not answer'}")
            raise typer.Exit(1)
        self.register = TrustRegister(half_lives=agreement.half_lives() if agreement else {})
        self.verified: dict[AgentId, _Verified] = {}
        self.told: list[_Told] = []
        self._names: dict[str, AgentId] = {}
        for recorded in seen:
            self._take(recorded, recorded.entry)

    def scores(self) -> Scores:
        """Return the scores of all agents, and of what else the plan's agreement is about."""
        if self.plan is not None and self.plan.agreement is not None:
            return scores(self.plan.agreement, self.plan.trusted(), self.register)
        return {("agent", name): self._score(name) for name in self.register.members}

    def require(self, agent: AgentId) -> None:
        """Refuse an agent that was never enrolled."""
        if agent not in self.register.members:
            raise PhalanxError(unknown("agent", agent, self.register.members))

    def _take(self, recorded: RecordedEntry, entry: Entry) -> None:
        if isinstance(entry, Enrolled):
            self._names[entry.account] = entry.agent
        changes = self.register.apply(recorded)
        if isinstance(entry, Attested):
            agent = entry.result.attester
            member = self.register.members.get(agent)
            if member is not None and member.verified == recorded.position:
                said = self.register.said.get(agent, {}).items()
                good = (name for name, each in said if each.tier is TrustTier.AFFIRMING)
                by = tuple(good) if entry.result.round else (entry.result.verifier,)
                self.verified[agent] = _Verified(recorded.position, recorded.time_s, by)
        about, text = _words(entry, self._names.get(recorded.author, recorded.author))
        if text:
            now = next((change.now for change in changes if change.agent == about), None)
            score = self._score(about) if about in self.register.members else None
            line = one_line(text)
            self.told.append(_Told(recorded.position, recorded.time_s, about, line, now, score))


def _words(entry: Entry, author: str) -> tuple[AgentId, str]:
    """Return which agent an entry is about and what it says; empty where it is about none."""
    match entry:
        case Enrolled() if entry.agent == author:
            return author, f"{author} founds the ledger"
        case Enrolled():
            text = f"{author} enrols {entry.agent} as {entry.role}, which runs {entry.software}"
            return entry.agent, text
        case AgentRetired():
            return entry.agent, f"{entry.agent} retires: {entry.reason}"
        case Revoked():
            reason = f"{entry.reason}; epoch {entry.epoch} of keys begins"
            return entry.agent, f"{author} revokes {entry.agent}: {reason}"
        case Faulted():
            text = f"{entry.verifier} is at fault in round {entry.round}: {entry.fault}"
            return entry.verifier, f"{text} {entry.attester}".rstrip()
        case Attested(result):
            data = {
                "attester": result.attester,
                "tier": result.tier.value,
                "deviations": [f"{d.kind} {d.where}: {d.what}" for d in result.deviations],
            }
            found = describe(Event("", 0.0, result.verifier, "attestation.result", None, data))
            when = f"round {result.round}" if result.round else f"chain, root {result.root}"
            return result.attester, f"{when}: {result.verifier} {found}"
        case Associated(a, b, latency_ms, loss):
            text = f"{author} is for a service level of {_figures(latency_ms, loss)} at most"
            return b if a == author else a, f"{text}, between {a} and {b}"
        case Breached(a, b, latency_ms, loss):
            text = f"{author} says that the service level between {a} and {b} is broken"
            return b if a == author else a, f"{text}: {_figures(latency_ms, loss)}"
        case AuditAnchored(agent, recorder, events, head):
            return agent, f"{agent} anchors its audit trail: {recorder}:{events}:{head}"
    return "", ""


def _figures(latency_ms: float, loss: float) -> str:
    return f"{latency_ms:.3g} ms and a loss of {100 * loss:.3g} %"


def _moment(time_s: float) -> str:
    if time_s < EPOCH_S:
        return f"{time_s:.0f} s"
    return f"{datetime.fromtimestamp(time_s, UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def _styled(standing: TrustStanding) -> Text:
    return Text(standing.value, style=STYLES.get(standing.value, ""))


@app.command()
def status(*, url: Url, plan_file: PlanFile = None, as_json: AsJson = False) -> None:
    """Show each agent's standing and score, who verified it, the open round, the keys.

    With a plan that has an agreement, PoPs, operators, functions and services have scores, too.
    """
    with reading(url) as (ledger, seen, _):
        reader = LedgerReader(ledger, seen, _planned(plan_file))
    register, scored = reader.register, reader.scores()
    rows = [
        _AgentRow(
            member.agent,
            member.standing,
            round(scored["agent", member.agent].value, 3),
            reader.verified.get(member.agent),
            member.software,
            member.results,
            member.enrolments,
        )
        for member in register.members.values()
    ]
    associations = [*register.associations.values()]
    if as_json:
        shown = {name: getattr(register, name) for name in ("round", "root", "epoch", "keeper")}
        shown |= {"holders": sorted(register.holders), "associations": associations}
        parts = [_ScoreRow(*key, score) for key, score in scored.items()]
        emit_json({"agents": rows, **shown, "scores": parts})
        return
    table = table_of("agent", "standing", "score>", "genuine>", "at last by", "at>", "software")
    for row in rows:
        last = row.verified
        table.add_row(
            Text(row.agent),
            _styled(row.standing),
            f"{row.score:.3f}",
            f"{row.results.get(TrustTier.AFFIRMING, 0)} of {sum(row.results.values())}",
            Text(", ".join(sorted(last.by)) if last else "nobody"),
            _moment(last.time_s) if last else "–",
            Text(row.software),
        )
    out.print(table)
    out.print(score_table(scored))
    if associations:
        out.print(_associations(associations))
    opened = f"round {register.round} is open" if register.round else "no round was opened yet"
    keys = "not handed out yet"
    if register.keeper:
        given = f"{len(register.holders)} of {counted(len(rows), 'agent')}"
        keys = f"handed out by {register.keeper} to {given}"
    say(out, f"{opened}; keys of epoch {register.epoch}, {keys}")


def score_table(scored: Scores) -> Table:
    """Return each score, with its parts and the evidence that each of them rests on."""
    table = table_of("score of", "", "score>", "value>", "weight>", "attribute", "evidence")
    for (kind, name), score in scored.items():
        begin = [kind, Text(name), f"{score.value:.3f}"]
        for part in score.parts:
            figures = f"{part.value:.3f}", f"{part.weight:g}"
            counts = f"{part.seen_for:.3g} for, {part.against:.3g} against"
            evidence = Text(f"{counts}: {part.evidence}")
            table.add_row(*begin, *figures, part.attribute.value, evidence)
            begin = ["", "", ""]
        if score.reason or not score.parts:
            why = Text(score.reason or "nothing was seen yet", style="yellow")
            table.add_row(*begin, "", "", "", why)
    return table


def _parts(score: TrustScore) -> str:
    """Return a score with its parts and their evidence, in one line."""
    parts = (
        f"{p.attribute.value} {p.seen_for:.3g} for, {p.against:.3g} against ({p.evidence})"
        for p in score.parts
    )
    return ": ".join(filter(None, (f"score {score.value:.3f}", ", ".join(parts))))


def _planned(file: Path | None) -> Scenario | None:
    from phalanx.runtime.loading import load_scenario  # noqa: PLC0415  # other verbs do without

    return None if file is None else load_scenario(file)


def _associations(found: list[Association]) -> Table:
    """Return what was agreed between two agents, with the words of both of them."""
    table = table_of("between", "service level at most", "broken, as they say")
    for each in found:
        level = _figures(each.level.max_latency_ms, each.level.max_loss)
        said = (
            f"{by}: {count}×, last {_figures(last.latency_ms, last.loss)}"
            for by, (count, last) in sorted(each.breaches.items())
        )
        level += "" if each.agreed else f", said by {each.proposer} alone"
        pair = f"{each.level.a} and {each.level.b}"
        table.add_row(Text(pair), Text(level), Text("; ".join(said) or "never"))
    return table


@app.command()
def history(
    agent: Annotated[str, typer.Argument(help="Only what is about this agent.")] = "",
    *,
    url: Url,
    plan_file: PlanFile = None,
    as_json: AsJson = False,
) -> None:
    """Show all enrolments, results and revocations, in the order of the ledger.

    Where an entry finds an agent's score changed, the score is shown with its parts.
    """
    with reading(url) as (ledger, seen, _):
        reader = LedgerReader(ledger, seen, _planned(plan_file))
    shown: dict[AgentId, TrustScore | None] = {}
    if agent:
        reader.require(agent)
    for told in reader.told:
        if agent in ("", told.agent) and as_json:
            emit_json(told)
        elif agent in ("", told.agent):
            begin = f"{_moment(told.time_s):>8}  {told.position:>12}  ", "dim"
            line = Text.assemble(begin, told.text)
            if told.standing:
                line.append(f" → {told.agent} is ").append_text(_styled(told.standing))
            elif told.score is not None and told.score != shown.get(told.agent):
                line.append(f"; {_parts(told.score)}", "dim")
                shown[told.agent] = told.score
            out.print(line, soft_wrap=True)


@app.command()
def plan(
    *,
    url: Url,
    infected: Annotated[
        int, typer.Option(min=0, help="Print how likely one of so many stays unseen.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Show who verifies whom in the open round, and who has done so."""
    with reading(url) as (ledger, seen, _):
        register = LedgerReader(ledger, seen).register
    rows = [
        _PlanRow(name, by, {v: r.tier for v, r in register.said.get(name, {}).items()})
        for name in register.members
        if (by := register.verifiers_of(name))
    ]
    if infected > len(rows):
        raise typer.BadParameter(f"{counted(len(rows), 'agent')} in all", param_hint="--infected")
    drawn = register.plan.verifiers if register.plan else 0
    chances = [unseen(len(rows), infected, drawn, n) for n in ROUNDS] if infected else []
    if as_json:
        emit_json({"round": register.round, "plan": rows, "unseen": chances})
        return
    if register.plan is None or not rows:
        say(out, "no round was opened yet: the agents are verified in a chain first")
        return
    table = table_of("agent", "verified by", "found so far")
    for row in rows:
        found = ", ".join(f"{tier.value} ({name})" for name, tier in row.said.items())
        table.add_row(Text(row.agent), Text(", ".join(row.verifiers)), Text(found))
    out.print(table)
    period = f"{register.plan.period_s:g} s"
    say(out, f"round {register.round}; a round takes {period}, {register.quorum} verifiers decide")
    if chances:
        shown = ", ".join(f"{p:.3g} after {n}" for n, p in zip(ROUNDS, chances, strict=True))
        say(out, f"if {infected} infected agents vouch for each other, one of them is unseen with")
        say(out, f"probability {shown} rounds")


@app.command()
def attest(
    agent: Annotated[str, typer.Argument(help="Name of the agent.")], *, url: Url, key: Key
) -> None:
    """Have all agents looked at now, so that none knows who is meant; print what is found of one.

    The exit code is 1 unless a majority of its verifiers has found it genuine in this round.
    """
    with reading(url, read_secret(key)) as (ledger, seen, passing):
        (reader := LedgerReader(ledger, seen)).require(agent)
        register = reader.register
        if register.plan is None or not register.round:
            raise PhalanxError("no round was opened yet: the agents are verified in a chain first")
        asked = len(reader.told)
        _submit(ledger, register.plan, passing)
        until, looked = next(passing) + ATTEST_S, 0
        while next(passing) < until and looked < register.quorum:
            register = (reader := LedgerReader(ledger, seen)).register
            looked = sum(told.agent == agent for told in reader.told[asked:])
    tiers = {name: result.tier for name, result in register.said.get(agent, {}).items()}
    found = ", ".join(f"{tier.value} ({name})" for name, tier in tiers.items())
    standing = register.members[agent].standing
    say(out, f"{agent} is {standing.value}; round {register.round}: {found or 'nobody has looked'}")
    affirmed = [*tiers.values()].count(TrustTier.AFFIRMING) >= register.quorum
    if standing is not TrustStanding.TRUSTED or not affirmed:
        raise typer.Exit(1)


@app.command()
def revoke(
    agent: Annotated[str, typer.Argument(help="Name of the agent.")],
    *,
    reason: Annotated[str, typer.Option(help="Why; the ledger keeps it.")],
    url: Url,
    key: Key,
) -> None:
    """Expel an agent: nobody deals with it any more, and a new epoch of keys begins."""
    with reading(url, read_secret(key)) as (ledger, seen, passing):
        LedgerReader(ledger, seen).require(agent)
        _submit(ledger, Revoked(agent, reason), passing)
    say(out, f"{agent} is revoked")


@app.command()
def found(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="Scenario with trust.")],
    *,
    url: Url,
    key: Key,
) -> None:
    """Begin a ledger, say how its agents attest each other, and print the URL for all others."""
    from phalanx.runtime.loading import load_scenario  # noqa: PLC0415  # other verbs do without
    from phalanx.runtime.processes import secaas  # noqa: PLC0415

    trust = load_scenario(plan_file).trust
    if trust is None:
        raise PhalanxError(f"{plan_file}: trust: is missing: nothing says how agents attest")
    emit(secaas.found(url, key, trust))


@app.command()
def learn(
    configs: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Configurations of agents.")
    ],
    *,
    config: MeasurerConfig,
    values: Annotated[
        Path | None, typer.Option(help="Reference values that were learned elsewhere.")
    ] = None,
    control_flow: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="S",
            help="Learn for so many seconds which function calls which, of an agent that is "
            "started for it and then of each that runs. 0: it is not measured.",
        ),
    ] = 0.0,
) -> None:
    """Learn what genuine agents of this machine look like, and write what is to be enrolled."""
    from phalanx.runtime.processes import measurer  # noqa: PLC0415

    measurer.learn(config, configs, values, partial(say, out), control_flow)


@app.command()
def measure(*, config: MeasurerConfig) -> None:
    """Measure the agents of this machine and give them evidence, until stopped."""
    from phalanx.runtime.processes import measurer  # noqa: PLC0415

    with StopSignal(signal.SIGTERM) as stop:
        measurer.measure(config, partial(say, out), lambda: stop.wanted)


@app.command()
def enrol(
    file: Annotated[
        Path,
        typer.Argument(
            help="YAML or JSON: agent, account, role, software, reference, …; or a folder of "
            "enrolments: then those agents are verified, too."
        ),
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="AGENT", help="Of a folder: enrol these anew; else those that never were."
        ),
    ] = None,
    *,
    url: Url,
    key: Key,
    within: Annotated[
        float, typer.Option(min=1, help="How long agents may take to be verified, in seconds.")
    ] = 120.0,
) -> None:
    """Enrol agents; each is trusted once it was verified."""
    if file.is_dir():
        from phalanx.runtime.processes import secaas  # noqa: PLC0415

        tell = partial(say, out, style="dim")
        standings = secaas.enrol(url, key, file, names or (), within, tell)
        for name, standing in standings.items():
            say(out, f"{name} is {standing.value if standing else 'not enrolled'}")
        if set(standings.values()) != {TrustStanding.TRUSTED}:
            raise typer.Exit(1)
        return
    if names:
        raise PhalanxError(f"{file}: names one agent itself; AGENT is for folders")
    written, _ = parse_as(_EnrolmentFile, read_text(file), str(file))
    with reading(url, read_secret(key)) as (ledger, seen, passing):
        LedgerReader(ledger, seen)
        _submit(ledger, Enrolled(*astuple(written)), passing)
    more = "" if written.role == OPERATOR else ", and to be verified"
    say(out, f"{written.agent} is enrolled{more}")


def _submit(ledger: Ledger, entry: Entry, passing: Iterator[float]) -> None:
    """Record an entry; the exit code is 1 if the ledger refuses it, or does not answer."""
    answers: list[Confirmed | Refused] = []
    ledger.submit(entry, answers.append)
    while not answers and next(passing) < CONFIRMED_S:
        pass
    match answers:
        case [Confirmed()]:
            return
        case [Refused(reason)]:
            refuse(f"the ledger refuses it: {reason}")
        case _:
            why = ledger.status().reason or "it does not answer"
            refuse(f"not recorded after {CONFIRMED_S:.0f} s: {why}")
    raise typer.Exit(1)
