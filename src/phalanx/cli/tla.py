"""``phalanx tla``: whether a Trust Level Agreement can be used, and what it says."""

from __future__ import annotations

from pathlib import Path
from time import time
from typing import Annotated

import typer
from rich.text import Text

from phalanx.cli.terminal import AsJson, counted, emit_json, group, out, say, table_of
from phalanx.cli.trust import score_table
from phalanx.loading import read_text
from phalanx.slices.agreements import TrustAgreement, Trusted, parse_agreement, scores
from phalanx.trust.register import TrustRegister

app = group("Check a Trust Level Agreement (TLA), and show what it asks and attests.")

File = Annotated[Path, typer.Argument(metavar="FILE", help="The agreement, YAML or JSON.")]


@app.command()
def check(file: File) -> None:
    """Check whether an agreement can be used; the exit code is 2 if it cannot."""
    agreement = _read(file)
    held = (
        counted(len(agreement.standards), "standard"),
        counted(len(agreement.pops), "PoP"),
        counted(len(agreement.certificates), "certificate"),
    )
    say(out, f"{file}: ok, {agreement.name} with {', '.join(held)}", "green")


@app.command()
def show(file: File, *, as_json: AsJson = False) -> None:
    """Show what an agreement asks, and the scores that follow today before anything is attested."""
    agreement = _read(file)
    found = scores(agreement, Trusted(), TrustRegister(now_s=time()))
    if as_json:
        rows = [{"kind": k, "name": n, "score": score} for (k, n), score in found.items()]
        emit_json({"agreement": agreement, "scores": rows})
        return
    say(out, f"{agreement.name}: {agreement.about}" if agreement.about else agreement.name)
    table = table_of("attribute", "weight>", "at least>", "half-life")
    for attribute, terms in agreement.terms().items():
        half = "" if terms.half_life_s is None else _in_words(terms.half_life_s)
        table.add_row(attribute.value, f"{terms.weight:g}", f"{terms.minimum:g}", half)
    out.print(table)
    allowed = (*agreement.locations.jurisdictions, *agreement.locations.pops)
    for words, names in (
        ("standards", agreement.standards),
        ("certificates are believed of", agreement.attesters),
        ("things may stand at", allowed or ("every PoP",)),
    ):
        say(out, f"{words}: {', '.join(names) or 'none'}")
    if found:
        out.print(score_table(found))
    for pop, why in agreement.outsiders(pop.name for pop in agreement.pops).items():
        out.print(Text(f"refused at {pop}: {why}", style="yellow"))


def _in_words(seconds: float) -> str:
    return f"{seconds / 86_400:g} days" if seconds >= 2 * 86_400 else f"{seconds:g} s"


def _read(file: Path) -> TrustAgreement:
    return parse_agreement(read_text(file), str(file))
