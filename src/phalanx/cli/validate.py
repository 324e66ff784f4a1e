"""``phalanx validate``: whether a scenario file can be used."""

from __future__ import annotations

from rich.table import Table

from phalanx.cli.files import Functions, ScenarioFile, load_functions, open_scenario
from phalanx.cli.terminal import ReadableTable, counted, out, say
from phalanx.runtime.scenario import Scenario


def validate(scenario: ScenarioFile, function: Functions = None) -> None:
    """Check a scenario file and print what it holds."""
    loaded = open_scenario(scenario, functions=load_functions(function))
    say(out, f"{scenario}: ok", "green")
    out.print(_table(loaded))


def _table(scenario: Scenario) -> Table:
    network = scenario.network
    sources = scenario.to_sources()
    users = [source for source in sources if not source.profile.malicious]
    attackers = [source for source in sources if source.profile.malicious]
    table = ReadableTable(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, text in (
        ("scenario", scenario.name),
        ("duration", f"{scenario.duration_s:g} s, seed {scenario.seed}"),
        (
            "network",
            f"{len(network.pops)} PoPs, {len(network.links)} links, "
            f"repository at {network.repository}",
        ),
        ("hosts", ", ".join(f"{host.name} at {host.at}" for host in scenario.hosts) or "none"),
        (
            "traffic",
            f"{len(users)} legitimate sources ({sum(s.demand_mb_s for s in users):.4g} MB/s in "
            f"all), {len(attackers)} attackers "
            f"({sum(s.demand_mb_s for s in attackers):.4g} MB/s)",
        ),
        ("watched", ", ".join(monitor.link for monitor in scenario.monitors) or "nothing"),
        ("functions", ", ".join(scenario.functions)),
        ("bidding", scenario.bidding),
        *_slices(scenario),
        ("test bench", f"{len(scenario.faults)} faults, {len(scenario.updates)} updates"),
    ):
        table.add_row(name, text)
    return table


def _slices(scenario: Scenario) -> list[tuple[str, str]]:
    names = ", ".join(each.name for each in scenario.slices.slices) if scenario.slices else ""
    return [("slices", f"{names}; {counted(len(scenario.loops()), 'loop')}")] if names else []
