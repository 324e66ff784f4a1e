"""``phalanx console --domain``: a domain of real processes over NATS, seen and changed from it."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from phalanx.auction.bidder import PAUSED
from phalanx.orchestration.iml.local import Slot
from phalanx.runtime.services import present_image
from phalanx.store.causes import CauseIndex
from tests.system.process_lab import Lab, processes
from tests.system.process_plan import NETWORK

from .conftest import ROOT, Served, free_port

pytestmark = processes()
SERVICE = ROOT / "scenarios" / "services" / "edge-video"
NAME = "edge-video-1"
Serve = Callable[..., Served]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Return a ring of agents that holds a flood off."""
    folder = tmp_path / "lab"
    folder.mkdir()
    with Lab(folder) as made:
        made.start_all()
        made.until(made.settled, "the flood is held off by what stays")
        yield made
        for path in (made.testbed.domain.folder / "sites").glob("*/*/pid"):
            process = Slot(path.parent).process()
            if process is not None:
                process.signal(signal.SIGKILL)
                process.wait(5)


class Client:
    """Speaks with the console's API as the page does."""

    def __init__(self, served: Served, role: str) -> None:
        self.http = httpx2.Client(base_url=served.url, timeout=240)
        answer = self.http.post("/api/login", json={"token": served.tokens[role]})
        self.session = answer.json()
        self.http.headers["x-csrf"] = self.session["csrf"]

    def read(self, resource: str) -> dict[str, dict[str, Any]]:
        items = self.http.get(f"/api/{resource}").json()["items"]
        return {item["name"]: item for item in items}

    def post(self, path: str, **body: Any) -> httpx2.Response:
        return self.http.post(f"/api/{path}", json=body)

    def stream(self, enough: Callable[[list[str]], bool], last: str = "") -> tuple[list[str], str]:
        """Return the ids of the events that the stream tells, and the last id to resume after."""
        found: list[str] = []
        headers = {"last-event-id": last} if last else {}
        with self.http.stream("GET", "/api/stream", headers=headers) as answer:
            for line in answer.iter_lines():
                name, _, text = line.partition(": ")
                assert (name, text) != ("event", "reset"), "it has another log"
                if name == "id":
                    last = text
                elif name == "data":
                    found += [event["id"] for event in json.loads(text)]
                    if enough(found):
                        return found, last
        raise AssertionError("the stream has ended")


@pytest.fixture
def client() -> Iterator[Callable[[Served, str], Client]]:
    """Return what logs in; all are closed with the test."""
    made: list[Client] = []

    def log_in(served: Served, role: str) -> Client:
        made.append(Client(served, role))
        return made[-1]

    yield log_in
    for each in made:
        each.http.close()


LogIn = Callable[[Served, str], Client]


def ids(lab: Lab) -> list[str]:
    return [heard.event.id for heard in lab.heard]


def standing(lab: Lab, begins: str, ends: str, field: str) -> set[str]:
    """Return what stands by the stream of events, read anew here."""
    found: set[str] = set()
    for heard in lab.heard:
        if heard.event.kind == begins:
            found.add(heard.event.data[field])
        elif heard.event.kind == ends:
            found.discard(heard.event.data[field])
    return found


def test_a_domain_is_seen_acted_on_and_followed_over_a_restart(
    lab: Lab, serve: Serve, client: LogIn
) -> None:
    arguments = ("console", "--domain", str(lab.testbed.domain.folder), "--port", str(free_port()))
    served = serve(*arguments)
    operator, viewer = client(served, "operator"), client(served, "viewer")
    assert {"release", "pause", "drain", "link", "service"} <= set(operator.session["actions"])
    assert viewer.session["actions"] == []

    # What is shown is what the domain's log has.
    begun = ids(lab)
    seen, last = operator.stream(lambda found: set(begun) <= set(found))
    lab.until(lambda: len(lab.heard) >= len(seen), "the lab has heard as much")
    assert seen == ids(lab)[: len(seen)]
    lab.eventually(lambda: operator.read("measures").keys() == lab.in_force(), "the same measures")
    assert operator.read("agents").keys() == set(lab.pops)
    instances = standing(lab, "instance.started", "instance.stopped", "instance")
    assert operator.read("functions").keys() == instances
    lab.until(lambda: lab.of("measures.counted", agent=NETWORK), "hits are counted")
    held = max(f["held_mb"] for f in lab.of("measures.counted")[-1].event.data["measures"].values())
    assert held > 0

    # A viewer changes nothing; an operator takes a measure back, and the log says who did it.
    (measure, item), *_ = operator.read("measures").items()
    asked = {"agent": item["data"]["instance"].split(".")[0], "measure": measure}
    assert viewer.post("actions/release", **asked).status_code == 403
    for path in ("actions/service", "services/preview"):
        assert viewer.post(path, change="remove", name=NAME).status_code == 403
    assert lab.of("operator.acted") == []
    assert operator.post("actions/release", **asked).status_code == 200
    lab.until(lambda: lab.of("measure.lifted", measure=measure), "the measure is lifted")
    lifted = lab.of("measure.lifted", measure=measure)[0].event
    chain = CauseIndex([heard.event for heard in lab.heard]).causes(lifted)
    (acted,) = [event for event in chain if event.kind == "operator.acted"]
    assert acted.data["by"] == f"operator ({operator.session['name']})"
    assert operator.post("actions/release", **asked).status_code == 409

    # The server dies; what happens meanwhile is told once it is back, nothing twice.
    served.end(signal.SIGKILL)
    lab.until(lab.held_off, "the flood is held off again")
    lab.rest(1.0)
    meanwhile = len(lab.heard)
    served = serve(*arguments)
    operator = client(served, "operator")
    wanted = set(ids(lab)[len(seen) :])
    rest, _ = operator.stream(lambda found: wanted <= set(found), last)
    assert meanwhile > len(seen)
    lab.until(lambda: len(lab.heard) >= len(seen) + len(rest), "the lab has heard as much")
    assert [*seen, *rest] == ids(lab)[: len(seen) + len(rest)]

    # A pause outlives the process of the agent.
    keeps = lab.holder()
    paused = next(pop for pop in lab.pops if pop not in {keeps, "south"})
    assert operator.post("actions/pause", agent=paused, paused=True).status_code == 200
    lab.testbed.kill(paused)
    lab.restart(paused)
    before = len(lab.heard)
    for name, each in operator.read("measures").items():
        owner = each["data"]["instance"].split(".")[0]
        operator.post("actions/release", agent=owner, measure=name)
    lab.testbed.kill(keeps)  # others have to take over, and ask who can
    refused = ("auction.refused", before)
    lab.until(lambda: lab.of(*refused, agent=paused, reason=PAUSED), "it still bids for nothing")
    assert not lab.of("auction.bid", before, agent=paused)


def test_a_service_is_foreseen_deployed_and_removed(lab: Lab, serve: Serve, client: LogIn) -> None:
    served = serve("console", "--domain", str(lab.testbed.domain.folder), "--port", "0")
    operator = client(served, "operator")
    digest = present_image().digest
    files = {
        path.name: re.sub("sha256:[0-9a-f]{64}", digest, path.read_text())
        for path in SERVICE.glob("*.yaml")
        if path.name != "request-wide.yaml"
    }
    sites = re.findall(r"^  - name: (\S+)", files["sites.yaml"], re.MULTILINE)
    deploy = {"change": "deploy", "files": files}
    none = operator.post("services/preview", **deploy, without=sites)
    assert none.status_code == 409
    assert "can have no agent" in none.json()["detail"]
    words = operator.post("services/preview", **deploy).json()["words"]
    foreseen = dict(re.findall(r"^Agent (\S+) at (\S+) is new", "\n".join(words), re.MULTILINE))
    assert set(foreseen) == {"access", "cache", "origin"}
    assert any("proven optimal" in line for line in words)
    assert operator.read("services") == {}
    assert not (lab.testbed.domain.folder / "sites").exists(), "nothing was done"

    done = operator.post("actions/service", **deploy)
    assert done.status_code == 200, done.text
    lab.until(lambda: lab.of("service.deployed"), "the service is deployed")
    agents = lab.of("service.deployed")[0].event.data["agents"]
    at = {name.removeprefix(f"{NAME}.").rsplit(".", 1)[0]: site for name, site in agents.items()}
    assert {key: site for key, site in at.items() if key in foreseen} == foreseen
    lab.eventually(lambda: NAME in operator.read("services"), "the console shows it")

    # Where the origin's agent may not stand any more is seen first as well.
    change = {"change": "reconfigure", "name": NAME, "without": [foreseen["access"]]}
    answer = operator.post("services/preview", **change)
    moved = "\n".join(answer.json()["words"])
    assert re.search(r"access at (?!barcelona)\S+ moves from barcelona", moved)
    assert len(re.findall("stays as it is", moved)) == 2

    words = operator.post("services/preview", change="remove", name=NAME).json()["words"]
    assert all(name in words[0] for name in agents)
    assert operator.post("actions/service", change="remove", name=NAME).status_code == 200
    lab.until(lambda: lab.of("service.removed"), "the service is removed")
    lab.eventually(lambda: operator.read("services") == {}, "the console shows that")
    left = {path.name for path in (lab.testbed.domain.folder / "sites").glob("*/*")}
    assert not {name for name in left if name.startswith(NAME)}
