"""The tutorial's functions take part in runs and win auctions; its console runs as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.published import load_published
from typer.testing import CliRunner

from phalanx.bdi.capability import Capability
from phalanx.cli.files import load_functions
from phalanx.cli.main import app
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event
from phalanx.runtime.scenario import ConstraintsSpec
from phalanx.runtime.whatif import what_if
from phalanx.testing import FunctionBench

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
EXAMPLES = ROOT / "docs" / "examples"


def function(name: str) -> type[Capability]:
    return load_functions([str(EXAMPLES / name)])[0]


def of_kind(events: list[Event], kind: str) -> list[dict[str, object]]:
    return [event.data for event in events if event.kind == kind]


@pytest.fixture(scope="module")
def events() -> list[Event]:
    scenario = load_published(ROOT / "scenarios" / "quickstart-ring.yaml")
    bench = FunctionBench(function("bulletin/bulletin.py:Bulletin"), scenario=scenario)
    return bench.run().events


def test_the_function_wins_an_auction_for_each_attacker(events: list[Event]) -> None:
    threats = {
        d["belief"]
        for d in of_kind(events, "belief.changed")
        if str(d["belief"]).startswith("threat")
    }
    assert len(threats) == 2
    awarded = [d for d in of_kind(events, "auction.awarded") if "published" in str(d["goal"])]
    assert len(awarded) == 2
    for award in awarded:
        ranking = award["ranking"]
        assert isinstance(ranking, list)
        assert {row["vnf"] for row in ranking} == {"bulletin"}
        assert len(ranking) > 1  # the winner had somebody to win against
    assert {d["source"] for d in of_kind(events, "threat.published")} == {"10.2.0.1", "10.2.0.2"}


def test_the_function_is_deployed_and_ended_as_any_other(events: list[Event]) -> None:
    started = [d["pop"] for d in of_kind(events, "instance.started") if d["vnf"] == "bulletin"]
    stopped = [d["pop"] for d in of_kind(events, "instance.stopped") if d["vnf"] == "bulletin"]
    assert started
    assert sorted(map(str, started)) == sorted(map(str, stopped))
    assert of_kind(events, "run.ended")[0]["given_back"] is True


def test_the_quick_classifier_beats_the_other_unless_certainty_is_asked_for() -> None:
    scenario = load_published(ROOT / "scenarios" / "ddos-resilience.yaml")
    quick = function("quick_classifier.py:QuickClassifier")
    without = what_if(scenario, "flowRecord", "pop5", 2.0)
    assert without.ranking == ()
    answer = what_if(scenario, "flowRecord", "pop5", 2.0, [quick])
    assert {ranked.bid.vnf for ranked in answer.ranking} == {"quick-classifier"}
    strict = replace(scenario.goals["FlowRecord"], constraints=ConstraintsSpec(accuracy=0.9))
    sure = replace(scenario, goals={**scenario.goals, "FlowRecord": strict})
    answer = what_if(sure, "flowRecord", "pop5", 2.0, [quick])
    assert answer.ranking == ()
    assert all("accuracy 0.85" in reason for reason in answer.refusals.values())


def test_the_page_shows_that_the_installed_function_took_part() -> None:
    text = PAGE.read_text(encoding="utf-8")  # test_pages holds that this is what it prints
    installed = text.partition("## Install it")[2].partition("## Compete")[0]
    assert len(re.findall(r"awards published\(10\.2\.0\.\d\) to \w+ \(bulletin", installed)) == 2


def test_the_class_is_about_30_lines() -> None:
    source = (EXAMPLES / "bulletin" / "bulletin.py").read_text(encoding="utf-8")
    assert sum(bool(line.strip()) for line in source.splitlines()) <= 32


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("bulletin", "FILE.py:Class is expected"),
        ("bulletin.py:not a name", "FILE.py:Class is expected"),
        ("{}/none.py:Bulletin", "there is no such file"),
        ("{}/broken.py:Broken", "ZeroDivisionError: division by zero"),
        ("{}/leaves.py:Leaves", "SystemExit: 3"),
        ("{}/fine.py:Other", "has no Other"),
        ("{}/fine.py:Path", "Path is no Capability"),
        ("{}/fine.py:Nameless", "needs a name, and a vnfd of that name"),
    ],
)
def test_what_is_no_function_is_refused_with_one_line(tmp_path: Path, named: str, why: str) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "fine.py").write_text(
        "from pathlib import Path\n"
        "from phalanx.bdi.capability import Capability\n"
        "class Nameless(Capability):\n    pass\n"
    )
    with pytest.raises(PhalanxError, match=re.escape(why)) as caught:
        load_functions([named.format(tmp_path)])
    assert "\n" not in str(caught.value)


def test_a_scenario_may_list_a_function_that_only_a_file_has(tmp_path: Path) -> None:
    ring = (ROOT / "scenarios" / "quickstart-ring.yaml").read_text(encoding="utf-8")
    listed = tmp_path / "listed.yaml"
    listed.write_text(re.sub(r"^functions:.*", "functions:\n  bulletin: {}", ring, flags=re.M))
    refused = CliRunner().invoke(app, ["validate", str(listed)])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "functions.bulletin: no such capability" in refused.stderr
    given = ["--function", f"{EXAMPLES / 'bulletin' / 'bulletin.py'}:Bulletin"]
    accepted = CliRunner().invoke(app, ["validate", str(listed), *given])
    assert accepted.exit_code == 0
    assert "bulletin" in accepted.stdout


def test_a_file_that_is_named_twice_is_one_module() -> None:
    named = f"{EXAMPLES / 'bulletin' / 'bulletin.py'}:Bulletin"
    assert load_functions([named, named]) == [function("bulletin/bulletin.py:Bulletin")]


def test_two_functions_of_one_name_are_refused(tmp_path: Path) -> None:
    source = (EXAMPLES / "bulletin" / "bulletin.py").read_text(encoding="utf-8")
    (tmp_path / "copy.py").write_text(source, encoding="utf-8")
    names = [
        f"{EXAMPLES / 'bulletin' / 'bulletin.py'}:Bulletin",
        f"{tmp_path / 'copy.py'}:Bulletin",
    ]
    with pytest.raises(PhalanxError, match="there is another function 'bulletin'"):
        load_functions(names)
