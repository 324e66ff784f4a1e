"""Every scenario file that is not usable is refused with one line that says why."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.mutations import mutated
from tests.nightly import examples
from tests.one_line import taken_or_refused

from phalanx.domain.errors import ScenarioError
from phalanx.runtime.guarding import load_site
from phalanx.runtime.loading import MAX_BYTES, load_scenario, parse_scenario
from phalanx.runtime.scenario import MONITORS
from phalanx.runtime.system import System, run_scenario

FOLDER = Path(__file__).parents[2] / "scenarios"
GOOD = (FOLDER / "ddos-resilience.yaml").read_text(encoding="utf-8")
TREE: dict[str, Any] = yaml.safe_load(GOOD)
FEW = settings(max_examples=examples(24), suppress_health_check=list(HealthCheck))


def refusal(text: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(text, "f.yaml")
    line = str(caught.value)
    assert line.startswith("f.yaml: ")
    assert line.isprintable()
    assert len(line) < 500
    return line


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return refusal(GOOD.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "field", "why"),
    [
        ("cores: 6,", "", "network.pops[0].cores", "missing; expected a number of cores"),
        ("cores: 6,", "cores: -6,", "network.pops[0].cores", "-6 is not allowed"),
        ("cores: 6,", "cores: 8 MB,", "network.pops[0].cores", "without a unit"),
        ("cores: 6,", "cores: 1e10,", "network.pops[0].cores", "from 0 to 1e9"),
        ("cores: 6,", "cores: true,", "network.pops[0].cores", "true is not allowed"),
        ("cores: 6,", "cores: ,", "network.pops[0].cores", "nothing is not allowed"),
        ("cores: 6,", "core: 6,", "network.pops[0].core", "did you mean 'cores'?"),
        ("mb_s: 10,", "mb_s: 500MB,", "network.links[0].bandwidth_mb_s", "in MB/s above 0"),
        ("duration_s: 700", "duration_s: .nan", "duration_s", "a finite number"),
        ("duration_s: 700", "duration_s: -.inf", "duration_s", "a finite number"),
        ("duration_s: 700", "duration_s: 1e999", "duration_s", "a finite number"),
        ("duration_s: 700", "duration_s: 0", "duration_s", "above 0 to 604800"),
        ("duration_s: 700", "duration_s: &x 700", "duration_s", "anchors and aliases"),
        ("duration_s: 700", "duration_s: !!float 7", "duration_s", "tags"),
        ("seed: 1", "seed: 1.5", "seed", "a whole number"),
        ("seed: 1", "seed: 1\nseed: 2", "seed", "given twice; the first is on line 12"),
        ("name: pop2,", "name: pop1,", "network.pops[1].name", "already that of network.pops[0]"),
        ("name: pop2,", "name: run,", "network.pops[1].name", "reserved"),
        ("name: pop2,", "name: 'a>b',", "network.pops[1].name", "a name of letters"),
        ("repository: pop5", "repository: pop9", "network.repository", "there is no PoP 'pop9'"),
        ("[pop1, pop5]", "[pop1, pop9]", "network.links[0].between", "there is no PoP 'pop9'"),
        ("[pop1, pop5]", "[pop1]", "network.links[0].between", "a list of 2"),
        ("[pop1, pop5]", "[pop1, pop1]", "network.links[0].between", "with itself"),
        ("[pop1, pop5]", "[pop2, pop1]", "network.links[1].between", "already that of"),
        ("at: pop6, address: 10.0.6.20", "at: x, address: 10.0.6.20", "hosts[1].at", "no PoP 'x'"),
        ("10.0.6.20", "10.0.6.10", "hosts[1].address", "already that of hosts[0]"),
        ("10.0.6.20", "10.0.6.256", "hosts[1].address", "an address of a host"),
        ("10.0.6.20", "fe80::20", "hosts[1].address", "an address of a host"),
        ("10.0.6.20", "ff02::20", "hosts[1].address", "an address of a host"),
        ("10.0.6.20", "2001:db8::0:20", "hosts[1].address", "as 2001:db8::20"),
        ("10.0.6.20", "2001:db8::1::20", "hosts[1].address", "is no address"),
        ("10.0.6.20", "2001:db8::20", "hosts[1].address", "sources of traffic have IPv4"),
        ("10.0.6.20", "10.5.6.20", "hosts[1].address", "belongs to the sources of traffic[4]"),
        ("name: office,", "name: pop3,", "hosts[1].name", "a PoP already"),
        ("name: office,", "name: office, calls: {x: 0.5},", "hosts[1].calls.x", "no host 'x'"),
        (
            "name: office,",
            "name: office, calls: {server: 2},",
            "hosts[1].calls.server",
            "2 is not allowed",
        ),
        ("name: office,", "name: office, calls: {office: 1},", "hosts", "office calls office"),
        ("target: server", "target: servr", "traffic[0].target", "did you mean 'server'?"),
        ("[8000, 8080]", "[8000, 0]", "traffic[4].port[1]", "from 1 to 65535"),
        ("[8000, 8080]", "http", "traffic[4].port", "a whole number from 1 to 65535 or a list"),
        (
            "profile: video",
            "profile: tv",
            "traffic[0].profile",
            "one of ack-flood, ack-flood-spoofed",
        ),
        ("end_s: 420", "end_s: 20", "traffic[4].end_s", "is not after the last start"),
        ("end_s: 420", "shape: {on_s: 9}", "traffic[4].shape", "on_s and off_s belong together"),
        ("end_s: 420", "shape: {on_s: 1, off_s: 0.01}", "traffic[4].shape", "at least 0.1 s"),
        ("end_s: 350", "adapt: quiet", "traffic[0].adapt", "is what attackers do"),
        ("target: office", "target: [office, x]", "traffic[3].target[1]", "no host 'x'"),
        ("target: office", "target: [office, office]", "traffic[3].target", "names a host twice"),
        ("count: 42", "count: 0", "traffic[1].count", "from 1 to 10000"),
        ("link: pop6>server", "link: pop5>server", "monitors[0].link", "no link 'pop5>server'"),
        ("r, at: pop6, thr", "r, at: pop1, thr", "monitors[0].at", "pop6 is expected"),
        (
            "threshold_mb_s: 4.5}",
            "threshold_mb_s: 4.5, service: true}",
            "functions",
            "service-analyst",
        ),
        ("cost: 0.2", "cost: 0.3", "goals.FlowRecord.preferences", "sum to 1.1"),
        ("cost: 0.2", "cost: 2", "goals.FlowRecord.preferences.cost", "from 0 to 1"),
        ("IpRateLimited:", "IpRatLimited:", "goals.IpRatLimited", "'IpRateLimited'?"),
        ("IpRateLimited:", "ipRateLimited:", "goals", "a goal such as LinkRateLimited"),
        ("parts: 2", "parts2: 2", "parameters", "small letters"),
        ("parts: 2", "parts: two", "parameters.parts", "a number"),
        ("lease_s: 15", "lease_s: 1", "timing.lease_s", "not above auction_deadline_s"),
        ("lease_s: 15", "silence_s: 1", "timing.silence_s", "not above heartbeat_s"),
        (
            "duration_s: 700",
            "duration_s: 700\ntrust: {verifiers: 10}",
            "trust.verifiers",
            "a majority of 10 is 6, and an agent has 5 others to verify it",
        ),
    ],
)
def test_the_field_and_the_reason_are_named(old: str, new: str, field: str, why: str) -> None:
    line = changed(old, new)
    assert line.startswith(f"f.yaml: {field} (line ")
    assert why in line


@pytest.mark.parametrize(
    ("added", "field", "why"),
    [
        ("faults: [{at_s: 1, kind: crash, agent: pop7}]", "agent", "there is no agent 'pop7'"),
        ("faults: [{at_s: 1, kind: crash}]", "agent", "missing; crash needs it"),
        ("faults: [{at_s: 1, kind: crash, agent: pop1, share: 1}]", "share", "no meaning"),
        ("faults: [{at_s: 1, kind: crash, agent: pop1, memory: true}]", "memory", "for_s"),
        ("faults: [{at_s: 1, kind: drain}]", "agent", "missing; drain needs it"),
        ("faults: [{at_s: 1, kind: drain, agent: pop1, for_s: 3}]", "for_s", "no meaning"),
        ("faults: [{at_s: 1, kind: drain, agent: pop1, memory: true}]", "memory", "no meaning"),
        ("faults: [{at_s: 1, kind: link-down, link: [pop1, pop3]}]", "link", "no link between"),
        ("faults: [{at_s: 1, kind: lose, share: 1.5}]", "share", "from 0 to 1"),
        ("faults: [{at_s: 1, kind: lose}]", "share", "missing"),
        ("faults: [{at_s: 1, kind: lose, share: 1, memory: true}]", "memory", "no meaning"),
        ("faults: [{at_s: 1, kind: restart, agent: pop1, for_s: 3}]", "for_s", "no meaning"),
        ("faults: [{at_s: 1, kind: restart, agent: pop1, memory: yes please}]", "memory", "true"),
        ("faults: [{at_s: -1, kind: repository-away}]", "at_s", "-1 is not allowed"),
        ("faults: [{at_s: 1, kind: explode}]", "kind", "one of blind, broker-down"),
        ("faults: [{at_s: 1, kind: partition}]", "groups", "missing; partition needs it"),
        ("faults: [{at_s: 1, kind: partition, groups: []}]", "groups", "at least 1"),
        ("faults: [{at_s: 1, kind: partition, groups: [[pop7]]}]", "groups", "no agent 'pop7'"),
        (
            "faults: [{at_s: 1, kind: partition, groups: [[pop1], [pop1]]}]",
            "groups[1]",
            "already that of",
        ),
        ("faults: [{at_s: 1, kind: degrade, link: [pop1, pop2]}]", "share", "missing"),
        ("faults: [{at_s: 1, kind: degrade, link: [pop1, pop2], share: 0}]", "share", "down"),
        ("faults: [{at_s: 1, kind: degrade, share: 1}]", "link", "missing"),
        ("faults: [{at_s: 1, kind: drift, agent: pop1}]", "rate", "needs a rate"),
        ("faults: [{at_s: 1, kind: drift, agent: pop1, rate: 0}]", "rate", "from 0.1 to 10"),
        ("faults: [{at_s: 1, kind: drift, agent: pop1, jump_s: -1}]", "jump_s", "-1 is not"),
        ("faults: [{at_s: 1, kind: full-disk}]", "agent", "missing"),
        ("faults: [{at_s: 1, kind: full-disk, agent: pop1, delay_s: 3}]", "delay_s", "no meaning"),
        ("faults: [{at_s: 1, kind: crash, agent: pop1, loss: 0.5}]", "loss", "no meaning"),
        (
            "updates: [{at_s: 1, function: classifer, version: '2'}]",
            "function",
            "did you mean 'classifier'?",
        ),
        ("agents: [{name: pop1, scope: slice}]", "name", "taken"),
        ("agents: [{name: run, scope: slice}]", "name", "reserved"),
        ("agents: [{name: a, scope: slice, pop: popp1}]", "pop", "did you mean 'pop1'?"),
        ("agents: [{name: a}]", "pop", "missing"),
    ],
)
def test_faults_updates_and_agents_are_checked(added: str, field: str, why: str) -> None:
    line = refusal(f"{GOOD}\n{added}\n")
    assert f" {added.partition(':')[0]}[0].{field} " in line
    assert why in line


def test_the_published_strategy_needs_a_link_monitor() -> None:
    line = refusal(GOOD.replace("link-monitor: {", "link-watcher: {") + "\nstrategy: published\n")
    assert " functions" in line
    assert "link-monitor is missing" in line


def test_two_agents_of_one_name_are_refused() -> None:
    line = refusal(GOOD + "\nagents: [{name: a, scope: slice}, {name: a, scope: slice}]\n")
    assert "agents[1].name" in line


def test_good_faults_and_updates_are_taken() -> None:
    scenario = parse_scenario(
        GOOD
        + """
faults:
  - {at_s: 1, kind: crash, agent: pop1, for_s: 5, memory: true}
  - {at_s: 5, kind: restart, agent: pop1, memory: true}
  - {at_s: 9, kind: drain, agent: pop1}
  - {at_s: 1, kind: link-down, link: [pop5, pop1]}
  - {at_s: 1, kind: delay, share: 0.5, agent: pop2, delay_s: 3}
  - {at_s: 1, kind: repository-away}
updates: [{at_s: 9, function: classifier, version: 2.0-rc1}]
""",
        "f.yaml",
    )
    assert [fault.memory for fault in scenario.faults] == [True, True, *[None] * 4]
    assert scenario.updates[0].version == "2.0-rc1"


def test_pops_that_no_path_leads_to_are_refused() -> None:
    text = GOOD.replace("[pop5, pop6]", "[pop5, pop4]").replace("[pop4, pop6]", "[pop2, pop4]")
    assert "no path leads from pop1 to pop6" in refusal(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("a: [1\nb: 2", "line 2: no YAML"),
        ("a: b: c", "line 1: no YAML"),
        ("- 1", "a list of 1 is not allowed; expected a mapping with name"),
        ("hello", "'hello' is not allowed"),
        ("a: 1\n---\nb: 2", "a second document"),
        ("a: &x [1]\nb: [*x, *x]", "anchors and aliases"),
        ("a: &x [*x]", "anchors and aliases"),
        ("<<: {a: 1}", "unknown field"),
        ("? [a]\n: 1", "a key must be a plain word"),
        ("a: !!python/object/apply:os.system [ls]", "tags (!) are not allowed"),
        ("[" * 100_000, "nested deeper than 32"),
        ("a: \t- b: \x01", "no YAML"),
        ("1: 2", "1 (line 1): unknown field"),
    ],
)
def test_what_is_no_plain_yaml_mapping_is_refused(text: str, why: str) -> None:
    assert why in refusal(text)


def test_yaml_words_mean_what_they_say() -> None:
    text = GOOD.replace("name: office", "name: yes").replace("target: office", "target: yes")
    scenario = parse_scenario(text.replace("seed: 1", "seed: 010"), "f.yaml")
    assert scenario.hosts[1].name == "yes"
    assert scenario.seed == 10


def file_refusal(path: Path) -> str:
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    return line


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    assert "No such file" in file_refusal(tmp_path / "missing.yaml")
    assert "directory" in file_refusal(tmp_path)
    for name, content, why in (
        ("empty", b"", "empty"),
        ("blank", b" \n\t\n", "empty"),
        ("binary", b"\x7fELF\x02\x01\xff\xfe", "no UTF-8"),
        ("zero", b"name: a\0b", "byte 7 is zero"),
        ("large", b"#" * (MAX_BYTES + 1), "larger than 1024 KiB"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        assert why in file_refusal(path)


def test_a_byte_order_mark_is_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_scenario(path).name == "ddos-resilience"


def only_scenario_errors(text: str) -> None:
    taken_or_refused(ScenarioError, lambda: parse_scenario(text, "f.yaml"))


@FEW
@given(st.binary(max_size=300))
def test_random_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(content)
    with pytest.raises(ScenarioError):
        load_scenario(path)


@FEW
@given(st.text(max_size=200))
def test_random_text(text: str) -> None:
    only_scenario_errors(text)


@FEW
@given(mutated(TREE))
def test_values_changed_anywhere(tree: Any) -> None:
    only_scenario_errors(json.dumps(tree))


@FEW
@given(st.integers(0, len(GOOD)), st.integers(0, 30), st.text(max_size=5))
def test_good_text_damaged_anywhere(at: int, gone: int, put: str) -> None:
    only_scenario_errors(GOOD[:at] + put + GOOD[at + gone :])


# -- files of a guarded site ------------------------------------------------------------------


SITE = """
pop: gate
cores: 2
memory_gb: 1
disk_gb: 1
guards:
  - {name: web, address: 10.0.0.2, interface: lan0, bandwidth_mb_s: 100, threshold_mb_s: 60}
  - {name: mail, address: 10.0.0.3, interface: lan0, bandwidth_mb_s: 10, threshold_mb_s: 5}
"""


def site(folder, text):
    path = folder / "site.yaml"
    path.write_text(text)
    return load_site(path)


def test_defaults_suit_the_smallest_guarded_host(tmp_path):
    scenario = site(tmp_path, SITE).to_scenario(60)
    assert scenario.parameters["link_rate_mb_s"] == 5
    assert scenario.parameters["monitor_interval_s"] == 0.1
    assert [monitor.link for monitor in scenario.monitors] == ["gate>web", "gate>mail"]
    network = scenario.to_network()
    assert [pop.name for pop in network.pops] == ["gate"]
    assert {host.name: host.bandwidth_mb_s for host in network.hosts} == {"web": 100, "mail": 10}


def test_all_functions_fit_together_by_default(tmp_path):
    made = site(tmp_path, SITE)
    catalogue = System(made.to_scenario(60)).catalogue.vnfds
    needed = [catalogue[name].requires for name in made.functions if name in catalogue]
    needed += [catalogue[MONITORS["service"]].requires] * (len(made.guards) - 1)
    assert sum(each.cores for each in needed) <= made.cores
    assert sum(each.memory_gb for each in needed) <= made.memory_gb


def test_what_the_file_says_wins(tmp_path):
    text = SITE + "parameters: {link_rate_mb_s: 7}\n"
    parameters = site(tmp_path, text).to_scenario(60).parameters
    assert parameters["link_rate_mb_s"] == 7
    assert parameters["ip_rate_mb_s"] == 5


def test_limits_of_a_guarded_host_are_in_force_from_the_start(tmp_path):
    limits = "limits: [{protocol: udp, port: 53, rate_mb_s: 0.5}, {protocol: tcp, rate_mb_s: 2}]"
    text = SITE.replace("name: web", f"{limits}, name: web")
    events = run_scenario(site(tmp_path, text).to_scenario(5)).events
    applied = [event for event in events if event.kind == "measure.applied"]
    assert sorted(event.data["rate_mb_s"] for event in applied) == [0.5, 2]
    assert all(event.time < 2 for event in applied)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("name: mail", "name: web", "two have the name web"),
        ("10.0.0.3", "10.0.0.2", "two have the address 10.0.0.2"),
        ("interface: lan0", "interface: ../lan0", "interface"),
        ("cores: 2", "core: 2", "core"),
        ("name: web", "limits: [{port: 53, rate_mb_s: 1}], name: web", "needs a protocol"),
        (
            "name: web",
            "limits: [{protocol: udp, port: 53, rate_mb_s: 1}, {protocol: udp, rate_mb_s: 2}], "
            "name: web",
            "limits: cannot be enforced: web.limits.0, which goes first, is about a part",
        ),
    ],
)
def test_refusals_say_where_and_why(tmp_path, old, new, says):
    with pytest.raises(ScenarioError, match=re.escape(says)) as caught:
        site(tmp_path, SITE.replace(old, new))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "field", "why"),
    [
        ("load: 0.7", "load: 0.8", "forecast.under_anomaly.default", "sum to 1.1"),
        ("load: 0.7", "lode: 0.7", "forecast.under_anomaly.default.terms", "'load'"),
        ("    default: {time: 0.1", "    Replicate: {time: 0.1", "forecast.under_anomaly", "goal"),
        ("every_s: 5", "every_s: 1", "forecast.every_s", "5"),
        ("ahead: 4 ", "ahead: 40 ", "forecast.ahead", "20"),
        ("idle_w: 60", "idle_w: -60", "network.pops[0].idle_w", "0"),
    ],
)
def test_what_is_wrong_with_forecasts_is_named(old: str, new: str, field: str, why: str) -> None:
    text = (FOLDER / "forecast-placement.yaml").read_text(encoding="utf-8")
    assert old in text
    line = refusal(text.replace(old, new, 1))
    assert line.startswith(f"f.yaml: {field}")
    assert why in line
