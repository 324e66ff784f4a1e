"""A site whose measurer samples which function calls which, in agents that do their work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.nightly import long_processes
from tests.system.process_lab import processes
from tests.system.process_plan import POPS
from tests.system.test_trust_domain import attesting

pytestmark = [
    *processes(),
    pytest.mark.skipif(os.geteuid() != 0, reason="measuring other processes needs root"),
]


@long_processes
def test_honest_agents_are_verified_by_their_calls_too(tmp_path: Path) -> None:
    """Little is learned, so much is told that never was: it accuses nobody."""
    with attesting(tmp_path, "", "--control-flow", "5") as site:
        site.rounds(1)
        # A look that came too late on a busy machine is no evidence, and no accusation.
        whole = dict.fromkeys(POPS, "trusted")
        site.until(lambda: site.standings() == whole, "all are trusted")
        found = [h.event.data for h in site.of("attestation.result")]
        tiers = [each["tier"] for each in found]
        assert "contraindicated" not in tiers
        assert 2 * tiers.count("none") < len(tiers), found
        said = [text for each in found for text in each["deviations"]]
        assert not [text for text in said if text.startswith("code-unlisted")]
