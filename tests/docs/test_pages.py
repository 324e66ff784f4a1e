"""The pages say what is so: what can be made is made anew, and must come out the same."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import make
import make_consoles
import pytest
from tests.system.sites_page import PAGE as SITES
from tests.system.sites_page import asked_in_tables, steps
from typer.main import get_command

from phalanx.bus import Bus
from phalanx.bus.wire import VERSION, decode, encode
from phalanx.cli.main import app
from phalanx.clock import Clock
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


@pytest.mark.processes
@pytest.mark.parametrize("page", WITH_CONSOLES, ids=name)
def test_commands_print_what_the_page_shows(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert make_consoles.with_real_consoles(text) == text, "run: .venv/bin/python docs/make.py"


@pytest.mark.parametrize(
    ("name", "least"),
    [
        *(("python", 5), ("frames", 2), ("fabric", 6), ("forecasts", 3)),
        *(("bus", 2), ("stores", 2), ("wire", 2)),
    ],
)
def test_the_examples_of_a_reference_hold(
    name: str, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT if name in ("python", "frames", "forecasts") else tmp_path)
    page = make.DOCS / "reference" / f"{name}.md"
    examples = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) >= least
    # Tests that run beside this one have loopback addresses of their own.
    net = f"127.{os.getpid() >> 8 & 127 | 128}.{os.getpid() & 255}"
    code = "\n".join(examples).replace("127.0.0", net)
    exec(compile(code, str(page), "exec", dont_inherit=True), {"__name__": "reference"})


def test_the_message_on_the_page_of_the_wire_is_one() -> None:
    page = (make.DOCS / "reference" / "wire.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    octets = encode(decode(bytes((VERSION,)) + shown.encode()))
    assert json.loads(octets[1:]) == json.loads(shown)


@pytest.mark.parametrize("schema", make.SCHEMAS)
def test_schemas_are_those_of_the_types(schema: str) -> None:
    written = (make.DOCS / "reference" / schema).read_text(encoding="utf-8")
    assert make.SCHEMAS[schema]() == written, "run: .venv/bin/python docs/make.py"


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


# -- docs/sites.md, which tests/system/test_three_machines.py walks ---------------------------


def test_every_block_has_a_mark_and_only_what_cannot_be_run_is_left_out() -> None:
    found = steps()
    blocks = re.findall(r"^```sh$", SITES.read_text(encoding="utf-8"), re.MULTILINE)
    assert len([step for step in found if step.commands]) == len(blocks)
    assert len([step for step in found if step.event == "skip"]) == 4
    assert [step.machines for step in found if step.event == "lose"] == [(3,)]


def test_the_table_of_symptoms_asks_something_in_each_row() -> None:
    section = SITES.read_text(encoding="utf-8").partition("### When something is wrong")[2]
    rows = re.findall(r"^\|.*\|$", section.partition("\n### ")[0], re.MULTILINE)[2:]
    assert len(asked_in_tables()) == len(rows) >= 8
