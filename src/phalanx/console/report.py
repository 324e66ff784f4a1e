"""The report: the console's page with the log inside, one file that asks no host for anything."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import os
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import msgspec

from phalanx.console.feed import MOST_OCTETS, SAMPLES, Thinning, line_of
from phalanx.console.story import StoryView
from phalanx.domain.events import Event
from phalanx.identity.files import write


def asset(name: str) -> str:
    """Return a file of the built page."""
    return (files(__package__) / "page" / name).read_text(encoding="utf-8")


class Report:
    """The report on a run, which takes its events one by one and renders what there is so far.

    Equal events give equal bytes. Events that are missing make views shorter, never fail.

    Args:
        most: octets of lines that go into the page before samples are thinned.

    """

    def __init__(self, most: int = MOST_OCTETS) -> None:
        self._thinning = Thinning(most)
        self._lines: list[bytes] = []
        self._samples: dict[int, tuple[str, str]] = {}
        self._story = StoryView()

    def add(self, event: Event) -> None:
        """Take the next event of the log."""
        line = line_of(event)
        self._story.add(event)
        self._thinning.weigh(event.id, event.kind, event.cause, len(line) + 1)
        if event.kind in SAMPLES:
            self._samples[len(self._lines)] = event.kind, event.id
        self._lines.append(line)

    def render(self) -> str:
        """Return the page as HTML."""
        lines, note = self._thinned()
        script = asset("page.js").replace("</script", "<\\/script")
        style = asset("page.css")
        packed = gzip.compress(b"\n".join(lines), compresslevel=6, mtime=0)
        log = base64.b64encode(packed).decode()
        story = base64.b64encode(msgspec.json.encode(self._story.result())).decode()
        policy = (
            f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
            "img-src data:; base-uri 'none'; form-action 'none'"
        )
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<link rel="icon" href="data:,">\n<title>Phalanx</title>\n'
            f'<style>{style}</style>\n</head>\n<body>\n<div id="root"><noscript>'
            "This page needs JavaScript; it asks no host for anything.</noscript></div>\n"
            f'<script type="application/octet-stream" id="log" data-thinned="{html.escape(note)}">'
            f'{log}</script>\n<script type="application/octet-stream" id="story">{story}</script>\n'
            f'<script type="module">{script}</script>\n</body>\n</html>\n'
        )

    def _thinned(self) -> tuple[list[bytes], str]:
        """Return the lines for the page, and words on what was left out."""
        thinning = self._thinning
        thinning.settle()
        left_out = {at for at, sample in self._samples.items() if not thinning.keeps(*sample)}
        return [line for at, line in enumerate(self._lines) if at not in left_out], thinning.note


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def render_report(events: Iterable[Event]) -> str:
    """Return the report on a run as one HTML page, made from its events alone."""
    report = Report()
    for event in events:
        report.add(event)
    return report.render()


def write_report(events: Iterable[Event], path: Path) -> None:
    """Write the report to ``path``, whole or not at all.

    Raises:
        PhalanxError: if the file cannot be written.

    """
    write(Path(os.path.realpath(path)), render_report(events).encode("utf-8", "replace"))


_LOG = re.compile(r'id="log"[^>]*>([A-Za-z0-9+/=]*)<')


def read_report(page: str) -> bytes:
    """Return the lines of the log that stands in a report."""
    found = _LOG.search(page)
    return gzip.decompress(base64.b64decode(found[1])) if found else b""
