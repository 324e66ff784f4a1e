"""``phalanx loops``: the closed loops of slices as a tree, of a run or of a domain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import asdict
from rich.text import Text
from rich.tree import Tree

from phalanx.cli.bus_options import Bus, DomainFolder, operator
from phalanx.cli.files import open_log
from phalanx.cli.terminal import AsJson, counted, emit_json, err, out
from phalanx.domain.errors import PhalanxError
from phalanx.reporting.log import names
from phalanx.reporting.loops import LoopStory, LoopsView
from phalanx.runtime.processes.operator import Survey, Tail

SHOWN = 4
"""Steps of each loop that are shown, the latest; those first that are no routine."""
_ABSENT = "does not answer"
_DEEPEST = 16


def loops(
    log: Annotated[
        Path | None,
        typer.Argument(metavar="LOG", help="Event log (JSONL) of a run; by default, a domain now."),
    ] = None,
    *,
    bus: Bus = None,
    domain: DomainFolder = None,
    slice_: Annotated[
        str | None, typer.Option("--slice", metavar="NAME", help="Only loops of this slice.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show all steps of each loop, not only the latest.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the closed loops of slices: what each does, and what it passed on and why.

    Each stands below the loop that it escalates to. Managers of domains stand beside the slices:
    they are above no loop.
    """
    view = LoopsView()
    if log is not None:
        with open_log(log) as events:
            for event in events:
                view.add(event)
    else:
        _ask(view, bus, domain)
    chosen = {
        name: story
        for name, story in view.loops.items()
        if slice_ is None or slice_ in names(story.about, "slices")
    }
    if not chosen:
        of = f" of the slice {slice_!r}" if slice_ is not None else ""
        raise PhalanxError(f"{log or 'the domain'}: there is no closed loop{of}")
    if as_json:
        emit_json([chosen[name] for name in sorted(chosen)])
        return
    for tree in _trees(chosen, None if everything else SHOWN):
        out.print(tree)


def _ask(view: LoopsView, bus: Path | None, domain: Path | None) -> None:
    """Ask the agents of a domain what they look after, and read what the brokers keep."""
    with operator(bus, domain) as connected:
        survey = Survey(connected)
        with err.status("waiting for signs of life"):
            survey.settle()
        answers = survey.answers.items()
        found = {name: answer.loop for name, answer in answers if answer.loop is not None}
        for loop in found.values():
            view.learn(asdict(loop))
        Tail(connected, lambda event, _: view.add(event)).catch_up()
    for story in [*view.loops.values()]:
        story.state = "" if story.name in survey.answers else _ABSENT
        for relation in ("above", "below", "beside", "managers"):
            for name in names(story.about, relation):
                view.loops.setdefault(name, LoopStory(name, state=_ABSENT))


def _trees(chosen: dict[str, LoopStory], most: int | None) -> list[Tree]:
    """Return the trees of loops, those that nothing is above first; what is shared stands once."""
    pairs = {(up, name) for name, story in chosen.items() for up in names(story.about, "above")}
    # A loop that does not answer is known from those above and below it.
    pairs |= {(name, low) for name, story in chosen.items() for low in names(story.about, "below")}
    below: dict[str, list[str]] = {}
    for up, low in sorted(pairs):
        if up in chosen and low in chosen:
            below.setdefault(up, []).append(low)
    held = {low for each in below.values() for low in each}
    roots = sorted(chosen.keys() - held)
    order = ("end-to-end", "domain", "slice")
    roots.sort(key=lambda n: order.index(chosen[n].scope) if chosen[n].scope in order else 9)
    shown: set[str] = set()

    def grow(name: str, tree: Tree, depth: int = 0) -> Tree:
        story = chosen[name]
        if name in shown:
            tree.label = Text.assemble((name, "bold"), (" (above)", "dim"))
            return tree
        shown.add(name)
        steps = story.steps
        if most is not None:  # what was passed on or refused tells more than what went as usual
            steps = ([step for step in steps if not step.routine] or steps)[-most:]
        others = story.earlier + len(story.steps) - len(steps)
        if others:
            tree.add(Text(f"{counted(others, 'more step')}; --all shows them", style="dim"))
        for step in steps:
            tree.add(Text.assemble((f"{step.time:.1f} s ", "dim"), step.words))
        for each in below.get(name, ()) if depth < _DEEPEST else ():
            grow(each, tree.add(_label(chosen[each])), depth + 1)
        return tree

    # Of a damaged log some may stand in a circle, or too deep: these follow.
    names_in_order = (*roots, *(name for name in chosen if name not in roots))
    return [grow(n, Tree(_label(chosen[n]))) for n in names_in_order if n not in shown]


def _label(story: LoopStory) -> Text:
    style = {"idle": "dim", _ABSENT: "red", "gone": "red"}.get(story.now, "green")
    duty = f" ({story.duty})" if story.duty else ""
    return Text.assemble((story.name, "bold"), duty, ": ", (story.now, style))
