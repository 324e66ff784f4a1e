"""The commands of an operator, on a domain of real processes under attack."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from click.testing import Result
from typer.testing import CliRunner

from phalanx.cli.main import app
from phalanx.identity.names import Role
from phalanx.runtime.processes.testbed import PHALANX
from tests.system.interrupts import heed_ctrl_c
from tests.system.process_checks import caught_up
from tests.system.process_lab import Lab, processes
from tests.system.process_plan import POPS, plan

pytestmark = processes()

EXPORTS = find_spec("prometheus_client") is not None
METRICS: dict[str, str] = {}
"""Port of loopback at which Prometheus would scrape each agent."""
OTHERS = (("spare", Role.AGENT), ("eye", Role.OBSERVER))


class Follower:
    """A command that goes on until Ctrl-C, and what it has said."""

    def __init__(self, lab: Lab, folder: Path, *words: str) -> None:
        self._lab = lab
        self._said = folder / f"{words[0]}.txt"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [*PHALANX, *words, "--domain", str(lab.testbed.domain.folder)],
                stdout=said,
                stderr=subprocess.STDOUT,
                preexec_fn=heed_ctrl_c,  # noqa: PLW1509  # nothing here has threads
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def until(self, pattern: str) -> None:
        self._lab.until(lambda: re.search(pattern, self.said), f"{pattern}\n{self.said}")

    def end(self) -> int:
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(60)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab"), document=plan(), others=OTHERS) as made:
        for pop in made.pops:
            with socket.create_server(("127.0.0.1", 0)) as free:
                METRICS[pop] = str(free.getsockname()[1])
            made.start(pop, settings={"metrics": METRICS[pop]} if EXPORTS else {})
        made.until(lambda: made.serving(*made.pops), "all agents serve")
        made.start_network()
        made.until(made.settled, "the attack is held off")
        yield made


def command(lab: Lab, *words: str, by: str | None = None, code: int = 0) -> Result:
    """Run a command of the operator, or of another identity, to its end."""
    who = ["--domain", str(lab.testbed.domain.folder)]
    if by is not None:
        who = ["--bus", str(lab.testbed.bus(by))]
    done = CliRunner(env={"COLUMNS": "120"}).invoke(app, [*words, *who])
    assert done.exit_code == code, done.output
    return done


def states(lab: Lab, *names: str, code: int = 0) -> dict[str, str]:
    report = json.loads(command(lab, "status", *names, "--json", code=code).stdout)
    return {row["agent"]: row["state"] for row in report["rows"]}


def events(lab: Lab, *words: str) -> list[dict[str, Any]]:
    done = command(lab, "logs", "--json", *words)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_status_says_who_is_there_and_that_all_is_well(lab: Lab) -> None:
    said = command(lab, "status").stdout
    assert [line.split()[0] for line in said.splitlines()[1:6]] == [*sorted(POPS), "network"]
    assert "all of 5 are unattested: nobody has checked their code yet" in said
    assert said.splitlines()[-1] == "well: 4 of 4 agents serving"
    assert states(lab, "south", "network") == {"south": "serving", "network": "serving"}
    assert command(lab, "status", "eats", code=2).stderr.startswith(
        "there is no 'eats' in the domain run; there are east, network, north, south, west"
    )


def test_logs_tell_what_happened_in_words_or_as_data(lab: Lab) -> None:
    told = command(lab, "logs", "south").stdout
    assert re.search(r"^\d\d:\d\d:\d\d south +awards linkRateLimited\(south>shop\) to", told, re.M)
    assert "believes overUsage" not in told
    assert "believes overUsage(south>shop)" in command(lab, "logs", "south", "--all").stdout
    bids = events(lab, "--kind", "auction.bid")
    assert {event["kind"] for event in bids} == {"auction.bid"}
    assert {e["kind"] for e in events(lab, "--kind", "auction")} > {"auction.bid"}
    assert all(abs(event["received"] - time.time()) < 600 for event in bids)
    assert "nothing to tell of nobody" in command(lab, "logs", "nobody").stderr
    assert events(lab, "--since", "0s") == []
    assert "no duration" in command(lab, "logs", "--since", "soon", code=2).stderr


def test_beliefs_and_inventory_are_those_of_the_agent(lab: Lab) -> None:
    holder = holder_of_a_limit(lab)
    assert "rate-limiter" in command(lab, "inventory", holder).stdout
    believed = json.loads(command(lab, "beliefs", "south", "--json").stdout)["beliefs"]
    assert all(re.match(r"\w+\(", belief["predicate"]) for belief in believed)
    assert "nothing that begins with x" in command(lab, "beliefs", "south", "x").stdout
    assert "there is no 'eats'" in command(lab, "beliefs", "eats", code=2).stderr


def test_measures_of_all_agents_are_shown_and_operators_alone_release_them(lab: Lab) -> None:
    shown = json.loads(command(lab, "measures", "--json").stdout)
    assert shown
    assert {each["agent"] for each in shown} <= {*POPS}
    assert all(0 < each["lease_left_s"] <= 15 for each in shown)
    assert shown[0]["id"] in command(lab, "measures", by="spare").stdout
    refused = command(lab, "release", shown[0]["id"], by="spare", code=2)
    assert "refused, no rule allows it" in refused.stderr
    told = command(lab, "release", shown[0]["id"]).stdout
    assert f"{shown[0]['agent']} takes it back" in told
    lab.until(lambda: lab.of("operator.acted", action="release"), "the log says who asked for it")
    assert "no measure 'x' is in force" in command(lab, "release", "x", code=2).stderr


@pytest.mark.skipif(not EXPORTS, reason="not installed: prometheus-client (extra metrics)")
def test_each_agent_tells_its_metrics(lab: Lab) -> None:
    for pop, port in METRICS.items():
        with urlopen(f"http://127.0.0.1:{port}/metrics") as said:
            told = said.read().decode()
        assert f'phalanx_info{{name="{pop}",version="' in told
        assert re.search(r'^phalanx_messages_total{end="delivered"} [1-9]', told, re.MULTILINE)
        assert re.search(r"^phalanx_loop_lag_seconds_count [1-9]", told, re.MULTILINE)
        assert re.search(r'^phalanx_events_total{kind="auction.bid"} [1-9]', told, re.MULTILINE)


def test_who_may_not_stop_an_agent_is_refused_and_audited(lab: Lab) -> None:
    refused = command(lab, "stop", "south", "--now", by="spare", code=1)
    assert "south: refused, no rule allows it" in refused.stderr
    lab.until(lambda: lab.of("access.refused", agent="south"), "the refusal is in the log")
    told = command(lab, "logs", "--kind", "access").stdout
    assert "south    refuses stop of spare: no rule allows it, and it changes something" in told
    # An observer may not even call; the door is its own process, and behind it the broker's.
    refused = command(lab, "stop", "south", by="eye", code=1)
    assert "observer eye may not publish" in refused.stderr
    assert "4 of 4 agents serving" in command(lab, "status", by="eye").stdout
    assert "may not follow EVENTS" in command(lab, "logs", by="spare", code=2).stderr
    assert states(lab)["south"] == "serving"


def test_an_agent_that_is_killed_is_stale_and_believed_dead_until_it_returns(
    lab: Lab, tmp_path: Path
) -> None:
    victim = next(pop for pop in ("north", "west", "east") if pop != holder_of_a_limit(lab))
    follower = Follower(lab, tmp_path, "logs", "--follow")
    try:
        follower.until("from now on")
        lab.testbed.kill(victim)
        unanswered = command(lab, "stop", victim, code=1)
        assert f"{victim} does not answer: it does not run, or is cut off" in unanswered.stderr
        assert states(lab, code=1)[victim] == "stale"
        follower.until(f"takes the agent of {victim} for lost")
        lab.restart(victim)
        follower.until(f"{victim} +continues from its saved state")
        follower.until(f"hears from the agent of {victim} again")
        assert states(lab)[victim] == "serving"
        assert follower.end() == 0
    finally:
        follower.kill()


def test_logs_go_on_when_the_broker_was_restarted(lab: Lab, tmp_path: Path) -> None:
    follower = Follower(lab, tmp_path, "logs", "--follow", "--since", "1s")
    try:
        follower.until("Ctrl-C ends it")
        lab.testbed.brokers.stop()
        follower.until("no connection to the brokers")
        lab.testbed.brokers.start()
        follower.until("connected again")
        caught_up(lab, lab.pops)  # each process connects again by itself, in its own time
        command(lab, "stop", "north", "--now")
        follower.until("north +the process ends: told to by operator")
        assert lab.testbed.wait("north", 60)
        lab.restart("north")
        follower.until("north +continues from its saved state")
        assert follower.end() == 0
    finally:
        follower.kill()


def test_stop_hands_over_what_an_agent_holds_and_it_leaves(lab: Lab) -> None:
    caught_up(lab, lab.pops)  # the broker was restarted: its stream may lag behind
    holder = holder_of_a_limit(lab)
    begun = len(lab.of("agent.started", agent=holder))
    said = command(lab, "stop", holder).stdout
    assert said.startswith(f"{holder} is asked to hand over and leave")
    assert re.search(rf"^{holder} has left: ", said, re.M)
    assert holder not in states(lab)
    lab.until(lab.held_off, "others hold the attack off")
    assert lab.testbed.wait(holder, 60)
    lab.restart(holder)
    lab.until(lambda: len(lab.of("agent.started", agent=holder)) > begun, "it begins anew")


def holder_of_a_limit(lab: Lab) -> str:
    """Return an agent that keeps a measure in force, and is not the one that asked for it."""
    holders = {measure.partition(".")[0] for measure in lab.in_force()}
    return min(holders - {"south"}, default="south")
