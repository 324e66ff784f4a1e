"""``phalanx ssla``: how the security agreements of a run were kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.files import open_log
from phalanx.cli.terminal import AsJson, emit_json, group, out, say, table_of
from phalanx.domain.errors import PhalanxError
from phalanx.reporting.event_text import describe_whole
from phalanx.reporting.ssla import AgreementsView, BreachStory, TermStory

app = group("Show how the security agreements (SSLA) of a run were kept.")


@app.callback()
def _verbs() -> None:
    """Show how the security agreements (SSLA) of a run were kept."""


@app.command()
def report(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="Event log (JSONL) of a run.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show of each term what share of the time it was kept, its breaches, and what is owed."""
    view = AgreementsView()
    with open_log(log) as events:
        for event in events:
            view.add(event)
    terms = view.result()
    if as_json:
        emit_json(terms)
        return
    if not terms and not view.agreed:
        raise PhalanxError(f"{log}: no term of an agreement was measured")
    table = table_of("term", "where", "metric", "kept>", "times>", "credit>")
    for term in terms:
        name, breaches = f"{term.agreement}/{term.term}", len(term.breaches)
        figures = f"{term.kept_share:.2%}", str(breaches), f"{term.credit:.0%}"
        table.add_row(name, f"{term.slice}/{term.entity}", term.metric, *figures)
    out.print(table)
    for deal in view.agreed.values():
        say(out, f"{deal.time:.1f} s: {deal.agent} {describe_whole(deal)} ({deal.id})")
    for term in terms:
        for breach in term.breaches:
            say(out, _told(term, breach))


def _told(term: TermStory, breach: BreachStory) -> str:
    lasted = "lasts" if breach.lasted_s is None else f"lasted {breach.lasted_s:.1f} s"
    words = f"{breach.at_s:.1f} s: {term.agreement}/{term.term} at {term.entity} {lasted}"
    if term.intent:
        words += f" (intent {term.intent})"
    words += f"; {breach.evidence}"
    if breach.remedy:
        words += f"; {breach.by}: {breach.remedy}"
        words += "" if breach.remedied_s is None else f", done {breach.remedied_s:.2f} s later"
    return f"{words} ({breach.event})"
