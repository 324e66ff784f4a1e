"""The web API: who may look and act, what it tells of a log, and that it misses nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from starlette.testclient import TestClient

from phalanx.console.api import COOKIE, Api, ProblemError
from phalanx.console.controls import LinkAction, PlaceRequest, ReleaseAction
from phalanx.console.feed import Feed, follow, part_of, thinning_of
from phalanx.console.report import Report, read_report
from phalanx.console.resources import RESOURCES, StandingView
from phalanx.console.sessions import RateLimit, Sessions, session_key
from phalanx.console.story import StoryView
from phalanx.domain.errors import LogError, PhalanxError
from phalanx.domain.events import Event
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.system import run_scenario
from phalanx.store.causes import CauseIndex
from phalanx.store.jsonl import encode_line

SCENARIOS = Path(__file__).parents[2] / "scenarios"


class Recorded:
    """Controls that note what they are asked."""

    requests: Mapping[str, type[Struct]] = {"release": ReleaseAction, "link": LinkAction}
    previews: Mapping[str, type[Struct]] = {"functions": PlaceRequest}

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any, str]] = []

    async def act(self, action: str, request: Any, by: str) -> str:
        self.asked.append((action, request, by))
        if action == "link":
            raise ProblemError(409, "there is no such link")
        return "done"

    async def preview(self, request: Any) -> tuple[str, ...]:
        return (f"a run of {request.goal} at {request.at}",)


class Bench:
    """The API over a log, with its parts."""

    def __init__(self, events: list[Event]) -> None:
        self.clock = 1000.0
        self.feed, self.standing, story = Feed(), StandingView(), StoryView()
        for event in events:
            self.standing.add(event)
            story.add(event)
            self.feed.add(event)
        self.feed.whole = True
        self.sessions = Sessions(b"k" * 32, lambda: self.clock)
        self.controls = Recorded()
        self.api = Api(
            self.feed,
            self.standing,
            story,
            self.sessions,
            hosts=["testserver", "127.0.0.1", "localhost"],
            controls=self.controls,
            live=True,
        )

    def client(self, role: str | None = None) -> TestClient:
        client = TestClient(self.api.app)
        if role is not None:
            token = self.sessions.token(role)  # type: ignore[arg-type]
            answer = client.post("/api/login", json={"token": token})
            assert answer.status_code == 200
            client.headers["x-csrf"] = answer.json()["csrf"]
        return client


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return run_scenario(load_scenario(SCENARIOS / "quickstart-ring.yaml")).events


@pytest.fixture
def bench(events: list[Event]) -> Iterator[Bench]:
    made = Bench(events)
    yield made
    made.feed.close()


RELEASE = {"agent": "pop1", "measure": "m"}


def test_without_a_token_nothing_is_served_but_the_login(bench: Bench) -> None:
    client = bench.client()
    for route in bench.api.routes:
        if route.role is not None:
            path = route.path.replace("{id}", "x")
            assert client.request(route.method, path, json=RELEASE).status_code == 401, path
    for path in ("/api/stream", "/api/openapi.json"):
        assert client.get(path).status_code == 401
    assert client.get("/").status_code == 200
    assert client.post("/api/login", json={"token": "guessed"}).status_code == 401
    client.cookies.set(COOKIE, "operator-000000.99999999999.forged")
    assert client.get("/api/session").status_code == 401


def test_a_viewer_looks_and_cannot_act(bench: Bench) -> None:
    client = bench.client("viewer")
    assert client.get("/api/session").json()["actions"] == []
    assert client.get("/api/measures").status_code == 200
    assert client.post("/api/actions/release", json=RELEASE).status_code == 403
    assert bench.controls.asked == []


def test_an_operator_acts_in_a_name_that_is_told(bench: Bench) -> None:
    client = bench.client("operator")
    name = client.get("/api/session").json()["name"]
    assert client.post("/api/actions/release", json=RELEASE).json() == {"detail": "done"}
    assert bench.controls.asked == [("release", ReleaseAction("pop1", "m"), name)]
    answer = client.post("/api/actions/link", json={"a": "a", "b": "b", "up": True})
    assert (answer.status_code, answer.json()) == (409, {"detail": "there is no such link"})


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-csrf": "another"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"host": "evil.example"}, 400),
        ({}, 200),
    ],
)
def test_requests_of_other_sites_are_refused(
    bench: Bench, headers: dict[str, str], status: int
) -> None:
    client = bench.client("operator")
    sent = {"content-type": "application/json"} | headers
    answer = client.post("/api/actions/release", content=json.dumps(RELEASE), headers=sent)
    assert answer.status_code == status
    assert len(bench.controls.asked) == (status == 200)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[" * 50_000, 400),
        (b'{"agent": "../x", "measure": "m"}', 400),
        (b'{"agent": 1}', 400),
        (b" " * 70_000, 413),
    ],
)
def test_bad_bodies_are_refused_with_a_line(bench: Bench, body: bytes, status: int) -> None:
    client = bench.client("operator")
    headers = {"content-type": "application/json"}
    answer = client.post("/api/actions/release", content=body, headers=headers)
    assert answer.status_code == status
    assert "\n" not in answer.json()["detail"]


def test_every_answer_has_the_security_headers(bench: Bench) -> None:
    client = bench.client("viewer")
    for path in ("/", "/page.js", "/api/session", "/api/none", "/api/events?limit=0"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    cookie = (
        client.post("/api/login", json={"token": bench.sessions.token("viewer")})
        .headers["set-cookie"]
        .lower()
    )
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def test_a_code_logs_in_once_and_sessions_end(bench: Bench) -> None:
    code = bench.sessions.code("operator")
    session = bench.sessions.login(code)
    assert session is not None
    assert session.role == "operator"
    assert bench.sessions.login(code) is None
    assert bench.sessions.check(session.cookie) == session
    assert Sessions(b"k" * 32, lambda: 1000.0).check(session.cookie) == session
    assert Sessions(b"o" * 32, lambda: 1000.0).check(session.cookie) is None
    bench.clock += 13 * 3600
    assert bench.sessions.check(session.cookie) is None


def test_logins_are_limited_in_rate(bench: Bench) -> None:
    client = bench.client()
    codes = [client.post("/api/login", json={"token": "x"}).status_code for _ in range(7)]
    assert codes == [401] * 5 + [429] * 2
    now = [0.0]
    limit = RateLimit(2, 0.5, lambda: now[0])
    assert [limit.wait_s("a") for _ in range(3)] == [0.0, 0.0, 2.0]
    assert limit.wait_s("b") == 0.0
    now[0] = 2.0
    assert limit.wait_s("a") == 0.0


def test_pages_of_events_give_the_log_and_nothing_twice(bench: Bench, events: list[Event]) -> None:
    client = bench.client("viewer")
    found: list[str] = []
    after = -1
    while True:
        page = client.get("/api/events", params={"after": after, "limit": 100}).json()
        found += [event["id"] for event in page["events"]]
        if page["next"] == after:
            break
        after = page["next"]
    assert found == [event.id for event in events]
    of = client.get("/api/events", params={"limit": 5000, "kind": "auction"}).json()["events"]
    assert [e["id"] for e in of] == [e.id for e in events if e.kind.startswith("auction.")]


def test_causes_are_those_of_the_walker(bench: Bench, events: list[Event]) -> None:
    client = bench.client("viewer")
    index = CauseIndex(events)
    for event in events[:: len(events) // 25]:
        answer = client.get(f"/api/events/{event.id}/causes").json()
        chain = [event, *index.causes(event)]
        assert [each["id"] for each in answer["events"]] == [e.id for e in reversed(chain)]
        assert answer["broken"] == ""
    assert client.get("/api/events/none/causes").status_code == 404


def test_resources_are_what_stands(bench: Bench, events: list[Event]) -> None:
    client = bench.client("viewer")
    read = {name: client.get(f"/api/{name}").json()["items"] for name in RESOURCES}
    started = [e.data["instance"] for e in events if e.kind == "instance.started"]
    stopped = {e.data["instance"] for e in events if e.kind == "instance.stopped"}
    assert [item["name"] for item in read["functions"]] == [i for i in started if i not in stopped]
    called = {e.data["auction"] for e in events if e.kind == "auction.called"}
    assert {item["name"] for item in read["auctions"]} == called
    assert {item["name"] for item in read["agents"]} == {
        e.agent for e in events if e.kind == "agent.started"
    }
    story = client.get("/api/story").json()
    assert story["summary"]["auctions"] == len(called)


def streamed(bench: Bench, last: str = "") -> list[tuple[str, Any]]:
    """Return what a stream tells until it has nothing more: (id, data)."""

    async def read() -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        begin = 0
        if last:
            place = bench.feed.place(last.partition(" ")[2])
            begin = -1 if place is None else place + 1
        async for message in bench.api._told(begin):
            fields = dict(line.split(": ", 1) for line in message.decode().splitlines() if line)
            if "event" in fields:
                return [(fields["event"], None)]
            if "data" in fields:
                found.append((fields["id"], json.loads(fields["data"])))
            bench.api.closing = len(bench.feed) <= sum(len(data) for _, data in found) + begin
        return found

    bench.api.closing = False
    return asyncio.run(read())


def test_the_stream_is_numbered_and_goes_on_where_it_was_cut(
    bench: Bench, events: list[Event]
) -> None:
    told = streamed(bench)
    assert [e["id"] for _, data in told for e in data] == [event.id for event in events]
    cut = told[0][0]
    number = int(cut.partition(" ")[0])
    # Another server over the same log, as after a restart.
    again = Bench(events)
    rest = streamed(again, cut)
    assert [e["id"] for _, data in rest for e in data] == [e.id for e in events[number + 1 :]]
    assert streamed(again, "7 of-another-log") == [("reset", None)]
    again.feed.close()


def test_a_page_is_told_of_fewer_samples_of_a_large_log_and_of_every_cause(
    tmp_path: Path,
) -> None:
    log = [Event("r", 0.0, "run", "run.started", None, {})]
    for at in range(3000):
        log.append(Event(f"s{at}", at, "network", "network.sample", "r", {"x": "y" * 100}))
        if at % 10 == 0:
            log.append(Event(f"b{at}", at, "p", "belief.changed", f"s{at}", {"belief": "b"}))
    path = tmp_path / "large.jsonl"
    path.write_bytes(b"".join(map(encode_line, log)))
    assert thinning_of(path).note == ""
    most = 200_000
    thinning, report = thinning_of(path, most), Report(most)
    feed = Feed(thinning)
    for event in log:
        feed.add(event)
        report.add(event)
    told = [json.loads(line)["id"] for line in feed.told(0, len(feed))]
    named = {event.cause for event in log}
    assert set(told) >= {e.id for e in log if e.kind != "network.sample" or e.id in named}
    assert f"({len(log) - len(told)} are left out)" in feed.thinned
    assert sum(len(line) for line in feed.told(0, len(feed))) <= 1.2 * most  # texts come on top
    assert [line.id for line in feed.read(0, len(feed))] == [event.id for event in log]
    index, known = CauseIndex(log), set(told)
    assert all(cause.id in known for e in log if e.id in known for cause in index.causes(e))
    # A report thins by the same rule, of its own lines.
    inside = [json.loads(line)["id"] for line in read_report(report.render()).splitlines()]
    assert set(inside) >= {e.id for e in log if e.kind != "network.sample"} | (named - {None})
    assert abs(len(inside) - len(told)) < 300
    feed.close()


def test_the_description_names_every_route(bench: Bench) -> None:
    described = bench.client("viewer").get("/api/openapi.json").json()
    assert set(described["paths"]) == {route.path for route in bench.api.routes}
    text = json.dumps(described)
    for name in ("ActionAnswer", "EventPage", "ProblemAnswer"):
        assert name in described["components"]["schemas"]
    assert text.count('"$ref"') > 20


def test_a_growing_log_is_followed_under_its_part_name(tmp_path: Path, events: list[Event]) -> None:
    log = tmp_path / "run.jsonl"
    with pytest.raises(LogError, match="no such file"):
        part_of(log)
    for octets in (b"", b"# Phalanx\n\nno log\n"):
        log.write_bytes(octets)
        with pytest.raises(LogError, match="is no event log"):
            part_of(log)
    log.unlink()
    with pytest.raises(LogError, match="directory"):
        part_of(tmp_path)
    part = tmp_path / "run.jsonl.part-0a"
    part.write_bytes(b"".join(map(encode_line, events[:50])) + b"no event\n")
    assert part_of(log) == part
    feed = Feed()
    looks = iter([part.rename(log), None])

    def stop() -> bool:
        if next(looks, 0) is None:  # the run writes the rest while the file is followed
            with log.open("ab") as file:
                file.write(b"".join(map(encode_line, events[50:])))
        return False

    follow(feed, log, stop, feed.add)
    assert [line.id for line in feed.read(0, len(feed))] == [event.id for event in events]
    assert feed.whole
    feed.close()


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "state" / "console.key"
    key = session_key(file)
    assert session_key(file) == key
    assert file.stat().st_mode & 0o077 == 0
    file.write_bytes(b"short")
    with pytest.raises(PhalanxError, match="holds no key"):
        session_key(file)
