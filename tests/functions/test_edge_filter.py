"""What an edge filter drops of what it saw enter."""

import pytest

from phalanx.analytics.detectors import UDP_FLOOD, Finding
from phalanx.domain.actions import FlowRecords, FlowStats
from phalanx.domain.predicates import EntryScreened
from phalanx.functions.edge_filter import _rules

SERVER = "10.0.0.10"


@pytest.mark.parametrize(("over_udp", "dropped"), [(False, [None]), (True, [])])
def test_not_all_udp_is_dropped_if_the_target_answers_others_over_it(over_udp, dropped):
    """Its users got no answer in this look, as everything is full of forged UDP."""
    asking = FlowStats(
        "10.1.0.1", SERVER, 53, "udp", packets=20, octets=2000, syn=0, established=0, replies=0
    )
    forged = [Finding(UDP_FLOOD, SERVER, None, 1.0, "forged", {}, spoofed=True)]
    records = FlowRecords((asking,), 1.0)
    screened = EntryScreened(SERVER, "pop1")
    rules = _rules(screened, [], (), forged, [], records, over_udp=over_udp)
    assert [rule.match.port for rule in rules] == dropped
