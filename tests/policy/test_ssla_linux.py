"""From a page of intents to rules on real packets: broken behind the agents' backs, found,
explained and repaired."""

from __future__ import annotations

import json
import re
import subprocess
import time
from typing import NamedTuple

import pytest

from phalanx.domain.events import Event
from phalanx.reporting.event_text import describe_whole
from phalanx.store.jsonl import read_jsonl
from tests.policy.pages import applied
from tests.system.linux_runs import Process, lacking, traces

pytest.importorskip("vici", reason="not installed: vici (pip install 'phalanx[linux]')")

pytestmark = [pytest.mark.linux, pytest.mark.xdist_group("linux")]

RECORDER = "10.0.3.10"
ROUTES = "19999"
"""Table of the routes by which traffic is led encrypted."""


@pytest.fixture(scope="module", autouse=True)
def able() -> None:
    reason = lacking("nginx", "ip", "nft", "tcpdump")
    if reason:
        pytest.skip(f"no runs on real packets here: {reason}")


def inside(run: str, pop: str, *command: str) -> str:
    words = ["ip", "netns", "exec", f"phx-{run}-{pop}", *command]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def remove_isolation(run: str) -> None:
    """Empty the tables of rules at the recorder's PoP with nft, as another program could."""
    listed = json.loads(inside(run, "pop3", "nft", "-j", "list", "tables"))["nftables"]
    names = [each["table"]["name"] for each in listed if "table" in each]
    for name in names:
        if inside(run, "pop3", "nft", "list", "tables").count(f"netdev {name}\n"):
            rules = inside(run, "pop3", "nft", "list", "table", "netdev", name)
            if "10.1.0.0/16" in rules:
                inside(run, "pop3", "nft", "flush", "table", "netdev", name)


def remove_encryption(run: str) -> None:
    """Take away the route into the encrypted overlay at the cameras' PoP."""
    inside(run, "pop1", "ip", "route", "del", f"{RECORDER}/32", "table", ROUTES)


def watch(run: str, seconds: float) -> subprocess.Popen[str]:
    """Record what of the cameras' packets for the recorder is readable on the link to its PoP."""
    listed = json.loads(inside(run, "pop3", "ip", "-j", "route", "get", underlay(run, "pop2")))
    command = ["timeout", str(seconds), "tcpdump", "-n", "-l", "-i", listed[0]["dev"]]
    words = ["ip", "netns", "exec", f"phx-{run}-pop3", *command, "src", "net", "10.1.0.0/16"]
    words += ["and", "dst", "host", RECORDER]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def readable(tcpdump: subprocess.Popen[str]) -> int:
    return tcpdump.communicate()[0].count(f"> {RECORDER}")


def underlay(run: str, pop: str) -> str:
    addresses = json.loads(inside(run, pop, "ip", "-j", "-4", "addr", "show", "dev", "lo"))
    found = [a["local"] for device in addresses for a in device["addr_info"]]
    return next(a for a in found if not a.startswith(("127.", "10.253.")))


class Broken(NamedTuple):
    """A run in which promises were broken, and when and what could be read on the wire."""

    events: list[Event]
    at_s: dict[str, float]
    """By the run's clock, by what was broken."""
    clear: dict[str, int]

    def after(self, what: str, kind: str, **data: object) -> Event:
        """Return the first event of a kind and such data after something was broken."""
        later = (e for e in self.events if e.kind == kind and e.time >= self.at_s[what])
        return next(e for e in later if data.items() <= e.data.items())


def await_line(process: Process, pattern: str, since: float) -> float:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for when, text in list(process.lines):
            if when >= since and re.search(pattern, text):
                return when
        time.sleep(0.02)
    raise AssertionError(f"no line {pattern!r}: {process.text()}")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Broken:
    """Run it; break the isolation, then the encryption, behind the agents' backs."""
    folder, at, clear = tmp_path_factory.mktemp("ssla"), {}, {}
    log = folder / "log.jsonl"
    with Process(str(applied(folder)), "--log", str(log)) as process:
        run = process.run()
        process.line("users are ready")
        shown = process.line("puts rule cameras-isolation/1 in force")[0]
        await_line(process, "encrypted.* is in force at pop3", 0)
        time.sleep(2)
        clear["before"] = readable(watch(run, 2))
        for name, breach in (("isolation", remove_isolation), ("encryption", remove_encryption)):
            tcpdump = watch(run, 4)
            time.sleep(1)  # until tcpdump has begun
            at[name] = time.monotonic()
            breach(run)
            await_line(process, f"recorder/cameras-{name} kept again", at[name])
            clear[name] = readable(tcpdump)
        clear["after"] = readable(watch(run, 2))
        assert process.wait() == 0, process.text()
    assert traces(run) == []
    events = read_jsonl(log)
    first = next(e for e in events if e.kind == "policy.enforced")
    return Broken(events, {k: v - shown + first.time for k, v in at.items()}, clear)


def test_a_foreign_packet_is_found_explained_and_kept_out(broken: Broken) -> None:
    began = broken.at_s["isolation"]
    breach = broken.after("isolation", "ssla.breached", term="cameras-isolation")
    again = broken.after("isolation", "policy.enforced", rule="cameras-isolation/1")
    over = broken.after("isolation", "ssla.restored", term="cameras-isolation")
    found, repaired = breach.time - began, again.time - began
    print(f"\nisolation: found after {found:.2f} s, repaired after {repaired:.2f} s")
    print(describe_whole(breach))
    assert breach.data["intent"] == "cameras-isolation"
    assert "packets of 10.2.0." in breach.data["evidence"]
    assert "cameras-isolation/1 denies them, and does not stop them" in breach.data["evidence"]
    assert (over.data["remedy"], over.data["by"]) == ("reject", "pop3")
    assert repaired < 5
    # What was measured follows from the rule that was in force.
    known = {event.id: event for event in broken.events}
    measured = known[breach.cause or ""]
    assert measured.kind == "ssla.measured"
    assert known[measured.cause or ""].data["belief"].startswith("ruleEnforced(cameras, nvr")


def test_a_packet_in_the_clear_is_found_and_led_encrypted_again(broken: Broken) -> None:
    began = broken.at_s["encryption"]
    breach = broken.after("encryption", "ssla.breached", term="cameras-encryption")
    again = broken.after("encryption", "measure.applied", verdict="steer", encrypted=1.0)
    over = broken.after("encryption", "ssla.restored", term="cameras-encryption")
    found, repaired = breach.time - began, again.time - began
    print(f"\nencryption: found after {found:.2f} s, repaired after {repaired:.2f} s")
    print(describe_whole(breach))
    assert broken.clear["before"] == broken.clear["isolation"] == broken.clear["after"] == 0
    assert broken.clear["encryption"] > 0  # tcpdump sees them, too
    assert "packets of 10.1.0." in breach.data["evidence"]
    assert "encryption is in force no more" in breach.data["evidence"]
    assert (over.data["remedy"], over.data["by"]) == ("encrypt", "pop3")
    assert repaired < 5
