"""``phalanx intent``: what it prints, writes, and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from phalanx.cli.main import app
from phalanx.runtime.loading import parse_scenario
from tests.policy.test_ssla_xml import FIGURE_3

ROOT = Path(__file__).parents[2]
STORM = ROOT / "scenarios" / "signalling-storm.yaml"
PAGE = """Cameras have the addresses 10.1.0.0/16. Servers have the address 10.2.0.0/24.
Slice cameras is isolated from every other slice except servers; its traffic is encrypted.
Only servers may reach cameras on tcp port 443 between 08:00 and 18:00 on weekdays.
"""


def intent(*arguments: object) -> tuple[int, str, str]:
    """Run the command; return its exit code and what it prints."""
    done = CliRunner().invoke(app, ["intent", *map(str, arguments)], env={"COLUMNS": "160"})
    assert "Traceback" not in done.output
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def city(tmp_path: Path) -> Path:
    file = tmp_path / "city.txt"
    file.write_text(PAGE)
    return file


def test_check_says_the_meaning_in_other_words_with_terms_and_rules(city: Path) -> None:
    code, told, _ = intent("check", city)
    assert code == 0
    assert "packets from outside slice cameras must not reach it, except from slice servers" in told
    assert "any but 10.1.0.0/16, 10.2.0.0/24" in told
    assert "MTWTF-- 00:00-08:00 UTC" in told
    read = json.loads(intent("check", city, "--json")[1])
    assert read["intents"]["intents"][0]["name"] == "cameras-isolation"
    assert read["plan"]["agreements"][0]["terms"][0]["metric"] == "foreign-sources"


def test_what_cannot_be_met_in_a_scenario_is_refused(tmp_path: Path) -> None:
    for text, why in (
        ("machins is encrypted", "no slice 'machins'; did you mean 'machines'"),
        ("machines is encrypted", "nothing encrypts between ran1 and ran2; the nearest is"),
        ("machines stays in FI", "no PoP is known to stand in FI"),
        ("machines is deployed within 1 s", "2 s to start service-replica"),
    ):
        (tmp_path / "x.txt").write_text(text)
        code, told, wrong = intent("check", tmp_path / "x.txt", "--scenario", STORM)
        assert (code, told) == (2, "")
        assert why in wrong
        assert len(wrong.splitlines()) == 1


def test_applied_intents_are_listed_replaced_and_removed(tmp_path: Path) -> None:
    page, one, two, three = (tmp_path / each for each in ("x.txt", "1.yaml", "2.yaml", "3.yaml"))
    isolated = "machines is isolated from every other slice; patches within 2 h"
    page.write_text(isolated)
    code, told, wrong = intent("apply", page, "--scenario", STORM, "--out", one)
    assert (code, told, one.exists()) == (2, "", False)  # what is written can be run
    assert "everything would be foreign; give members of machines" in wrong
    page.write_text(f"Machines have the addresses 10.77.0.0/16. {isolated}")
    code, told, _ = intent("apply", page, "--scenario", STORM, "--out", one)
    assert (code, "2 intents in force" in told) == (0, True)
    text, plain = one.read_text(), STORM.read_text()
    assert text.startswith(plain)  # the rest stays as it is written
    held = yaml.safe_load(text)["policy"]
    assert held["rules"]["rules"][0]["intent"] == "machines-isolation"
    page.write_text("machines is patched within 1 h; 99 % available")
    assert intent("apply", page, "--scenario", one, "--out", two)[0] == 0
    listed = json.loads(intent("list", two, "--json")[1])
    terms = {x["name"]: x["objective"] for x in listed["agreements"][0]["terms"]}
    terms |= {x["name"]: x["objective"] for a in listed["agreements"] for x in a["terms"]}
    assert terms == {
        "machines-isolation": 0.0,
        "machines-patch": 3600.0,
        "machines-availability": 0.99,
    }
    left = intent("remove", two, "machines-isolation", "machines-availability", "--out", three)
    assert "1 intent left" in left[1]
    assert "machines-patch" in intent("list", three)[1]
    code, _, wrong = intent("remove", two, "machines-pach", "--out", tmp_path / "4.yaml")
    assert (code, "did you mean 'machines-patch'" in wrong) == (2, True)
    assert not (tmp_path / "4.yaml").exists()
    assert parse_scenario(plain, "x.yaml").name == "signalling-storm"


def test_a_file_that_is_there_is_never_overwritten(city: Path) -> None:
    before = city.read_text()
    code, _, wrong = intent("apply", city, "--out", city)
    assert (code, city.read_text()) == (2, before)
    assert "is there already" in wrong
    assert intent("apply", city, "--out", city.parent / "no" / "x.yaml")[0] == 2


def test_every_form_comes_to_the_same_plan(city: Path) -> None:
    plan = intent("convert", city, "--to", "plan")[1]
    for form, ending in (("yaml", "yaml"), ("text", "txt"), ("tmf921", "json")):
        folder = city.parent / form
        folder.mkdir()
        other = folder / f"city.{ending}"
        other.write_text(intent("convert", city, "--to", form)[1])
        assert intent("convert", other, "--to", "plan")[1] == plan
    code, told, wrong = intent("convert", city, "--to", "ssla")
    assert (code, "<kpiName>PacketSourceCompliance</kpiName>" in told) == (0, True)
    assert wrong == "left out: servers-to-cameras comes to rules alone\n"


def test_an_agreement_in_xml_is_checked_too(tmp_path: Path) -> None:
    file = tmp_path / "f.xml"
    file.write_text(FIGURE_3)
    code, told, wrong = intent("check", file, "--slice", "cameras")
    assert code == 0
    assert "foreign-sources" in told
    assert "left out: ServiceLevelAgreement" in wrong
    assert intent("check", file, "--slice", "cameras", "--strict")[0] == 2
    assert intent("convert", file, "--to", "text", "--slice", "x")[0] == 2


def test_ten_megabytes_of_intents_are_refused_at_the_door(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_text("slice cameras is encrypted.\n" * 370_000)
    code, _, wrong = intent("check", file)
    assert (code, "is larger than 1024 KiB" in wrong) == (2, True)


CITY = ROOT / "scenarios" / "isolated-slices.yaml"


def test_an_intent_that_contradicts_what_is_in_force_is_refused_with_both(tmp_path: Path) -> None:
    page, one, two, three = (tmp_path / each for each in ("x.txt", "1.yaml", "2.yaml", "3.yaml"))
    page.write_text("own: slice lights is isolated from every other slice")
    assert intent("apply", page, "--scenario", CITY, "--out", one)[0] == 0
    page.write_text("in: slice sensors may reach slice lights")
    for verb in (["check", page], ["apply", page, "--out", two]):
        code, told, wrong = intent(*verb, "--scenario", one)
        assert (code, told, two.exists()) == (2, "", False)
        assert "'packets from slice sensors to slice lights must pass' (in) contradicts" in wrong
        assert "'packets from outside slice lights must not reach it' (own)" in wrong
        assert len(wrong.splitlines()) == 1
    assert intent("remove", one, "own", "--out", two)[0] == 0
    assert intent("apply", page, "--scenario", two, "--out", three)[0] == 0
    # the other way round: a permission makes no rule, and is in force all the same
    page.write_text("own: slice lights is isolated from every other slice")
    code, _, wrong = intent("check", page, "--scenario", three)
    assert (code, "(in) contradicts" in wrong) == (2, True)
    page.write_text("in: slice lights may reach slice lights. own: lights is isolated")
    assert intent("check", page, "--scenario", three)[0] == 0, "an intent of that name is replaced"


def test_a_permission_that_a_rule_written_by_hand_denies_is_refused_with_a_packet(
    tmp_path: Path,
) -> None:
    page, one = tmp_path / "x.txt", tmp_path / "1.yaml"
    page.write_text("see: slice sensors may reach slice cameras")
    code, _, wrong = intent("apply", page, "--scenario", CITY, "--out", one)
    assert (code, one.exists()) == (2, False)
    assert "(see) contradicts rule isolate-cameras in force" in wrong
    page.write_text("see: slice cameras may reach slice cameras; sensors may reach lights")
    code, _, wrong = intent("apply", page, "--scenario", CITY, "--out", one)
    assert (code, wrong) == (0, ""), "one is permitted before the denial, the other is not denied"
    held = yaml.safe_load(one.read_text())["policy"]
    assert sorted(held["intents"].values()) == [
        "packets from slice cameras to slice cameras must pass",
        "packets from slice sensors to slice lights must pass",
    ]
    assert held["revoked"], "what was revoked stays so"
