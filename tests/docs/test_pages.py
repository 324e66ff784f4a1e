"""The pages say what is so: what can be made is made anew, and must come out the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import make
import make_consoles
import pytest
from typer.main import get_command

from phalanx.bus import Bus
from phalanx.cli.main import app
from phalanx.clock import Clock
from phalanx.domain.events import KINDS
from phalanx.infrastructure import Infrastructure
from phalanx.store import EventStore

ROOT = make.ROOT
PAGES = make.pages()
WITH_CONSOLES = [p for p in PAGES if "```console" in p.read_text(encoding="utf-8")]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_is_made_from_the_code_is_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert make.with_parts(text) == text, "run: .venv/bin/python docs/make.py"


@pytest.mark.parametrize("page", WITH_CONSOLES, ids=name)
def test_commands_print_what_the_page_shows(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert make_consoles.with_real_consoles(text) == text, "run: .venv/bin/python docs/make.py"


def test_the_examples_of_the_library_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = make.DOCS / "reference" / "python.md"
    examples = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) >= 5
    exec(compile("\n".join(examples), str(page), "exec"), {"__name__": "python_reference"})


@pytest.mark.parametrize("image", make.IMAGES)
def test_pictures_are_those_of_a_run(image: str) -> None:
    drawn = (make.DOCS / "images" / image).read_text(encoding="utf-8")
    assert make.IMAGES[image]() == drawn, "run: .venv/bin/python docs/make.py"


def test_every_page_is_reached_from_the_index() -> None:
    index = make.DOCS / "index.md"
    linked = {
        (make.DOCS / link.partition("#")[0]).resolve() for link in LINK.findall(index.read_text())
    }
    assert linked >= {p for p in PAGES if p not in (index, ROOT / "README.md")}


def test_verbs_and_options_of_the_command_line_are_all_described() -> None:
    page = (make.DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    command = get_command(app)
    sections = dict(
        re.findall(r"^## `phalanx (\w+)`\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    )
    assert sorted(sections) == sorted(command.list_commands(None))
    for verb, section in sections.items():
        found = command.get_command(None, verb)
        options = {o for p in found.params for o in p.opts if o.startswith("--")}
        described = set(re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE))
        assert described == options - {"--help"}, verb
        for name, below in getattr(found, "commands", {}).items():
            assert re.search(rf"^\| `{name}[ `]", section, re.MULTILINE), f"{verb} {name}"
            deeper = {o for p in below.params for o in p.opts if o.startswith("--")} - {"--help"}
            assert deeper <= {*re.findall(r"`(--[a-z-]+)", section)}, f"{verb} {name}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make (\w+)`|^make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target[0] or target[1]}:", makefile, re.MULTILINE), target
    verbs = get_command(app).list_commands(None)
    for verb in re.findall(r"`(?:\.venv/bin/)?phalanx ([a-z]+)", text):
        assert verb in verbs
    for path in re.findall(r"`((?:src|docs|tests|scenarios|benchmarks)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path


def test_events_are_described_once_each() -> None:
    page = (make.DOCS / "reference" / "events.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`[a-z._]+`(?:, )?)+) \|", page, re.MULTILINE)
    kinds = [kind for row in rows for kind in re.findall(r"`([a-z._]+)`", row)]
    assert sorted(kinds) == sorted(KINDS)


@pytest.mark.parametrize("port", [Bus, Clock, EventStore, Infrastructure])
def test_the_ports_are_in_the_architecture(port: type) -> None:
    assert f"`{port.__name__}`" in (make.DOCS / "architecture.md").read_text(encoding="utf-8")


def test_the_changelog_knows_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_tell_nothing_of_the_machine_they_were_written_on(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"/work/|/home/|/tmp/|/root/|\.\./shared", text)
