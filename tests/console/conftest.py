"""A browser, servers of the console, and logs, for the tests that look at the page."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phalanx.domain.events import Event
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.system import run_scenario
from phalanx.store.jsonl import write_jsonl

ROOT = Path(__file__).parents[2]
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
STARTED = re.compile(r"(http://[\d.:]+/)#login=(\S+)")
TOKEN = re.compile(r"token of an? (viewer|operator): (\S+)")


class Served:
    """A process of ``phalanx`` that serves the console."""

    def __init__(self, *arguments: str, state: Path) -> None:
        environment = {"XDG_STATE_HOME": str(state), "PATH": "/usr/bin:/bin", "COLUMNS": "200"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "phalanx", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self.tokens: dict[str, str] = {}
        self.url = self.login = ""
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if (found := STARTED.search(line)) is not None:
                self.url, self.login = found[1], found[0]
            if (token := TOKEN.search(line)) is not None:
                self.tokens[token[1]] = token[2]
            if "Ctrl-C ends it" in line:
                return
        raise AssertionError("".join(said))

    def end(self, how: int = signal.SIGINT) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Return Debian's Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """Return a fresh page that fails the test on any error of a script."""
    context = chromium.new_context(viewport={"width": 1280, "height": 860})
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    context.close()
    assert errors == []


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Return what starts servers, which end with the test."""
    started: list[Served] = []

    def start(*arguments: str) -> Served:
        served = Served(*arguments, state=tmp_path / "state")
        started.append(served)
        return served

    yield start
    for served in started:
        served.end()


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list[Event]]]:
    """Return what gives the log of a scenario, as a file and as events."""
    folder = tmp_path_factory.mktemp("logs")
    known: dict[str, tuple[Path, list[Event]]] = {}

    def log(scenario: str) -> tuple[Path, list[Event]]:
        if scenario not in known:
            events = run_scenario(load_scenario(ROOT / "scenarios" / f"{scenario}.yaml")).events
            path = folder / f"{scenario}.jsonl"
            write_jsonl(events, path)
            known[scenario] = path, events
        return known[scenario]

    return log


def free_port() -> int:
    """Return a port of loopback that nothing listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
