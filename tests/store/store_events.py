"""Events that the tests of the stores share."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from phalanx.domain.events import Event
from phalanx.reporting.event_text import KINDS

ROOT = Event("run-1", 0.0, "run", "run.started", None, {"scenario": "ddos", "seed": 1})


def chain(length: int, *, agent: str = "pop1") -> list[Event]:
    """Return a root and ``length`` events, each caused by the one before."""
    events = [ROOT]
    for number in range(1, length + 1):
        kind = "belief.changed" if number % 2 else "goal.adopted"
        data = {"number": number, "goal": "¬overUsage(pop6>server)"}
        events.append(Event(f"{agent}-{number}", number / 2, agent, kind, events[-1].id, data))
    return events


# What UTF-8 and PostgreSQL's text have a form for.
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """Events with unique ids, each with a cause before it or none."""
    ids = draw(st.lists(WORDS, unique=True, max_size=8))
    events = []
    for number, event_id in enumerate(ids):
        cause = draw(st.sampled_from([None, *ids[:number]]))
        events.append(
            Event(
                event_id,
                draw(st.floats(0, 1e9)),
                draw(WORDS),
                draw(st.sampled_from(sorted(KINDS)) | WORDS),
                cause,
                draw(st.dictionaries(WORDS, JSON, max_size=4)),
            )
        )
    return events
