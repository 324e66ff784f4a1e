"""The page in Chromium: it shows what the log holds, says why, acts, and loses nothing."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phalanx.console.report import write_report
from phalanx.domain.events import Event
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.whatif import what_if
from phalanx.store.causes import CauseIndex
from phalanx.store.jsonl import encode_line, write_jsonl

from .conftest import ROOT, Served, free_port

pytestmark = pytest.mark.browser

Logs = Callable[[str], tuple[Path, list[Event]]]
Serve = Callable[..., Served]
VIEWS = ("now", "map", "auctions", "trust", "do")
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
FACTS = 10_000


@pytest.fixture(scope="module")
def reports(logs: Logs, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return what gives the address of a report on a scenario."""
    folder = tmp_path_factory.mktemp("reports")

    def report(scenario: str) -> str:
        path = folder / f"{scenario}.html"
        if not path.exists():
            write_report(logs(scenario)[1], path)
        return path.as_uri()

    return report


def go(page: Any, address: str) -> None:
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("main[data-view]")


def until(page: Any, holds: str, argument: Any = None) -> None:
    """Wait until a function of the page says true; a strict policy forbids to wait by eval."""
    for _ in range(200):
        if page.evaluate(holds, argument):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"it never came true: {holds}")


def in_force(events: list[Event], time: float) -> list[str]:
    """Return the ids of the events that put in force what stands at a time, from the log."""
    standing: dict[str, str] = {}
    for event in events:
        if event.time > time:
            break
        if event.kind == "measure.applied":
            standing[event.data["measure"]] = event.id
        elif event.kind == "measure.lifted":
            standing.pop(event.data["measure"], None)
    return list(standing.values())


@pytest.mark.parametrize("time", [10, 60, 110, 150, 199])
def test_now_shows_what_is_in_force(page: Any, reports: Any, logs: Logs, time: float) -> None:
    events = logs("infected-agent")[1]
    go(page, f"{reports('infected-agent')}#view=now&t={time}")
    expected = in_force(events, time)
    shown = page.locator(".measures li").evaluate_all(
        "rows => rows.map(row => row.querySelector('[data-fact]').dataset.fact)"
    )
    assert shown == expected
    assert page.locator(".measures .note").first.inner_text().startswith(f"{len(expected)} ")


def hits_of(events: list[Event], time: float) -> dict[str, dict[str, float]]:
    """Return what measures in force held and passed by a time, by what put them in force."""
    applied: dict[str, str] = {}
    totals: dict[str, dict[str, float]] = {}
    for event in events:
        if event.time > time:
            break
        if event.kind == "measure.applied":
            applied[event.data["measure"]] = event.id
        for name, figures in event.data.get("measures", {}).items():
            if event.kind == "measures.counted":
                totals[applied[name]] = figures
    return {name: totals[name] for name in in_force(events, time) if name in totals}


def shown_hits(page: Any) -> dict[str, dict[str, float]]:
    rows = page.locator(".measures li").evaluate_all(
        """rows => rows.map(row => [row.querySelector('[data-fact]').dataset.fact,
        row.querySelector('.hits').dataset])"""
    )
    return {
        name: {"passed_mb": float(hits["passed"]), "held_mb": float(hits["held"])}
        for name, hits in rows
        if hits
    }


@pytest.mark.parametrize(
    ("scenario", "time"),
    [("infected-agent", t) for t in (24, 26, 61.5, 110, 199)] + [("signalling-storm", 160)],
)
def test_now_shows_the_hits_of_each_measure(
    page: Any, reports: Any, logs: Logs, scenario: str, time: float
) -> None:
    events = logs(scenario)[1]
    go(page, f"{reports(scenario)}#view=now&t={time}")
    expected = hits_of(events, time)
    assert (len(expected) > 0) == (time > 25)
    if len(in_force(events, time)) > 12:
        page.locator(".measures").get_by_text("Show all").click()
    assert shown_hits(page) == expected
    held = sum(figures["held_mb"] for figures in expected.values())
    said = page.locator(".verdict").inner_text().partition(", and held ")[2].partition(" MB")[0]
    assert float(said.replace(",", "") or 0) == pytest.approx(held, rel=6e-3)


def test_map_shows_pops_hosts_links_and_functions(page: Any, reports: Any, logs: Logs) -> None:
    events = logs("signalling-storm")[1]
    start = events[0].data
    go(page, f"{reports('signalling-storm')}#view=map&t=120")
    assert page.locator(".network circle.ring").count() == len(start["pops"])
    assert page.locator(".network rect.host").count() == len(start["hosts"])
    assert page.locator(".network line.hit").count() == len(start["links"])
    running: dict[str, tuple[str, str]] = {}
    for event in events:
        if event.time > 120:
            break
        if event.kind == "instance.started":
            running[event.data["instance"]] = event.data["pop"], event.data["vnf"]
        elif event.kind == "instance.stopped":
            running.pop(event.data["instance"], None)
    assert page.locator(".network rect.chip").count() == len(set(running.values()))


def test_auctions_are_those_of_the_log_taken_apart(page: Any, reports: Any, logs: Logs) -> None:
    events = logs("infected-agent")[1]
    called = [e for e in events if e.kind == "auction.called"]
    rich = max(
        (e for e in events if e.kind == "auction.awarded"), key=lambda e: len(e.data["ranking"])
    )
    call = next(e for e in called if e.data["auction"] == rich.data["auction"])
    go(page, f"{reports('infected-agent')}#view=auctions&auction={call.id}")
    assert page.locator("[data-auction]").count() == len(called)
    bids = page.locator("[data-bid]").evaluate_all("rows => rows.map(r => r.dataset.bid)")
    assert bids == [row["agent"] for row in rich.data["ranking"]]
    utilities = page.locator(".utility").all_inner_texts()
    for shown, row in zip(utilities, rich.data["ranking"], strict=True):
        assert float(shown) == pytest.approx(row["utility"], abs=1e-3)
    text = page.locator(f"[data-why-not='{rich.data['ranking'][1]['agent']}']").inner_text()
    assert "The term that decided is" in text
    assert "would have equalled" in text or "No single term" in text
    # What if only the last term counted?
    sliders = page.locator(".weights input")
    for at in range(sliders.count() - 1):
        sliders.nth(at).fill("0")
    assert "wins" in page.locator(".what-if").inner_text() or "would win" in (
        page.locator(".what-if").inner_text()
    )


def test_trust_shows_every_standing_and_key(page: Any, reports: Any, logs: Logs) -> None:
    events = logs("infected-agent")[1]
    go(page, f"{reports('infected-agent')}#view=trust&t=100")
    changes = {
        (e.data["agent"], e.data["position"])
        for e in events
        if e.kind == "trust.changed" and e.time <= 100
    }
    assert page.locator(".blocks > li").count() == len(changes)
    assert "pop1 is not trusted" in page.locator("h1").first.inner_text()
    enrolled = {e.data["agent"] for e in events if e.kind == "trust.enrolled"}
    assert page.locator(".initial > li").count() == len(enrolled)
    assert page.locator("path.verified").count() == len(enrolled)


def test_any_fact_leads_to_the_walkers_chain_in_a_click(
    page: Any, reports: Any, logs: Logs
) -> None:
    index = CauseIndex(logs("infected-agent")[1])
    go(page, f"{reports('infected-agent')}#view=now&t=60")
    facts = page.locator("main [data-fact]:not(g)")
    some = random.Random(1).sample(range(facts.count()), 12)
    for at in some:
        fact = facts.nth(at)
        name = fact.get_attribute("data-fact")
        fact.click()
        chain = page.locator(".why ol.chain")
        event = index.get(chain.get_attribute("data-ids").split(" ")[0])
        assert event is not None
        assert name in (event.id, *event.data.get("sources", ())) or "." in name
        want = [event.id, *(each.id for each in index.causes(event))]
        assert chain.get_attribute("data-ids").split(" ") == want
        assert chain.locator("> li").count() <= 12


def facts_of(events: list[Event], seed: int) -> list[tuple[dict[str, Any], str]]:
    """Return random facts, each with the id of the event that it must lead to.

    The rule is written here anew: what a source's traffic meets is the latest measure that names
    it and stands in the interval; else the latest look at it; else the beginning of the run.
    """
    chosen = random.Random(seed)
    applied = [e for e in events if e.kind == "measure.applied"]
    ends: dict[str, float] = {}
    for event in events:
        if event.kind == "measure.lifted":
            begun = [a for a in applied if a.data["measure"] == event.data["measure"]]
            begun = [a for a in begun if a.time <= event.time and a.id not in ends]
            if begun:
                ends[begun[-1].id] = event.time
    looks = [e for e in events if e.kind == "analysis.done"]

    def seen(look: Event) -> set[str]:
        flows = (*look.data.get("found", ()), *look.data.get("evidence", {}))
        named = {flow.split(">")[0] for flow in flows if ">" in flow}
        return named | set(look.data.get("reported", ())) | set(look.data.get("passed", {}))

    sources = sorted(
        {s for e in applied for s in e.data.get("sources", ())} | set().union(*map(seen, looks))
    )
    awards = [e for e in events if e.kind == "auction.awarded"]
    refusals = [e for e in events if e.kind == "auction.refused"]
    found: list[tuple[dict[str, Any], str]] = []
    end = events[-1].time
    while len(found) < FACTS:
        match chosen.choice(("traffic", "traffic", "measure", "rule", "award", "refusal", "event")):
            case "traffic":
                begin = chosen.uniform(0, end)
                until = min(end, begin + chosen.choice((0.0, 1.0, 30.0)))
                source = chosen.choice(sources)
                holds = [
                    e
                    for e in applied
                    if source in e.data.get("sources", ())
                    and e.time <= until
                    and ends.get(e.id, 1e9) > begin
                ]
                last = [e for e in looks if e.time <= until and source in seen(e)]
                want = (holds or last or events)[-1 if holds or last else 0].id
                fact = {"type": "traffic", "source": source, "from": begin, "to": until}
            case "measure":
                event = chosen.choice(applied)
                want, fact = event.id, {"type": "measure", "measure": event.data["measure"]}
                fact["time"] = event.time
            case "rule":
                event = chosen.choice([e for e in applied if e.data.get("sources")])
                same = [e for e in applied if e.data["measure"] == event.data["measure"]]
                source = chosen.choice(event.data["sources"])
                want = [e for e in same if source in e.data.get("sources", ())][-1].id
                fact = {"type": "rule", "source": source, "measure": event.data["measure"]}
            case "award":
                event = chosen.choice(awards)
                name = event.data["auction"]
                want = [e for e in awards if e.data["auction"] == name][-1].id
                fact = {"type": "award", "auction": name}
            case "refusal" if refusals:
                event = chosen.choice(refusals)
                name = event.data["auction"]
                same = [e for e in refusals if e.agent == event.agent]
                want = [e for e in same if e.data["auction"] == name][-1].id
                fact = {"type": "refusal", "auction": name, "agent": event.agent}
            case _:
                want = chosen.choice(events).id
                fact = {"type": "event", "id": want}
        found.append((fact, want))
    return found


@pytest.mark.parametrize("scenario", ["ddos-resilience", "selection"])
def test_ten_thousand_facts_lead_to_the_walkers_chain(
    page: Any, reports: Any, logs: Logs, scenario: str
) -> None:
    events = logs(scenario)[1]
    index = CauseIndex(events)
    facts = facts_of(events, 7)
    go(page, reports(scenario))
    answers = page.evaluate(
        "facts => facts.map(fact => window.phalanx.explain(fact))", [fact for fact, _ in facts]
    )
    assert Counter(fact["type"] for fact, _ in facts).keys() >= {"traffic", "measure", "award"}
    for (fact, want), answer in zip(facts, answers, strict=True):
        event = index.get(want)
        assert event is not None
        assert answer["chain"] == [want, *(each.id for each in index.causes(event))], fact
        assert answer["lines"] <= 12


def test_the_slider_replays_and_a_copied_address_opens_the_same_instant(
    page: Any, reports: Any, chromium: Any
) -> None:
    go(page, f"{reports('ddos-resilience')}#view=now&from=0&to=100")
    slider = page.get_by_role("slider", name="Instant of the run")
    slider.fill("21.5")
    assert page.locator("main").get_attribute("data-time") == "21.500"
    assert page.locator(".measures li").count() == 0
    slider.fill("30")
    assert page.locator(".measures li").count() == 4
    slider.press("ArrowRight")
    assert page.locator("main").get_attribute("data-time") == "30.500"
    page.locator(".measures [data-fact]").first.click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Play").click()
    until(page, "() => Number(document.querySelector('main').dataset.time) > 32")
    page.get_by_role("button", name="Pause").click()
    page.locator(".measures [data-fact]").first.click()
    page.wait_for_timeout(250)
    address, time = page.url, page.locator("main").get_attribute("data-time")
    title = page.locator(".why-title").inner_text()
    other = chromium.new_context(viewport={"width": 1280, "height": 860}).new_page()
    go(other, address)
    assert other.locator("main").get_attribute("data-time") == time
    assert other.locator(".why-title").inner_text() == title
    other.context.close()
    page.go_back()
    assert page.locator(".why").count() == 0


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [1280, 400])
def test_axe_finds_no_serious_fault(
    chromium: Any, reports: Any, logs: Logs, scheme: str, width: int
) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: npm ci in web/")
    events = logs("infected-agent")[1]
    award = next(e for e in events if e.kind == "auction.awarded")
    context = chromium.new_context(
        viewport={"width": width, "height": 860}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    found = []
    for view in VIEWS:
        for why in ("", f"&why={award.id}"):
            go(page, f"{reports('infected-agent')}#view={view}&t=60{why}")
            page.add_script_tag(path=str(AXE))
            answer = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            found += [
                (view, each["id"], each["impact"], [n["html"][:160] for n in each["nodes"]][:3])
                for each in answer["violations"]
                if each["impact"] in ("serious", "critical")
            ]
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{view} scrolls sideways"
    context.close()
    assert found == []


def test_hostile_names_are_shown_as_text(page: Any, tmp_path: Path) -> None:
    evil = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
    names = [evil, "x" * 10_000, "\u202eright to left", "{0}", "constructor", "__proto__"]
    pops = [{"name": n, "x": float(i), "y": 0.0, "cores": 1.0} for i, n in enumerate(names)]
    hosts = [{"name": n, "at": n, "address": f"10.0.0.{i}"} for i, n in enumerate(names)]
    start = {"scenario": evil, "pops": pops, "hosts": hosts, "links": [], "sources": []}
    events = [Event("r", 0.0, "run", "run.started", None, start)]
    for at, name in enumerate(names):
        seen = {
            n: {"legitimate_mb_s": 1.0, "wanted_mb_s": 1.0, "malicious_mb_s": 0.5} for n in names
        }
        events += [
            Event(f"s{at}", at + 1.0, name, "network.sample", "r", {"hosts": seen, "links": {}}),
            Event(f"m{at}", at + 1.0, name, "measure.applied", f"s{at}",
                  {"measure": name, "effect": f"attackFiltered({name}, {name}, x)", "pop": name,
                   "instance": name, "sources": [name], "target": "10.0.0.1"}),
            Event(f"a{at}", at + 1.0, name, "auction.called", "r", {"auction": name, "goal": name}),
            Event(f"t{at}", at + 1.0, name, "trust.changed", "r",
                  {"agent": name, "standing": "quarantined", "reason": name, "position": at}),
            Event(f"n{at}", at + 1.0, name, "attestation.result", "r",
                  {"attester": name, "tier": "affirming", "round": 0}),
        ]  # fmt: skip
    path = tmp_path / "evil.html"
    write_report(events, path)
    for view in VIEWS:
        go(page, f"{path.as_uri()}#view={view}&why=m0")
        assert page.evaluate("window.hacked") is None
        assert page.locator("main img").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    go(page, f"{path.as_uri()}#view=now&why=m0")
    assert "<script>window.hacked = 1</script>" in page.locator(".why-body").inner_text()


def test_a_run_is_watched_live_and_a_filter_is_released(page: Any, serve: Serve) -> None:
    served = serve("run", "ddos-resilience", "--realtime", "12", "--console", "--port", "0")
    page.goto(served.login)
    page.wait_for_selector(".mode.live")
    page.locator("[data-measure]").nth(3).wait_for(timeout=30_000)
    first = page.locator("[data-measure]").first
    name = first.get_attribute("data-measure")
    page.locator(".hits[data-held]").first.wait_for(timeout=30_000)  # hits come as they are counted
    shown = float(first.locator(".hits").get_attribute("data-held"))
    told = page.evaluate(
        """name => window.phalanx.model.store.of('measures.counted')
        .map(event => event.data.measures[name]?.held_mb ?? 0)""",
        name,
    )
    assert shown > 0
    assert shown in told
    first.get_by_role("button", name="Release").click()
    dialog = page.get_by_role("dialog")
    assert "passes again" in dialog.inner_text()
    assert page.locator("[data-measure]").count() >= 4  # nothing was done yet
    dialog.get_by_role("button", name="Do it").click()
    until(
        page,
        """name => window.phalanx.model.store.of('measure.lifted')
            .some(event => event.data.measure === name)""",
        name,
    )
    lifted, chain = page.evaluate(
        """name => { const store = window.phalanx.model.store;
        const event = store.of('measure.lifted').find(e => e.data.measure === name);
        return [event.id, store.chain(event).map(e => e.kind)] }""",
        name,
    )
    assert "operator.acted" in chain
    dialog.get_by_text("Close").last.click()
    page.goto(f"{page.url.partition('#')[0]}#view=now&why={lifted}")
    page.get_by_text("does what console").first.wait_for()


def test_where_a_function_would_run_is_seen_before_it_is_asked_for(page: Any, serve: Serve) -> None:
    served = serve("run", "ddos-resilience", "--realtime", "2", "--console", "--port", "0")
    page.goto(f"{served.login}")
    page.wait_for_selector(".mode.live")
    page.goto(f"{served.url}#view=do")
    place = page.locator("section", has_text="Place a function")
    place.get_by_label("Goal").fill("linkRateLimited")
    place.get_by_label("Traffic is taken at").select_option("pop4")
    place.get_by_role("button", name="Look at it").click()
    words = place.locator(".foreseen").inner_text().splitlines()
    scenario = load_scenario(ROOT / "scenarios" / "ddos-resilience.yaml")
    expected = what_if(scenario, "linkRateLimited", "pop4", 1.0)
    # Nothing has happened yet in the run, so it answers as at the start of the scenario.
    assert [line.split()[0] for line in words] == [r.bidder for r in expected.ranking] + [
        *expected.refusals
    ]
    assert " would run it with rate-limiter" in words[0]
    for name in ("Pause", "Do it", "Close"):
        row = page.locator(".cards li", has_text=expected.ranking[0].bidder)
        scope = row if name == "Pause" else page.get_by_role("dialog")
        scope.get_by_text(name, exact=True).last.click()
    page.get_by_text("is paused").wait_for()
    place.get_by_role("button", name="Look at it").click()
    place.get_by_text("would refuse: paused by an operator").wait_for()
    assert not place.locator(".foreseen").inner_text().startswith(expected.ranking[0].bidder)
    place.get_by_label("Goal").fill("nonsense")
    place.get_by_role("button", name="Look at it").click()
    assert "known goals are" in place.get_by_role("alert").inner_text()


def test_a_viewer_sees_and_cannot_act(page: Any, serve: Serve) -> None:
    served = serve("run", "ddos-resilience", "--realtime", "12", "--console", "--port", "0")
    page.goto(served.url)
    assert page.locator("main").inner_text().startswith("Phalanx\nToken")
    page.get_by_label("Token").fill("a guess")
    page.get_by_role("button", name="Log in").click()
    page.get_by_text("no token of this server").wait_for()
    page.get_by_label("Token").fill(served.tokens["viewer"])
    page.get_by_role("button", name="Log in").click()
    page.locator("[data-measure]").nth(3).wait_for(timeout=30_000)
    assert page.get_by_role("button", name="Release").count() == 0
    status = page.evaluate(
        """async () => { const csrf = (await (await fetch('api/session')).json()).csrf;
        return (await fetch('api/actions/drain', {method: 'POST', body: '{"agent": "pop1"}',
          headers: {'content-type': 'application/json', 'x-csrf': csrf}})).status }"""
    )
    assert status == 403
    page.goto(f"{served.url}#view=do")
    page.get_by_text("logged in as a viewer").wait_for()


def test_after_a_restart_the_page_reconnects_and_misses_nothing(
    page: Any, serve: Serve, logs: Logs, tmp_path: Path
) -> None:
    events = logs("ddos-resilience")[1]
    part = tmp_path / "run.jsonl.part-1"
    write_jsonl(events[:400], part)
    port = str(free_port())
    arguments = ("console", str(tmp_path / "run.jsonl"), "--port", port)
    first = serve(*arguments)
    page.goto(first.login)
    count = "window.phalanx.model.store.events.length"
    until(page, f"() => {count} === 400")
    first.end(signal.SIGKILL)
    page.locator(".mode.lost").wait_for()
    with part.open("ab") as file:
        file.write(b"".join(map(encode_line, events[400:])))
    serve(*arguments)
    until(page, f"() => {count} >= {len(events)}")
    ids = page.evaluate("window.phalanx.model.store.events.map(event => event.id)")
    assert ids == [event.id for event in events]
    assert page.locator(".mode.lost").count() == 0


def test_the_tutorials_questions_are_answered_from_the_page_alone(page: Any, reports: Any) -> None:
    go(page, f"{reports('infected-agent')}#view=now&t=60")
    assert "pop1 is not trusted" in page.locator(".verdict").inner_text()
    story = page.locator(".story").inner_text()
    assert "pop1 is quarantined from now on" in story
    assert "at pop1 is lifted: its instance ended" in story
    assert "112 MB dropped so far, 3 MB/s at last count" in page.locator(".measures").inner_text()
    page.keyboard.press("/")
    page.keyboard.type("10.2.0.4")
    page.keyboard.press("Enter")
    panel = page.locator(".why-body").inner_text()
    assert "10.2.0.4 is blocked" in panel
    assert "dropped at pop4 since 22.7 s" in panel
    assert "SYN/s 24,627, established 0" in panel
    assert "first seen" in panel
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Auctions").click()
    page.locator("[data-auction]", has_text="5 bids").click()
    said = page.locator("[data-why-not=pop4]").inner_text()
    assert "The term that decided is decentralisation" in said
    assert "pop4 would have equalled pop6 with" in said


def test_the_report_asks_no_host(chromium: Any, reports: Any) -> None:
    context = chromium.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    go(page, reports("ddos-resilience"))
    for view in VIEWS:
        page.keyboard.press(str(VIEWS.index(view) + 1))
    context.close()
    assert [url for url in asked if not url.startswith(("file:", "about:", "data:"))] == []
