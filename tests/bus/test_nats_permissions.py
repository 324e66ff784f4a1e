"""The server permits each identity exactly what ``Grants`` say, both ways."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats_lab import ALL, DOMAIN, KEEPER, Ground, needs_server

from phalanx.bus import subjects
from phalanx.bus.nats.client import NatsClient
from phalanx.bus.nats.config import CURSORS, bucket, heard_by, permissions_of, user_of
from phalanx.bus.permissions import grants
from phalanx.bus.subjects import covers, matches
from phalanx.identity.names import Identity, Role

needs_server()
pytestmark = pytest.mark.nats

NAMES = [identity.name for identity in ALL]
SUBJECTS = sorted(
    {
        subject
        for one in NAMES
        for other in ("a", "op", one)
        for subject in (
            subjects.message(DOMAIN, other, one),
            subjects.multicast(DOMAIN, one),
            subjects.event(DOMAIN, one, "goal.adopted"),
            subjects.call(DOMAIN, other, "status", "agent", one),
            subjects.call(DOMAIN, other, "status", "operator", one),
            subjects.announcement(DOMAIN, one, "alerts"),
            f"$KV.{subjects.REGISTRY}.{one}",
        )
    }
)
PATTERNS = sorted(
    {
        pattern
        for one in (*NAMES, "*")
        for pattern in (
            subjects.pattern(DOMAIN, "msg", one, subjects.ONE),
            subjects.pattern(DOMAIN, "msg", subjects.ONE, one),
            subjects.pattern(DOMAIN, "mcast", one),
            subjects.pattern(DOMAIN, "evt", one, subjects.REST),
            subjects.pattern(DOMAIN, "call", one, subjects.ONE, subjects.ONE, subjects.ONE),
            subjects.pattern(DOMAIN, "pub", one, subjects.REST),
            f"$KV.{subjects.REGISTRY}.{one}",
        )
    }
)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with Ground.at_servers(tmp_path_factory.mktemp("lab"), streams=False) as made:
        yield made


def violations(
    ground: Ground, client: NatsClient, call: Callable[[str], Awaitable[object]], names: list[str]
) -> set[str]:
    """Return the subjects that the server refuses among ``names``."""
    heard: list[str] = []
    client.on_error(heard.append)
    for name in names:
        client._connection.send(partial(call, name), bounded=False)
    done: list[object] = []
    ground.rest(0.1)
    client.administer("NOTHING", {}, done.append)
    ground.rest(0.1)
    refused = {text.split('"')[1] for text in heard}  # nats-py makes it all small
    return {name for name in names if name.lower() in refused}


@pytest.mark.parametrize("identity", ALL, ids=lambda identity: identity.role.value)
def test_the_server_permits_what_is_granted_and_nothing_else(
    ground: Ground, identity: Identity
) -> None:
    granted = grants(identity)
    client = ground.join(identity)
    nats = client._connection.nats
    refused = violations(ground, client, nats.publish, SUBJECTS)
    allowed = {subject for subject in SUBJECTS if granted.may_publish(subject)}
    allowed |= {f"$KV.{table}.{key}" for table, key in granted.put}
    assert set(SUBJECTS) - refused == allowed & set(SUBJECTS)
    root = heard_by(identity)
    heard = [f"{root}.{pattern}" for pattern in PATTERNS]
    assert set(heard) - violations(ground, client, nats.subscribe, heard) == {
        f"{root}.{pattern}" for pattern in PATTERNS if granted.may_subscribe(pattern)
    }


@pytest.mark.parametrize("identity", ALL, ids=lambda identity: identity.role.value)
def test_streams_and_tables_are_read_by_whom_it_is_granted(
    ground: Ground, identity: Identity
) -> None:
    granted = grants(identity)
    wanted = {
        subjects.EVENTS: f"$JS.API.DIRECT.GET.{subjects.EVENTS}",
        subjects.REGISTRY: f"$JS.API.DIRECT.GET.{bucket(subjects.REGISTRY)}",
    }
    client = ground.join(identity)
    refused = violations(ground, client, client._connection.nats.publish, [*wanted.values()])
    allowed = {name for name, subject in wanted.items() if subject not in refused}
    if identity is not KEEPER:
        assert allowed == {*granted.follow, *granted.watch}


def test_only_the_keeper_has_the_interface_of_the_server() -> None:
    wide = {"$JS.API.>", "$JS.>", "$SYS.>", ">", "_INBOX.>"}
    for identity in ALL:
        permissions = permissions_of(identity)
        found = wide & {*permissions.publish, *permissions.subscribe}
        assert found == ({"$JS.API.>"} if identity is KEEPER else set())
        assert not any(
            word in subject
            for subject in permissions.publish
            for word in ("STREAM.", "CONSUMER", "DELETE", "PURGE", "$JS.ACK", "SNAPSHOT")
        )


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)
identities = st.builds(Identity, names, st.sampled_from(Role), st.just(DOMAIN))


@given(identities, identities)
def test_no_permission_of_one_lets_it_speak_for_another(one: Identity, other: Identity) -> None:
    if one.name == other.name or one.role is Role.BROKER:
        return
    mine = permissions_of(one).publish
    theirs = permissions_of(other)
    inbox = f"_INBOX_{subjects.token(other.name)}.x.y"
    assert not any(matches(allowed, inbox) for allowed in mine)
    assert not any(covers(allowed, inbox) for allowed in permissions_of(one).subscribe)
    own = [subject for subject in theirs.publish if other.name in subject.split(".")]
    for subject in own:
        if CURSORS not in subject and not subject.startswith("$JS"):
            assert not any(covers(allowed, subject) for allowed in mine)
    assert user_of(one) != user_of(other)
