"""``phalanx place``: what every agent would bid for a goal."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from phalanx.cli.files import Functions, ScenarioFile, load_functions, open_scenario
from phalanx.cli.terminal import AsJson, amount, emit_json, out, say, table_of
from phalanx.runtime.whatif import WhatIf, what_if


def place(
    scenario: ScenarioFile,
    goal: Annotated[str, typer.Option(help="Goal: linkRateLimited, or as a log prints it.")],
    auctioneer: Annotated[str, typer.Option(help="PoP that asks; the traffic is taken there.")],
    traffic: Annotated[
        float, typer.Option(min=0, max=1e9, help="Traffic to be processed, in MB/s.")
    ] = 0.0,
    at_s: Annotated[
        float,
        typer.Option(
            "--at", min=0, max=604_800, help="Ask at this second of the run, which is run so far."
        ),
    ] = 0.0,
    function: Functions = None,
    as_json: AsJson = False,
) -> None:
    """Show what every agent would bid for a goal, and who would win.

    It is asked at the start of the scenario, or at a later second of its run.
    """
    functions = load_functions(function)
    loaded = open_scenario(scenario, functions=functions)
    answer = what_if(loaded, goal, auctioneer, traffic, functions, at_s)
    if as_json:
        emit_json(_plain(answer))
        return
    asked = answer.goal
    limits = [f"{k} {v:g}" for k, v in asked.constraints.row().items()]
    weights = asked.preferences.row()
    say(out, f"{asked.goal}: {asked.traffic_mb_s:g} MB/s of traffic, taken at {asked.tap}")
    say(
        out,
        f"preferences {', '.join(f'{k} {v:g}' for k, v in weights.items())}; "
        f"constraints {', '.join(limits) or 'none'}",
    )
    out.print(_table(answer))


def _table(answer: WhatIf) -> Table:
    terms = [f"{term.name} ({term.unit})" if term.unit else term.name for term in answer.terms]
    titles = ("agent", "VNF", *(f"{title}>" for title in terms), "utility>", "path")
    table = table_of(*titles, framed=True)
    for index, ranked in enumerate(answer.ranking):
        bid = ranked.bid
        table.add_row(
            ranked.bidder,
            bid.vnf if bid.units == 1 else f"{bid.units} × {bid.vnf}",
            *(amount(bid.terms[term.name]) for term in answer.terms),
            f"{ranked.utility:.3f}",
            " → ".join(bid.path),
            style="bold green" if index == 0 else "",
        )
    for agent, reason in answer.refusals.items():
        blank = [""] * (len(terms) + 1)
        table.add_row(agent, Text("refuses", style="dim"), *blank, Text(reason))
    return table


def _plain(answer: WhatIf) -> dict[str, object]:
    return {
        "goal": str(answer.goal.goal),
        "tap": answer.goal.tap,
        "traffic_mb_s": answer.goal.traffic_mb_s,
        "constraints": answer.goal.constraints.row(),
        "preferences": answer.goal.preferences.row(),
        "winner": answer.ranking[0].bidder if answer.ranking else None,
        "ranking": [
            {
                "agent": ranked.bidder,
                "vnf": ranked.bid.vnf,
                "units": ranked.bid.units,
                **ranked.bid.terms,
                "utility": ranked.utility,
                "path": ranked.bid.path,
            }
            for ranked in answer.ranking
        ],
        "refusals": answer.refusals,
    }
