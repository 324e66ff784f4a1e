"""Attacks: which tool plays which source, and what it is told."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.infrastructure.linux.linux_needs import requires

from phalanx.domain.traffic import PROFILES, Source
from phalanx.infrastructure.linux.kernel import KernelError
from phalanx.infrastructure.linux.kernel.links import ip
from phalanx.infrastructure.linux.kernel.namespaces import Inside, prefix
from phalanx.testrange import workload
from phalanx.testrange.sampler import Arrivals

FLOOD = Path(workload.__file__).with_name("flood.c")
requires_cc = requires("cc")


def source(profile: str, demand_mb_s: float, end_s: float | None = 8.0) -> Source:
    return Source(
        "attackers-1",
        "attackers",
        "pop1",
        "10.3.0.1",
        "10.0.6.10",
        8000,
        PROFILES[profile],
        demand_mb_s,
        start_s=3.0,
        end_s=end_s,
    )


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


@pytest.mark.parametrize(
    ("profile", "demand_mb_s", "tool"),
    [
        ("syn-flood", 0.06, "hping3"),
        ("syn-flood", 0.12, "flood"),
        ("syn-flood-spoofed", 0.06, "hping3"),
        ("syn-flood-spoofed", 0.12, "flood"),
        ("udp-flood", 0.5, "hping3"),
        ("udp-flood-spoofed", 0.5, "hping3"),
        ("slow-http", 0.5, "slowhttptest"),
    ],
)
def test_hping3_plays_what_it_does_well(profile: str, demand_mb_s: float, tool: str) -> None:
    assert workload.tool(source(profile, demand_mb_s)) == tool


@pytest.mark.parametrize(
    "profile", [p.name for p in PROFILES.values() if p.malicious and (p.holds or not p.establishes)]
)
def test_every_attack_is_bounded_in_time(profile: str) -> None:
    words = workload.command(source(profile, 0.03), "/usr/sbin/tool")
    assert words[:4] == ["timeout", "--kill-after=1", "10.0", "/usr/sbin/tool"]


def test_an_attack_without_an_end_is_bounded_too() -> None:
    words = workload.command(source("udp-flood", 0.12, end_s=None), "hping3")
    assert float(words[2]) == workload.LONGEST_S + 5.0
    assert int(value(words, "--count")) == 100 * workload.LONGEST_S


def test_hping3_sends_as_many_octets_as_the_source_demands() -> None:
    words = workload.command(source("udp-flood", 0.12), "hping3")  # 100 packets a second
    assert "--udp" in words
    assert value(words, "--data") == "1158"  # and 42 of headers
    assert value(words, "--interval") == "u9900"  # it waits 100 µs longer than told
    assert value(words, "--count") == "500"
    assert value(words, "--spoof") == "10.3.0.1"
    assert words[-1] == "10.0.6.10"


def test_a_spoofed_source_uses_random_addresses() -> None:
    assert "--rand-source" in workload.command(source("syn-flood-spoofed", 0.03), "hping3")
    assert "random" in workload.command(source("syn-flood-spoofed", 0.3), "flood")


def test_slow_http_opens_the_connections_of_its_profile() -> None:
    words = workload.command(source("slow-http", 0.004), "slowhttptest")
    assert value(words, "-c") == str(PROFILES["slow-http"].connections)
    assert value(words, "-l") == "5"
    assert value(words, "-u") == "http://10.0.6.10:8000/"


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(KernelError, match="slowhttptest"):
        workload.programs([source("slow-http", 0.004)], tmp_path)
    with pytest.raises(KernelError, match="cc"):
        workload.programs([source("syn-flood", 0.3)], tmp_path)
    with pytest.raises(KernelError, match="curl"):
        workload.programs([source("http-flood", 0.3)], tmp_path)


@requires_cc
def test_the_sender_compiles_without_a_warning(tmp_path: Path) -> None:
    words = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / "flood"), str(FLOOD)]
    assert subprocess.run(words, check=False).returncode == 0


@requires_cc
@pytest.mark.linux
@pytest.mark.parametrize("spoofed", [False, True])
def test_the_sender_sends_what_is_due_and_ends(
    netns: Callable[[str], str], tmp_path: Path, spoofed: bool
) -> None:
    near, far = netns("near"), netns("far")
    _join(near, far)
    program = workload.programs([source("syn-flood", 0.3)], tmp_path)["flood"]
    origin = "random" if spoofed else "10.3.0.1"
    arrivals = Arrivals(far, ["10.3.0.1"])
    try:
        words = [program, origin, "10.0.6.10", "8000", "2000", "0.5"]
        subprocess.run([*prefix(near), *words], check=True, timeout=10)
        arrived = arrivals.submit().result()
    finally:
        arrivals.close()
    packets = (arrived.from_others if spoofed else arrived.from_users) / 54  # octets of a frame
    assert packets == pytest.approx(1000, abs=20)
    assert (arrived.from_users == 0) is spoofed
    assert (arrived.from_others == 0) is not spoofed


def _join(near: str, far: str) -> None:
    """Lay a cable from ``near`` (10.3.0.1) to ``far`` (10.0.6.10)."""
    with Inside(near) as inside:
        inside.call(ip, f"link add name a type veth peer name b netns {far}")
        inside.call(ip, "addr add 10.3.0.1/8 dev a", "link set dev a up")
    with Inside(far) as inside:
        inside.call(ip, "addr add 10.0.6.10/8 dev b", "link set dev b up")


def test_a_flood_of_requests_makes_a_connection_for_each() -> None:
    attack = source("http-flood", 0.3)  # 750 packets a second, 8 % of them requests
    assert workload.tool(attack) == "curl"
    words = workload.command(attack, "curl")
    assert value(words, "--rate") == "60/s"
    assert value(words, "--interface") == "10.3.0.1"
    assert value(words, "-H") == "Connection:close"
    assert words[-1] == "http://10.0.6.10:8000/?[1-300]"
