"""The verdict on an attack follows the stated rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.domain.events import Event
from phalanx.reporting.response import ResponseView
from phalanx.reporting.traffic import QUIET_SHARE, AttackOutcome, attack_span, judge


def followed(events: list[Event]) -> ResponseView:
    view = ResponseView()
    for event in events:
        view.add(event)
    return view


def judged(events: list[Event]) -> AttackOutcome:
    return judge(followed(events).traffic, max(event.time for event in events) if events else 0.0)


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
