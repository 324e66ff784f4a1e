"""The journal in databases of both kinds: one orchestrator at a time, whatever ends it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest
from service_world import NAME, World, asked
from tests.store.store_databases import in_postgresql, postgresql_schema

from phalanx.domain.errors import StoreError
from phalanx.orchestration.journal import ClaimedError, JournalNote, ServiceJournal, StepStage
from phalanx.store.database import Database
from phalanx.store.sql import SqlEventStore

RESULT = '{"detail": "é"}'.encode()


@pytest.fixture(params=["sqlite", in_postgresql])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'services.db'}"
    else:
        yield from postgresql_schema()


def test_a_service_lives_in_either_database(url: str) -> None:
    with Database(url) as database:
        world = World(crashes=[17, 40, 8], database=database)
        assert world.until_done(lambda o: o.deploy(asked())) is None
        world.crashes = [12]
        assert world.until_done(lambda o: o.remove(NAME)) is None
        assert world.processes == {}
        journal = ServiceJournal(database)
        assert journal.unsent() == []
        assert [e.id for e in journal.events(NAME)] == [e.id for e in world.sent]


def test_who_lives_is_not_taken_over_and_who_died_is(url: str) -> None:
    script = f"""
        import sys
        from phalanx.store.database import Database
        from phalanx.orchestration.journal import ServiceJournal
        claim = ServiceJournal(Database({url!r})).claim({NAME!r})
        print(claim.fence, flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with (
        Database(url) as database,
        subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as other,
    ):
        journal = ServiceJournal(database)
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "1\n"
            with pytest.raises(ClaimedError, match=f"process {other.pid} of this machine works"):
                journal.claim(NAME)
        finally:
            other.kill()
            other.wait()
        assert journal.claim(NAME).fence == 2


def test_events_wait_until_they_have_arrived_each_after_its_cause(url: str) -> None:
    with Database(url) as database:
        journal = ServiceJournal(database)
        claim = journal.claim(NAME)
        revision = claim.begin("deploy", b"{}", JournalNote("service.requested", {"revision": 1}))
        note = JournalNote("service.step", {"step": "request"})
        claim.step(revision, "0.request", StepStage.INTENDED)
        claim.step(revision, "0.request", StepStage.DONE, RESULT, note)
        first, second = journal.unsent()
        assert (first.cause, second.cause) == (None, first.id)
        journal.sent([first])
        assert journal.unsent() == [second]
        found = journal.read(NAME)
        assert found is not None
        assert [(s.name, s.stage, bytes(s.result or b"")) for s in found.change.steps] == [
            ("0.request", StepStage.DONE, RESULT)
        ]
        claim.release()
        assert journal.claim(NAME).fence == 2


def test_a_journal_stands_beside_the_events_of_a_store(url: str) -> None:
    with SqlEventStore(url) as store:
        assert ServiceJournal(store.database).names() == ()
    with Database(url) as again:
        assert ServiceJournal(again).read("other") is None
    with pytest.raises(StoreError, match="the store must be"):
        Database("somewhere")
