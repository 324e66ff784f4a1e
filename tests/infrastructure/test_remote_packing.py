"""What an agent and the service of its infrastructure say to each other survives, or is refused."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from tests.struct_values import values

from phalanx.domain.actions import Action, Done, Outcome, Percept
from phalanx.infrastructure.remote import PackingError, PerformRequest, pack, unpack

FAMILIES = {"action": Action, "outcome": Outcome, "percept": Percept}


@given(st.data(), st.sampled_from(sorted(FAMILIES)))
def test_values_survive(data: st.DataObject, family: str) -> None:
    value = data.draw(values(FAMILIES[family]))
    request = msgspec.json.encode(PerformRequest("a", pack(value)))
    assert unpack(msgspec.json.decode(request, type=PerformRequest).action, family) == value


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (pack(Done()), "'Done' is no action"),
        (("Do", Raw(b"{}")), "'Do' is no action"),
        (("Stop", Raw(b"[]")), "no action: Stop: Expected `object`"),
        (("Stop", Raw(b"{")), "no action: Stop: "),
        (
            ("Enforce", Raw(b'{"measure":"m","instance":"i","effect":"e","rule":{"match":{}}}')),
            "verdict",
        ),
    ],
    ids=range(5),
)
def test_what_is_no_action_is_refused(packed: tuple[str, Raw], reason: str) -> None:
    with pytest.raises(PackingError, match=reason):
        unpack(packed, "action")


@given(st.data(), st.sampled_from(sorted(FAMILIES)))
def test_truncated_and_flipped_values_are_read_or_refused(data: st.DataObject, family: str) -> None:
    name, raw = pack(data.draw(values(FAMILIES[family])))
    octets = bytearray(bytes(raw))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(octets) - 1))
        if data.draw(st.booleans()):
            del octets[at + 1 :]
        else:
            octets[at] ^= 1 << data.draw(st.integers(0, 7))
    with suppress(PackingError):
        value = unpack((name, Raw(bytes(octets))), family)
        assert type(value).__name__ == name
