"""Site files: what they may say, and the network that they come to."""

import re

import pytest

from phalanx.domain.errors import ScenarioError
from phalanx.runtime.site import load_site

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
    booked = [made.functions[name] for name in made.functions]
    assert sum(function.cores for function in booked) <= made.cores
    assert sum(function.memory_gb for function in booked) <= made.memory_gb


def test_what_the_file_says_wins(tmp_path):
    text = SITE + "parameters: {link_rate_mb_s: 7}\n"
    parameters = site(tmp_path, text).to_scenario(60).parameters
    assert parameters["link_rate_mb_s"] == 7
    assert parameters["ip_rate_mb_s"] == 5


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("name: mail", "name: web", "two have the name web"),
        ("10.0.0.3", "10.0.0.2", "two have the address 10.0.0.2"),
        ("interface: lan0", "interface: ../lan0", "interface"),
        ("cores: 2", "core: 2", "core"),
    ],
)
def test_refusals_say_where_and_why(tmp_path, old, new, says):
    with pytest.raises(ScenarioError, match=re.escape(says)) as caught:
        site(tmp_path, SITE.replace(old, new))
    assert "\n" not in str(caught.value)
