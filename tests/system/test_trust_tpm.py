"""A site whose machine has a TPM: it is learned with its agents, and vouches for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.system.process_lab import processes
from tests.system.process_plan import POPS
from tests.system.test_trust_domain import attesting
from tests.trust.tpm_lab import NEEDS_TPM, software_tpm

pytestmark = [
    *processes(NEEDS_TPM),
    pytest.mark.skipif(os.geteuid() != 0, reason="measuring other processes needs root"),
]


def test_agents_are_verified_by_quotes_and_refused_once_their_machine_is_not_as_it_was_booted(
    tmp_path: Path,
) -> None:
    with software_tpm() as tpm, attesting(tmp_path, f'tpm = "{tpm.tcti}"\n') as site:
        assert site.standings() == dict.fromkeys(POPS, "trusted")
        first = site.of("attestation.result", round=0, tier="affirming")
        assert {h.event.data["attester"] for h in first} == {*POPS}
        assert {h.event.data["root"] for h in first} == {"tpm"}
        before = len(site.heard)
        tpm.extend(4)
        site.until(
            lambda: site.of("trust.changed", before, agent=None, standing="quarantined"),
            "an agent is expelled",
        )
        found = site.of("attestation.result", before, tier="contraindicated")
        assert all(h.event.data["deviations"][0].startswith("boot-other") for h in found)
