"""The runs that pictures, tables and figures are drawn from.

A run over real packets is never the same twice, so what the pages need of one is kept beside
the pictures: ``python docs/make_runs.py LOG`` keeps it.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from phalanx.domain.events import Event
from phalanx.reporting.summary import Summary, summarise
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.system import run_scenario
from phalanx.store.jsonl import JsonlSink, read_jsonl

ROOT = Path(__file__).resolve().parents[1]
SCENARIO = ROOT / "scenarios" / "ddos-resilience.yaml"
KEPT = ROOT / "docs" / "images" / "ddos-linux.jsonl"
_KINDS = ("run.started", "traffic.changed", "measure.applied", "measure.lifted")
_BELIEFS = ("overUsage", "threat")
_SHOWN = ("legitimate_mb_s", "malicious_mb_s", "wanted_mb_s")


@cache
def ddos_events(strategy: Literal["service", "published"] = "service") -> list[Event]:
    """Return the log of the scenario of the dissertation with its own seed."""
    return run_scenario(replace(load_scenario(SCENARIO), strategy=strategy)).events


@cache
def real_events() -> list[Event]:
    """Return what was kept of a run of scenarios/ddos-linux.yaml over real packets."""
    return list(read_jsonl(KEPT))


def real_figures() -> str:
    """Return the figures of that run as a table."""
    summary = summarise(real_events())
    got = summary.response
    server = next(host for host in summary.hosts if host.host == "server")
    rows = (
        ("alarm", _after(got.alarm_after_s)),
        ("first limit in force", _after(got.throttle_after_s)),
        ("all attackers named", _after(got.named_after_s)),
        ("last of them blocked", _after(got.blocked_after_s)),
        ("attackers blocked", f"{got.attackers_limited} of {got.attackers}"),
        ("users limited at the end", f"{got.users_limited} of {got.users}"),
        ("users got, before the attack", f"{_served(summary, before=True)} of what they wanted"),
        ("users got, in its last 10 s", f"{_served(summary, before=False)} of what they wanted"),
        ("attack that still arrived then", f"{server.attack_after_mb_s:g} MB/s"),
    )
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {text} |\n" for name, text in rows)


def keep(log: Path) -> None:
    """Keep of a log what the pages need; of hosts the server alone."""
    events = list(read_jsonl(log))
    root = events[0].id
    sink = JsonlSink(KEPT)
    for event in events:
        data: dict[str, Any] = dict(event.data)
        if event.kind == "network.sample":
            server = data["hosts"]["server"]
            data = {"hosts": {"server": {name: round(server[name], 4) for name in _SHOWN}}}
        elif event.kind == "belief.changed":
            if not (data["value"] and str(data["belief"]).startswith(_BELIEFS)):
                continue
        elif event.kind not in _KINDS:
            continue
        cause = None if event.id == root else root
        sink(replace(event, time=round(event.time, 3), cause=cause, data=data))
    sink.close()


def _after(seconds: float | None) -> str:
    return "never" if seconds is None else f"after {seconds:.2f} s"


def _served(summary: Summary, *, before: bool) -> str:
    host = next(host for host in summary.hosts if host.host == "server")
    if before:
        return f"{host.before_mb_s / host.wanted_before_mb_s:.0%}"
    return f"{host.after_mb_s / host.wanted_after_mb_s:.0%}"


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
