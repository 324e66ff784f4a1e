"""Verdicts on public captures equal those that MMT-Security gives (policies/mmt-check)."""

import json
import os
import re
from pathlib import Path

import pytest

from phalanx.analytics.packets import Capture
from phalanx.policy.mmt import load_mmt
from phalanx.policy.mmt_monitor import MmtMonitor

DATA = Path(os.environ.get("PHALANX_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
RULES, CHECK = DATA / "policies" / "mmt-rules", DATA / "policies" / "mmt-check"
LINE = re.compile(r'\d+,\d+,"",\d+,(\d+),"(\w+)","(\w+)","(.*?)",(\{.*\})')

pytestmark = pytest.mark.skipif(not CHECK.exists(), reason=f"no {CHECK} (PHALANX_DATA)")


def all_rules():
    return [rule for file in sorted(RULES.glob("*.xml")) for rule in load_mmt(file)]


def expected(file):
    """Return the verdicts of a file: rule, verdict, type, description, events."""
    verdicts = []
    for line in file.read_text().splitlines():
        if found := LINE.fullmatch(line):
            events = [
                (int(name[6:]), event["timestamp"], event["counter"], dict(event["attributes"]))
                for name, event in json.loads(found[5]).items()
            ]
            verdicts.append((int(found[1]), *found.groups()[1:4], events))
    return verdicts


def given(verdict):
    events = [(e.event, e.time_s, e.counter, e.attributes) for e in verdict.events]
    return verdict.rule, verdict.verdict, verdict.type, verdict.description, events


@pytest.mark.parametrize("file", sorted(CHECK.glob("*.csv")), ids=lambda file: file.stem)
def test_verdicts_are_those_expected(file):
    watch = MmtMonitor(all_rules())
    capture = Capture(str(file.with_suffix(".pcap")))
    found = []
    while packets := capture.read():
        for raw, time, length in packets:
            found += map(given, watch.packet(raw, time, length, capture.link_type))
    # Two of the 76 are of rules that bring code: 38 and 70.
    assert found == [verdict for verdict in expected(file) if verdict[0] not in watch.refused]


def test_of_the_public_rules_all_run_that_bring_no_code_but_one():
    rules = all_rules()
    refused = MmtMonitor(rules).refused
    assert len(rules) - len(refused) == 61
    others = {number: why for number, why in refused.items() if "brings code" not in why}
    assert list(others) == [78]
    assert others[78].startswith("no attribute int.packet_count; known protocols ")
