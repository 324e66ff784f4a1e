"""What ``phalanx status`` shows: rows and a verdict, from the directory and agents' answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from types import MappingProxyType

import msgspec
from msgspec import Struct

from phalanx.domain.agents import POP
from phalanx.fabric.directory import RegistryEntry
from phalanx.fabric.operations import StatusAnswer
from phalanx.fabric.registration import Health, HealthStatus, Registration, ServiceState, Tier
from phalanx.identity.names import Role

_NAMED = 4
"""Of those who follow the usual plan, so many are named."""


class StatusRow(Struct, frozen=True):
    """One service."""

    agent: str
    role: str
    scope: str
    state: str
    health: str
    reasons: tuple[str, ...]
    """Why the health is not ok."""
    lease_left_s: float
    trust: str
    """In plain words."""
    incarnation: int
    confirmed: bool
    """Whether it gave a sign of life while it was watched: renewed its lease, or answered."""
    load: float | None
    """Share of what it can do that it does; None: unknown."""
    refusals: int | None
    """What it refused since it started; None: it did not answer."""
    sheds: int | None
    """What its full queues dropped since it started; None: it did not answer."""
    version: str
    plan: str
    """Fingerprint of the plan that it follows; empty: it says nothing of one."""


class OverallStatus(Enum):
    """The whole in one word, best first."""

    WELL = "well"
    ATTENTION = "attention"
    """It works; something needs a look."""
    DOWN = "down"
    """No agent serves, or none of those that were asked about; or nobody sees to a duty."""


class StatusReport(Struct, frozen=True):
    """The whole."""

    verdict: OverallStatus
    findings: tuple[str, ...]
    """What led to the verdict, in words; empty if all is well."""
    notes: tuple[str, ...]
    """What should be known besides: that nobody was attested, what was shed and refused so far."""
    rows: tuple[StatusRow, ...]


def report(
    entries: Iterable[RegistryEntry],
    answers: Mapping[str, StatusAnswer],
    now: float,
    *,
    only: Collection[str] = (),
    silent: Mapping[str, str] = MappingProxyType({}),
    storage: tuple[str, ...] = (),
) -> StatusReport:
    """Return what is to be shown.

    Args:
        entries: the directory.
        answers: what agents said of themselves just now, by name; may lack some or all.
        now: the watcher's clock, in seconds.
        only: the services that it is about; none: all, of which an agent must serve.
        silent: why those who were asked did not answer, in words, by name.
        storage: what is wrong with the brokers' streams and tables; it is said first.

    """
    everybody = tuple(entries)
    asked = [entry for entry in everybody if not only or entry.owner in only]
    known = sorted(asked, key=lambda entry: (entry.registration.role.value, entry.owner))
    lost = {e.owner: silent[e.owner] for e in known if e.available and e.owner in silent}
    rows = tuple(_row(e, answers.get(e.owner), now, lost=e.owner in lost) for e in known)
    findings = [
        line
        for row, entry in zip(rows, known, strict=True)
        for line in _findings(row, entry.trust.tier, lost.get(row.agent))
    ]
    findings += _differing_plans(everybody, only)
    serving = any(
        row.state == ServiceState.SERVING.value
        for row in rows
        if only or row.role == Role.AGENT.value
    )
    unowned = [] if only else _unowned(answers[row.agent] for row in rows if row.agent in answers)
    findings[:0] = [f"nobody sees to {duty}" for duty in unowned]
    if not serving and not only:
        findings.insert(0, "no agent serves")
    findings[:0] = storage
    verdict = OverallStatus.ATTENTION if findings else OverallStatus.WELL
    return StatusReport(
        verdict if serving and not unowned else OverallStatus.DOWN,
        tuple(findings),
        tuple(_notes(known, rows)),
        rows,
    )


def to_json(report: StatusReport, *, indent: int = 2) -> bytes:
    """Return a report as JSON for other programs; with ``indent`` 0 on one line."""
    return msgspec.json.format(msgspec.json.encode(report), indent=indent)


def _row(entry: RegistryEntry, answer: StatusAnswer | None, now: float, *, lost: bool) -> StatusRow:
    service = entry.registration
    if answer is not None and answer.incarnation < service.incarnation:
        answer = None  # of an earlier life
    health: Health = service.health if answer is None else answer.health
    state = entry.state if answer is None or not entry.available else answer.state
    state = ServiceState.STALE if lost else state
    return StatusRow(
        agent=entry.owner,
        role=service.role.value,
        scope=_scope(service),
        state=state.value,
        health=health.status.value if entry.available else "unknown",
        reasons=health.reasons,
        lease_left_s=round(entry.lease_left_s(now), 3),
        trust=str(entry.trust),
        incarnation=service.incarnation,
        confirmed=entry.confirmed or answer is not None,
        load=service.load if answer is None or answer.load is None else answer.load,
        refusals=None if answer is None else sum(answer.counters.refused.values()),
        sheds=None if answer is None else sum(answer.counters.shed.values()),
        version=service.version,
        plan=service.plan,
    )


def _scope(service: Registration) -> str:
    """Return the area that a service manages, behind an agent's scope if it is not a PoP."""
    return " ".join(
        filter(None, ("" if service.scope == POP.name else service.scope, str(service.area)))
    )


def _findings(row: StatusRow, tier: Tier, unanswered: str | None) -> list[str]:
    """Return what about one service needs a look; ``unanswered``: why it did not answer."""
    found = []
    if unanswered is not None:
        found.append(f"{row.agent} is stale: it does not answer: {unanswered}")
    elif row.state in (ServiceState.STALE.value, ServiceState.GONE.value):
        found.append(f"{row.agent} is {row.state}: its lease ran out and was not renewed")
    if row.health in (HealthStatus.DEGRADED.value, HealthStatus.FAILING.value):
        why = f": {'; '.join(row.reasons)}" if row.reasons else ""
        found.append(f"{row.agent} is {row.health}{why}")
    if tier in (Tier.CONTRAINDICATED, Tier.WARNING):
        found.append(f"{row.agent} is {row.trust}")
    return found


def _unowned(answers: Iterable[StatusAnswer]) -> list[str]:
    """Return the duties that none of those who answered sees to."""
    duties: dict[tuple[str, str], bool] = {}
    for answer in answers:
        for duty, mine in answer.duties.items():
            key = str(answer.area), duty
            duties[key] = mine or duties.get(key, False)
    return [duty for (_, duty), owned in duties.items() if not owned]


def _differing_plans(entries: Iterable[RegistryEntry], only: Collection[str]) -> list[str]:
    """Return, for each scope, who follows another plan than most of its agents do."""
    scopes: dict[str, dict[str, list[str]]] = {}
    for entry in sorted(entries, key=lambda entry: entry.owner):
        service = entry.registration
        if entry.available and service.role is Role.AGENT and service.plan:
            plans = scopes.setdefault(str(service.area), {})
            plans.setdefault(service.plan, []).append(entry.owner)
    found = []
    for _, plans in sorted(scopes.items()):
        most, *others = sorted(plans.items(), key=lambda item: (-len(item[1]), item[1]))
        for plan, owners in others:
            if only and not {*owners} & {*only}:
                continue
            verb = "follow" if len(owners) > 1 else "follows"
            found.append(
                f"{', '.join(owners)} {verb} another plan ({plan}) than {_some(most[1])} "
                f"({most[0]}): their bids may not fit; start all with the same plan"
            )
    return found


def _some(owners: list[str]) -> str:
    more = len(owners) - _NAMED
    return ", ".join(owners[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _notes(entries: list[RegistryEntry], rows: tuple[StatusRow, ...]) -> list[str]:
    notes = []
    unattested = sum(entry.trust.tier is Tier.UNATTESTED for entry in entries)
    if unattested:
        whose = "all" if unattested == len(entries) else str(unattested)
        notes.append(f"{whose} of {len(entries)} are unattested: nobody has checked their code yet")
    for row in rows:
        if row.sheds:
            what = "dropped messages from full queues since it started"
            notes.append(f"{row.agent} {what}: {row.sheds}")
        if row.refusals:
            notes.append(f"{row.agent} refused messages or calls since it started: {row.refusals}")
    unconfirmed = [row.agent for row in rows if row.lease_left_s > 0 and not row.confirmed]
    if unconfirmed:
        notes.append(f"no sign of life was awaited from {', '.join(unconfirmed)}")
    return notes
