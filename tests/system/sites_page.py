"""docs/sites.md, or a page like it, as steps: its commands, with the marks before them."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "sites.md"

_PART = re.compile(
    r"^## (?P<title>.+?)$"
    r"|^<!-- (?P<mark>[^>]*?) -->$(?:\n```sh\n(?P<marked>.*?)^```$)?"
    r"|^```sh\n(?P<plain>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_MARK = re.compile(
    r"run on (?P<machines>\d(?:, \d)*)"
    r"(?: until it (?P<until>succeeds|fails)| until it says: (?P<says>.+))?"
    r"|(?P<event>lose|return) (?P<machine>\d)"
    r"|not run: (?P<why>.+)"
)


class Step(Struct, frozen=True):
    """What the page says to do next."""

    chapter: str
    machines: tuple[int, ...]
    event: str
    """``run``, ``lose`` or ``return`` a machine, or ``skip``."""
    commands: str = ""
    until: str = ""
    """``succeeds`` or ``fails``: to be repeated until then."""
    says: str = ""
    """Once it has said so, it is ended by Ctrl-C."""


def steps(page: Path = PAGE) -> list[Step]:
    """Return all of a page.

    Raises:
        ValueError: if a block has no mark, or one that is not understood.

    """
    chapter, found = "", []
    for part in _PART.finditer(page.read_text(encoding="utf-8")):
        if part["title"]:
            chapter = part["title"]
            continue
        if part["plain"]:
            raise ValueError(f"a block without a mark: {part['plain']}")
        mark = _MARK.fullmatch(part["mark"])
        if mark is None:
            raise ValueError(f"a mark that is not understood: {part['mark']}")
        commands = part["marked"] or ""
        if mark["event"]:
            found.append(Step(chapter, (int(mark["machine"]),), mark["event"]))
        elif mark["why"]:
            found.append(Step(chapter, (), "skip", commands))
        else:
            machines = tuple(map(int, mark["machines"].split(", ")))
            until, says = mark["until"] or "", mark["says"] or ""
            found.append(Step(chapter, machines, "run", commands, until, says))
    return found


def asked_in_tables() -> list[str]:
    """Return the commands that the page's tables of symptoms tell to ask."""
    text = PAGE.read_text(encoding="utf-8")
    section = text.partition("### When something is wrong")[2].partition("\n### ")[0]
    return [
        command
        for row in re.findall(r"^\|[^|]*\|([^|]*)\|", section, re.MULTILINE)
        for command in re.findall(r"`([^`]+)`", row)
    ]
