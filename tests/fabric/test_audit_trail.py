"""The audit trail: changes of what was sealed are found, and nothing else is."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from phalanx.domain.events import Event, Recorder
from phalanx.fabric.audit_trail import AuditReading, AuditTrail
from phalanx.store.memory import EventLog

RECORDERS = ["pop1", "pop1.2", "network", "a-b"]


def _log(said: list[tuple[str, float]], seal_events: int) -> tuple[list[Event], dict[int, str]]:
    """Return a sealed log of what recorders said, and the heads of its seals."""
    log, heads, now = EventLog(), {}, count()
    trail = AuditTrail(
        Recorder("run", log, lambda: float(next(now)), prefix="audit"),
        seal_events=seal_events,
        sealed=heads.__setitem__,
    )
    log.listen(trail)
    recorders = {name: Recorder(name, log, lambda: float(next(now))) for name in RECORDERS}
    for name, figure in said:
        recorders[name].record(
            "belief.changed", None, figure=figure, text="ü\u202e", some=[1, None]
        )
    trail.seal()
    return list(log), heads


SAID = st.lists(
    st.tuples(st.sampled_from(RECORDERS), st.floats(allow_nan=False, allow_infinity=False)),
    min_size=1,
    max_size=40,
)


def _read(events: list[Event]) -> AuditReading:
    reading = AuditReading()
    for event in events:
        reading.see(event)
    return reading


@given(SAID, st.integers(1, 9), st.randoms(use_true_random=False))
def test_a_log_as_it_was_recorded_is_never_accused_in_whatever_order_it_comes(said, often, random):
    events, heads = _log(said, often)
    whole = _read(events)
    assert not whole.end()
    assert not whole.breaks
    assert all(whole.holds("audit", number, head) for number, head in heads.items())
    random.shuffle(events)
    mixed = _read(events)
    mixed.end()
    assert not mixed.breaks
    last = max(heads)
    assert mixed.holds("audit", last, heads[last])


@given(SAID, st.integers(1, 9), st.data())
def test_every_change_of_what_was_sealed_is_found(said, often, data):
    events, heads = _log(said, often)
    at = data.draw(st.integers(0, len(events) - 1))
    victim = events[at]
    changed = [
        [*events[:at], *events[at + 1 :]],
        [*events[:at], victim, *events[at:]],
        [*events[:at], replace(victim, time=victim.time + 1e-9), *events[at + 1 :]],
        [*events[:at], replace(victim, cause="forged-1"), *events[at + 1 :]],
        [*events[:at], replace(victim, data={**victim.data, "figure": 0.1234}), *events[at + 1 :]],
    ]
    last = max(heads)
    for log in changed:
        if log == events:
            continue
        reading = _read(log)
        loose = reading.end()
        noted = reading.holds("audit", last, heads[last])
        # Without a noted head, dropping or changing the last seals leaves what they covered open.
        assert reading.breaks or not noted
        assert reading.breaks or loose or victim.kind == "audit.sealed"


@given(SAID, st.integers(1, 9))
def test_seals_made_anew_do_not_give_the_head_that_was_noted(said, often):
    _, heads = _log(said, often)
    forged, _ = _log([*said[:-1], (said[-1][0], said[-1][1] + 1.0 or 5.0)], often)
    last = max(heads)
    reading = _read(forged)
    reading.end()
    assert not reading.breaks
    honest = forged == _log(said, often)[0]
    assert reading.holds("audit", last, heads[last]) == honest


def test_seals_that_are_no_seals_are_no_ground_for_a_traceback():
    for heads in (
        None,
        [],
        {"pop1": 7},
        {"pop1": ["1", 2]},
        {"pop1": [0, "x"]},
        {"pop1": [True, ""]},
    ):
        reading = _read([Event("audit-1", 0.0, "run", "audit.sealed", None, {"heads": heads})])
        reading.end()
        assert reading.seals == 1
    lost = Event("audit-1", 0.0, "run", "audit.sealed", None, {"heads": {"pop1": [3, "0" * 64]}})
    reading = _read(
        [Event("pop1-1", 0.0, "pop1", "x", None, {}), Event("x", 0, "", "y", None, {}), lost]
    )
    reading.end()
    assert [(b.recorder, b.first, b.last) for b in reading.breaks] == [("x", 0, 0), ("pop1", 2, 3)]
