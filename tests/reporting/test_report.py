"""The report page: whole, closed to the outside, honest, and the same for the same log."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from html.parser import HTMLParser
from itertools import combinations, islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from ddos_log import ddos_log
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import KINDS, Event
from phalanx.reporting.auctions import Auction, AuctionsView
from phalanx.reporting.explanation import CauseTree, DrawnTree
from phalanx.reporting.log import Log
from phalanx.reporting.map_layout import positions
from phalanx.reporting.page import Report, render_report, write_report
from phalanx.reporting.response import ResponseView
from phalanx.reporting.summary import SummaryView, summarise
from phalanx.reporting.svg import axis_clock, clock, figure, ticks, time_ticks
from phalanx.reporting.traffic import QUIET_SHARE, AttackOutcome, attack_span, judge


def followed(events: list[Event]) -> ResponseView:
    view = ResponseView()
    for event in events:
        view.add(event)
    return view


def judged(events: list[Event]) -> AttackOutcome:
    return judge(followed(events).traffic, max(event.time for event in events) if events else 0.0)


def auctions_of(events: list[Event]) -> list[Auction]:
    log = Log(events)
    view = AuctionsView(log)
    for event in events:
        view.add(event)
    return view.result()


def tree_of(log: Log) -> DrawnTree:
    tree = CauseTree(log)
    for event in log.events:
        tree.add(event)
    return tree.result()


VOID = {"meta", "input", "br", "link", "img", "hr"}
DDOS = ddos_log()


class Page(HTMLParser):
    """Reads a page and insists that every element is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: dict[str, str] = {}
        self.text = ""
        self._article = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "article":
            self._article = attributes["id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        if tag == "article":
            self._article = ""

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text += data
        if self._article:
            self.words[self._article] = self.words.get(self._article, "") + data

    def having(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def assert_closed_to_the_outside(page: str, parsed: Page) -> None:
    for _, attributes in parsed.tags:
        assert not {name for name in attributes if name.startswith("on")}
        assert attributes.get("href", "#").startswith("#")
        assert "src" not in attributes
        assert "action" not in attributes
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert not {tag for tag, _ in parsed.tags} & {"link", "img", "iframe", "object", "base"}


@pytest.mark.parametrize(
    "events",
    [
        DDOS,
        ddos_log(20, positions=True),
        ddos_log(8, until=150),
        ddos_log(until=0),
        DDOS[:1],
        [],
        [event for event in DDOS if event.kind != "run.started"],
        [event for event in DDOS if event.kind != "network.sample"],
    ],
    ids=["whole", "20 PoPs", "cut", "begun", "root", "empty", "no setting", "no samples"],
)
def test_page_is_whole_and_closed_to_the_outside(events: list[Event]) -> None:
    page = render_report(events)
    parsed = Page(page)
    assert_closed_to_the_outside(page, parsed)
    assert len(parsed.having("h1")) == 1
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for link in parsed.having("a"):
        assert link["href"][1:] in ids or link["href"].startswith("#e-")
    for number in re.findall(r"\b(?:nan|inf|None|undefined)\b", parsed.text):
        pytest.fail(f"{number} on the page")


@pytest.mark.parametrize("cut", [0, 1, 40, 700, len(DDOS) - 1, len(DDOS)])
def test_views_that_are_fed_event_by_event_say_at_any_moment_what_the_whole_says(
    cut: int, live: dict[int, tuple[str, Any]]
) -> None:
    assert live[cut] == (render_report(DDOS[:cut]), summarise(DDOS[:cut]))


@pytest.fixture(scope="module")
def live() -> dict[int, tuple[str, Any]]:
    """Return what a report and a summary that grow with the log say at several cuts."""
    report, summary = Report(), SummaryView()
    said = {}
    for count in range(len(DDOS) + 1):
        if count in {0, 1, 40, 700, len(DDOS) - 1, len(DDOS)}:
            said[count] = report.render(), summary.result()
        for event in DDOS[count : count + 1]:
            report.add(event)
            summary.add(event)
    return said


def test_security_policy_lets_only_the_pages_own_script_run() -> None:
    page = render_report(DDOS)
    script = page[page.index("<script>") + 8 : page.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = Page(page).having("meta")[1]["content"]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_hostile_strings_stay_text() -> None:
    hostile = """</script><img src=x onerror=alert(1)>"'&{{7*7}}<!--"""

    def poison(value: Any) -> Any:
        if isinstance(value, str):
            return value + hostile
        if isinstance(value, list):
            return [poison(item) for item in value]
        if isinstance(value, dict):
            named = re.compile(r"pop|server|office|10\.")
            return {k + hostile if named.match(k) else k: poison(v) for k, v in value.items()}
        return value

    events = [
        structs.replace(
            event,
            id=event.id + hostile,
            agent=event.agent + hostile,
            cause=event.cause and event.cause + hostile,
            data=poison(event.data),
        )
        for event in DDOS
    ]
    page = render_report(events)
    parsed = Page(page)
    assert_closed_to_the_outside(page, parsed)
    assert len(parsed.having("script")) == 1
    assert page.count("<!--") == 0
    assert hostile in parsed.text
    assert len(parsed.having("article")) == 15


def test_every_auction_stands_there_with_all_that_was_answered() -> None:
    parsed = Page(render_report(DDOS))
    called = [event for event in DDOS if event.kind == "auction.called"]
    closed = {e.data["auction"]: e for e in DDOS if e.kind in {"auction.awarded", "auction.failed"}}
    assert [a["id"] for a in parsed.having("article")] == [f"auction-{n}" for n in range(1, 16)]
    for number, call in enumerate(called, 1):
        words = parsed.words[f"auction-{number}"]
        assert call.data["goal"] in words
        assert f"called by {call.agent}" in words
        close = closed[call.data["auction"]].data
        for row in close.get("ranking", ()):
            figures = [f"{row[key]:.2f}" for key in ("T", "C", "D", "utility")]
            line = r"\s*".join(map(re.escape, figures))
            assert re.search(rf"{row['agent']}\s*{line}", words), (row, words)
            assert " – ".join(row["path"]) in words
        for agent, reason in close["refusals"].items():
            assert re.search(rf"{agent}\s*refused: {reason}", words)


def test_winner_is_marked_and_failure_names_what_was_done_instead() -> None:
    auctions = auctions_of(DDOS)
    assert [a.winner for a in auctions[:7]] == ["pop5", "pop5", "pop5", "", "pop5", "pop3", "pop4"]
    assert [sum(bid.won for bid in a.bids) for a in auctions] == [1, 1, 1, 0] + 11 * [1]
    assert auctions[3].fallback == "splitTrafficTowardsIp(10.0.6.10, 0, 1)"
    for one, other in pairwise(auctions[7:]):  # each attacker gets an auction, some answers alike
        assert other.repeats == (
            (one.repeats or one.number) if one.answers == other.answers else None
        )
    assert any(auction.repeats for auction in auctions)
    words = Page(render_report(DDOS)).words["auction-4"]
    assert "failed: all bidders refused" in words
    assert "Instead: splitTrafficTowardsIp(10.0.6.10, 0, 1)" in words


def test_auction_called_again_is_a_table_of_its_own() -> None:
    events = [
        Event("a-1", 1.0, "a", "auction.called", None, {"auction": "x", "goal": "g", "round": 1}),
        Event("b-1", 1.0, "b", "auction.bid", "a-1", {"auction": "x", "bids": [{"vnf": "v"}]}),
        Event("a-2", 2.0, "a", "auction.failed", "a-1", {"auction": "x", "silent": ["c"]}),
        Event("a-3", 3.0, "a", "auction.called", "a-2", {"auction": "x", "goal": "g", "round": 2}),
    ]
    first, second = auctions_of(events)
    assert (first.outcome, [bid.agent for bid in first.bids], first.silent) == (
        "failed",
        ["b"],
        ("c",),
    )
    assert first.bids[0].utility is None
    assert second.outcome == "open"
    assert "silent: no answer" in Page(render_report(events)).words["auction-1"]


def traffic(*samples: tuple[float, float, float], until: float | None = None) -> list[Event]:
    """Return a log of seconds with (legitimate, malicious, wanted), the attack from 2 s on."""
    events = [
        Event(f"s-{t}", float(t), "network", "network.sample", None, {"hosts": {"h": _host(*row)}})
        for t, row in enumerate(samples)
    ]
    change = {"group": "g", "malicious": True, "active": True}
    events.insert(2, Event("c-1", 2.0, "network", "traffic.changed", None, change))
    if until is not None:
        stop = change | {"active": False}
        events.append(Event("c-2", until, "network", "traffic.changed", None, stop))
    return events


def _host(legitimate: float, malicious: float, wanted: float) -> dict[str, float]:
    return {"legitimate_mb_s": legitimate, "malicious_mb_s": malicious, "wanted_mb_s": wanted}


CALM, FLOOD, STARVED, HALF = (1.0, 0.0, 1.0), (0.5, 5.0, 1.0), (0.1, 0.0, 1.0), (0.9, 2.0, 1.0)


@pytest.mark.parametrize(
    ("samples", "verdict"),
    [
        (2 * [CALM] + 4 * [FLOOD] + 10 * [CALM], "mitigated"),
        (2 * [CALM] + 14 * [FLOOD], "not mitigated"),
        (2 * [CALM] + 30 * [FLOOD] + 4 * [CALM], "not mitigated"),
        (2 * [CALM] + 4 * [FLOOD] + 40 * [HALF], "contained"),
        (2 * [CALM] + 4 * [FLOOD] + 40 * [STARVED], "not mitigated"),
        (16 * [CALM], "no attack"),
        ([], "no samples"),
    ],
)
def test_verdict_follows_the_stated_rules(
    samples: list[tuple[float, float, float]], verdict: str
) -> None:
    assert judged(traffic(*samples)).verdict == verdict


def test_what_comes_after_the_attack_is_no_mitigation() -> None:
    events = traffic(*2 * [CALM], *6 * [FLOOD], *20 * [CALM], until=8.0)
    outcome = judged(events)
    assert attack_span(followed(events).traffic, 27.0) == (2.0, 8.0)
    assert outcome.verdict == "not mitigated"
    assert outcome.now == 0.0


@given(st.lists(st.sampled_from([CALM, FLOOD, STARVED, HALF]), min_size=3, max_size=60))
def test_mitigated_means_held_off_to_the_end(samples: list[tuple[float, float, float]]) -> None:
    outcome = judged(traffic(*samples))
    if outcome.verdict == "mitigated":
        assert outcome.mitigated_s is not None
        later = samples[int(outcome.mitigated_s) :]
        assert all(malicious <= QUIET_SHARE * 5.0 for _, malicious, _ in later)
        assert sum(s[0] for s in later) >= 0.85 * sum(s[2] for s in later)


@pytest.mark.parametrize(
    ("before", "after", "malicious", "said"),
    [
        (0.3, 0.3, 0.0, True),  # far away: users get as little as ever
        (1.0, 0.3, 0.0, False),
        (0.3, 0.1, 0.0, False),
        (0.3, 0.3, 1.0, False),
    ],
)
def test_what_the_network_does_not_carry_anyway_is_not_laid_to_the_attack(
    before: float, after: float, malicious: float, said: bool
) -> None:
    samples = [(before, 0.0, 1.0)] * 2 + [(0.0, 5.0, 1.0)] + [(after, malicious, 1.0)] * 20
    outcome = judged(traffic(*samples))
    assert outcome.verdict == "not mitigated"
    assert ("carries no more" in outcome.sentence) is said


def test_head_of_the_ddos_run() -> None:
    outcome, response = judged(DDOS), summarise(DDOS).response
    assert (outcome.verdict, outcome.host, outcome.began_s) == ("mitigated", "server", 20.0)
    assert outcome.mitigated_s is not None
    steps = {step.label: step for step in followed(DDOS).milestones(20.0)}
    times = [step.time for step in steps.values() if step.time is not None]
    assert times == sorted(times)
    assert len(times) == 7
    assert steps["attackers blocked"].note == "8 flows"
    for label, after in (
        ("alarm", response.alarm_after_s),
        ("first limit", response.throttle_after_s),
        ("attackers named", response.named_after_s),
        ("attackers blocked", response.blocked_after_s),
    ):
        assert steps[label].time == pytest.approx(20.0 + (after or 0.0))
    cut = {step.label: step for step in followed(ddos_log(until=60)).milestones(20.0)}
    assert cut["attackers blocked"].time is None
    assert cut["all lifted"].note == "2 still in force"
    parsed = Page(render_report(DDOS))
    assert "Attack mitigated" in parsed.text
    assert "ddos-resilience" in parsed.text


def test_interrupted_run_says_so() -> None:
    parsed = Page(render_report(ddos_log(until=120)))
    assert "The log breaks off" in parsed.text
    assert "until 120.0" in parsed.text
    assert "The log breaks off" not in Page(render_report(DDOS)).text


@pytest.mark.parametrize("pops", [6, 160])
def test_tree_holds_every_event_once_below_its_cause(pops: int) -> None:
    log = Log(ddos_log(pops))
    causes = tree_of(log)
    depth, seen = 0, []
    for token in causes.tokens:
        depth += {"open": 1, "close": -1}.get(token.piece, 0)
        assert depth >= 0
        if token.piece != "close":
            seen.append(token.event)
    assert depth == 0
    assert len(seen) == len(set(seen))
    for event_id in seen[1:]:
        event = log.get(event_id)
        assert event is not None
        cause = log.cause(event)
        assert cause is None or cause.id not in seen or seen.index(cause.id) < seen.index(event_id)
    outside = sum(int(count) for count in re.findall(r"(\d+) × ", causes.aside))
    assert causes.shown + outside == len(log.events)
    applied = {e.id for e in log.of("measure.applied", "measure.lifted", "auction.failed")}
    assert applied <= set(seen)


def test_causes_in_a_circle_come_to_an_end() -> None:
    alarm = {"belief": "overUsage(a>b)", "value": True}
    events = [
        Event("e-0", 0.0, "a", "belief.changed", "e-2", alarm),
        Event("e-1", 1.0, "a", "instance.started", "e-0", {"instance": "i"}),
        Event("e-2", 2.0, "a", "measure.applied", "e-1", {"measure": "m"}),
        Event("e-3", 3.0, "a", "goal.adopted", "e-3", {}),
    ]
    log = Log(events)
    assert [cause.id for cause in islice(log.causes(events[2]), 9)] == ["e-1", "e-0"]
    assert list(islice(log.causes(events[3]), 9)) == []
    assert [token.event for token in tree_of(log).tokens] == ["e-0", "e-1", "e-2", "e-3"]


def test_a_long_log_is_cut_with_a_count() -> None:
    events = [Event("r", 0.0, "run", "run.started", None, {})]
    belief = {"belief": "overUsage(a>b)", "value": True}
    events.append(Event("e-0", 1.0, "a", "belief.changed", "r", belief))
    events += [
        Event(f"e-{n}", 1.0, "a", "goal.adopted", f"e-{n - 1}", {"goal": "g"})
        for n in range(1, 5000)
    ]
    causes = tree_of(Log(events))
    assert causes.shown == 4000
    assert causes.left_out == 1000
    assert "1000 further events had no room" in Page(render_report(events)).text


def _labels(page: str) -> list[tuple[float, float, float]]:
    drawn = page[page.index('class="map"') : page.index('class="controls')]
    found = re.findall(r'<text class="halo" x="([\d.]+)" y="([\d.]+)">([^<]+)</text>', drawn)
    return [(float(x), float(y), 5.0 * len(words)) for x, y, words in found]


def test_names_on_a_large_map_never_cover_each_other() -> None:
    page = render_report(ddos_log(160))
    Page(page)
    labels = _labels(page)
    assert len(labels) > 40
    covering = [
        (one, other)
        for one, other in combinations(labels, 2)
        if abs(one[0] - other[0]) < (one[2] + other[2]) / 2 and abs(one[1] - other[1]) < 10.0
    ]
    assert covering == []


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))
        )
    )
)
@settings(max_examples=40)
def test_pops_keep_inside_the_map_and_apart(graph: tuple[int, list[tuple[int, int]]]) -> None:
    size, pairs = graph
    pops = [f"p{n}" for n in range(size)]
    links = [(pops[a], pops[b]) for a, b in pairs]
    places = list(positions(pops, links, {}, (30.0, 30.0, 1000.0, 600.0), 30.0).values())
    assert len(places) == size
    assert all(30.0 <= x <= 1000.0 and 30.0 <= y <= 600.0 for x, y in places)
    assert all(math.dist(one, other) > 20.0 for one, other in combinations(places, 2))


def test_given_positions_keep_their_order_and_north_is_up() -> None:
    known = {"a": (0.0, 50.0), "b": (10.0, 40.0), "c": (5.0, 45.0)}
    places = positions(list(known), [], known, (0.0, 0.0, 500.0, 500.0), 30.0)
    assert places["a"][0] < places["c"][0] < places["b"][0]
    assert places["a"][1] < places["c"][1] < places["b"][1]


def test_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PhalanxError, match=r"report\.html: cannot be written: "):
        write_report(DDOS[:1], tmp_path / "missing" / "report.html")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(PhalanxError, match="cannot be written"):
        write_report(DDOS[:1], tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def _keys(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(_keys, value))
    if isinstance(value, dict):
        return set(value).union(*map(_keys, value.values()))
    return set()


FIELDS = sorted(_keys([event.data for event in DDOS]))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False)
    | st.sampled_from(["pop1", "pop2", "server", "pop1>pop2", "overUsage(pop1>pop2)", "<b>", ""])
    | st.text(max_size=6)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5)
    ),
    max_leaves=12,
)
EVENTS = st.lists(
    st.tuples(
        st.floats(0, 1e5),
        st.sampled_from(["pop1", "pop2", "network"]),
        st.sampled_from([*KINDS, "a.kind.of.its.own"]),
        st.none() | st.integers(0, 12),
        st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8),
    ),
    max_size=12,
)


@given(EVENTS)
@settings(max_examples=40)
def test_no_log_breaks_the_page(
    rows: list[tuple[float, str, str, int | None, dict[str, Any]]],
) -> None:
    events = [
        Event(f"e{n}", time, agent, kind, None if cause is None else f"e{cause}", data)
        for n, (time, agent, kind, cause, data) in enumerate(rows)
    ]
    page = render_report(events)
    assert_closed_to_the_outside(page, Page(page))


def test_figures_and_ticks_read_well() -> None:
    assert [figure(v) for v in (0.0, -0.001, 1.0, 1.256, 12345.6)] == [
        "0",
        "0",
        "1",
        "1.26",
        "12\u2009345.6",
    ]
    assert [clock(v) for v in (42.0, 725.0)] == ["42\u00a0s", "725\u00a0s"]
    assert [clock(v) for v in (1325.0, 3725.0)] == ["22:05", "1:02:05"]
    assert [axis_clock(v, 1500.0) for v in (0.0, 300.0, 1200.0)] == ["0:00", "5:00", "20:00"]
    assert ticks(0.0, 6.2, 5) == [0.0, 2.0, 4.0, 6.0]
    assert time_ticks(520.0, 12) == [60.0 * n for n in range(9)]


@given(st.floats(1e-3, 1e9), st.integers(2, 12))
def test_ticks_are_few_and_inside(high: float, count: int) -> None:
    for values in (ticks(0.0, high, count), time_ticks(high, count)):
        assert 1 <= len(values) <= count + 1
        assert all(0 <= value <= high * (1 + 1e-6) for value in values)
