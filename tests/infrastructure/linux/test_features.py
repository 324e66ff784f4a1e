"""What ``phalanx doctor`` finds, and says."""

from __future__ import annotations

import json
import os
import re

import pytest
from linux_needs import requires_root
from typer.testing import CliRunner

from phalanx.cli.main import app
from phalanx.infrastructure.linux import features
from phalanx.infrastructure.linux.features import Feature, missing, probe
from phalanx.infrastructure.linux.kernel import KernelError, namespaces
from phalanx.infrastructure.linux.vnf.nft import NftError

pytestmark = pytest.mark.linux


def by_name() -> dict[str, Feature]:
    found = probe()
    names = {feature.name: feature for feature in found}
    assert len(names) == len(found)
    return names


def not_of_runs() -> set[str]:
    """Return our namespaces, but for those of runs, which other tests may have."""
    return {name for name in namespaces.names() if re.match("phx-(?![0-9a-f]{6}-)", name)}


@requires_root
def test_what_is_tried_leaves_nothing() -> None:
    before = not_of_runs()
    found = by_name()
    assert found["network namespaces"].works is True
    assert all(feature.works is not None for feature in found.values())
    assert all(bool(feature.install) == (feature.works is False) for feature in found.values())
    assert not_of_runs() == before


def test_without_root_it_says_what_it_did_not_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = by_name()
    assert found["root"].works is False
    assert found["HTB"].works is None
    assert found["HTB"].found == "not tried: needs root"
    assert missing(tuple(found.values())) == ["root: no (run as root)"]


@requires_root
def test_where_namespaces_are_refused_nothing_in_them_is_said_to_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise KernelError("no namespace can be made: Operation not permitted")

    monkeypatch.setattr(namespaces, "aside", refuse)
    found = by_name()
    assert found["network namespaces"].works is False
    assert found["HTB"].works is None


@requires_root
def test_without_nftables_the_package_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking() -> None:
        raise NftError("libnftables.so.1 is missing")

    monkeypatch.setattr(features, "Nft", lacking)
    found = by_name()
    assert found["nftables"].install == "apt-get install libnftables1"
    assert found["nft dup"].works is None
    assert missing(tuple(found.values())) == ["nftables: no (apt-get install libnftables1)"]


def test_only_what_is_needed_is_missing() -> None:
    def feature(works: bool | None, needed: bool) -> Feature:
        return Feature("x", "no", "", "do y", works, needed)

    assert missing((feature(False, needed=False), feature(True, needed=True))) == []
    assert missing((feature(False, needed=True),)) == ["x: no (do y)"]
    assert len(missing((feature(None, needed=True),))) == 1


def test_the_verb_prints_a_table_or_json_and_its_code_says_whether_a_run_is_possible() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    answer = json.loads(result.stdout)
    assert answer["possible"] is (not answer["missing"])
    assert result.exit_code == (0 if answer["possible"] else 1)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == (0 if answer["possible"] else 1)
    for feature in answer["features"]:
        assert feature["name"] in result.stdout
