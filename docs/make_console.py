"""Takes the pictures of the console: real runs, shown by the page in Chromium.

``python docs/make_console.py`` writes them anew. Browsers differ in the last pixel, so no test
holds that the same bytes come out; ``tests/console`` holds that the page shows what the log says.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from phalanx.console.report import write_report
from phalanx.domain.events import Event
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.system import run_scenario

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def first(events: list[Event], kind: str, **data: Any) -> str:
    """Return the id of the first event of a kind with these fields."""
    return next(
        e.id for e in events if e.kind == kind and all(e.data.get(k) == v for k, v in data.items())
    )


def main() -> None:
    """Write all pictures."""
    ddos = run_scenario(load_scenario(ROOT / "scenarios" / "ddos-resilience.yaml")).events
    infected = run_scenario(load_scenario(ROOT / "scenarios" / "infected-agent.yaml")).events
    block = first(ddos, "measure.applied", pop="pop4")
    called = max(
        (e for e in infected if e.kind == "auction.awarded"), key=lambda e: len(e.data["ranking"])
    ).data["auction"]
    auction = first(infected, "auction.called", auction=called)
    pictures = [
        ("console-why", ddos, f"view=now&t=30&from=0&to=60&why={block}", 780, "dark"),
        ("console-map", infected, "view=map&t=57&from=0&to=120", 720, "light"),
        ("console-auctions", infected, f"view=auctions&t=60&auction={auction}", 860, "light"),
        ("console-trust", infected, "view=trust&t=100", 1180, "dark"),
    ]
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        for name, events, place, height, scheme in pictures:
            report = Path(folder) / f"{name}.html"
            write_report(events, report)
            page = browser.new_page(
                viewport={"width": 1240, "height": height},
                color_scheme=scheme,
                reduced_motion="reduce",
            )
            page.goto(f"{report.as_uri()}#{place}")
            page.wait_for_selector("main[data-view]")
            page.wait_for_timeout(500)
            page.screenshot(path=IMAGES / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
