"""``phalanx trust`` as an operator meets it, on the ledger that a run has left."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from phalanx.cli import ledger as ledger_options
from phalanx.cli.main import app
from phalanx.domain.trust import ServiceLevel
from phalanx.ledger.ethereum import Account
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.scenario import FaultSpec, TrustSpec
from phalanx.runtime.system import System
from tests.nightly import at_night

SCENARIO = Path(__file__).parents[2] / "scenarios" / "infected-agent.yaml"
OPERATOR = sha256(b"1/secaas/account").digest()
"""Key of what enrols the agents of a run with seed 1."""


def phalanx(*arguments: object) -> tuple[int, str, str]:
    given = [str(argument) for argument in arguments]
    result = CliRunner().invoke(app, ["trust", *given], env={"COLUMNS": "160"})
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


def told(*arguments: object) -> str:
    code, out, err = phalanx(*arguments)
    assert (code, err) == (0, "")
    return out


def rows(*arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in told(*arguments, "--json").splitlines()]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the ledger of a run in which pop1 was infected at 20 s."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    trust = TrustSpec(ledger=f"evm:{path}", period_s=10.0)
    faults = (FaultSpec(20, "infect", agent="pop1"),)
    System(replace(load_scenario(SCENARIO), traffic=(), faults=faults, trust=trust)).run(60)
    return path


@pytest.fixture
def ledger(ran: Path, tmp_path: Path) -> str:
    """Return the URL of a copy that a test may write into, and need not wait for."""
    return f"evm:{shutil.copy(ran, tmp_path / 'own.db')}?interval=0.1"


def key(folder: Path, octets: bytes = OPERATOR, mode: int = 0o600) -> Path:
    path = folder / f"{octets[:2].hex()}.key"
    path.write_text(octets.hex() + "\n")
    path.chmod(mode)
    return path


def test_status_shows_each_agents_standing_and_who_verified_it(ran: Path) -> None:
    url = f"evm:{ran}"
    said = told("status", "--ledger", url).splitlines()
    row = next(line.split() for line in said if line.startswith("pop1"))
    assert row[1:3] == ["quarantined", "0.000"]
    assert "keys of epoch 2, handed out by pop" in said[-1]
    assert said[-1].endswith("to 5 of 6 agents")
    (found,) = rows("status", "--ledger", url)
    agents = {agent["agent"]: agent for agent in found["agents"]}
    assert agents["pop1"]["results"]["contraindicated"] >= 2
    for name in ("pop2", "pop3", "pop4", "pop5", "pop6"):
        assert agents[name]["standing"] == "trusted"
        assert agents[name]["score"] > 0.6
        assert len(agents[name]["verified"]["by"]) >= 2
        assert name not in agents[name]["verified"]["by"]
    assert found["round"] >= 4


def test_history_tells_enrolment_results_and_revocation_in_the_ledgers_order(ran: Path) -> None:
    said = told("history", "pop1", "--ledger", f"evm:{ran}").splitlines()
    assert "secaas enrols pop1 as agent, which runs phalanx-agent" in said[0]
    assert "chain, root secaas: secaas finds pop1 genuine" in said[1]
    assert said[1].endswith("→ pop1 is trusted")
    assert "finds pop1 not genuine: text-altered phalanx-agent:" in said[-2]
    assert said[-2].endswith("→ pop1 is quarantined")
    assert "revokes pop1: contraindicated by a majority of its verifiers" in said[-1]
    every = rows("history", "--ledger", f"evm:{ran}")
    assert [e["position"] for e in every] == sorted(e["position"] for e in every)
    about = rows("history", "pop1", "--ledger", f"evm:{ran}")
    assert about == [e for e in every if e["agent"] == "pop1"]
    assert {e["agent"] for e in every} == {"secaas", *(f"pop{n}" for n in range(1, 7))}


@at_night
def test_service_levels_are_shown_with_the_words_of_both_sides(tmp_path: Path) -> None:
    url = f"evm:{tmp_path / 'ledger.db'}"
    trust = TrustSpec(url, 10.0, service_levels=ServiceLevel(100.0, 0.02))
    lost = FaultSpec(30, "lose", agent="pop4", share=0.3)
    System(
        replace(load_scenario(SCENARIO), traffic=(), faults=(lost,), trust=trust, duration_s=250)
    ).run()
    said = " ".join(told("status", "--ledger", url).split())  # columns are folded
    assert re.search(r"pop\d: \d×, last 0 ms", said)
    assert " never " in said
    (found,) = rows("status", "--ledger", url)
    broken = [each for each in found["associations"] if each["breaches"]]
    assert broken
    assert all("pop4" in (each["level"]["a"], each["level"]["b"]) for each in broken)
    lines = told("history", "pop4", "--ledger", url).splitlines()
    assert any("is for a service level of 100 ms and a loss of 2 % at most" in x for x in lines)
    assert any(
        re.search(r"says that the service level between .*pop4.* is broken: ", x) for x in lines
    )


def test_plan_shows_who_verifies_whom_and_how_likely_the_infected_stay_unseen(ran: Path) -> None:
    said = told("plan", "--ledger", f"evm:{ran}", "--infected", 2)
    assert "a round takes 10 s, 2 verifiers decide" in said
    (found,) = rows("plan", "--ledger", f"evm:{ran}", "--infected", 3)
    for row in found["plan"]:
        assert len(row["verifiers"]) == 3
        assert row["agent"] not in row["verifiers"]
        assert "pop1" not in row["verifiers"]
    # Two honest and two liars beside the one; three are drawn: both liars with one half.
    assert found["unseen"] == pytest.approx([0.5, 0.5**5, 0.5**10])


def test_an_operator_revokes_an_agent_and_enrols_it_again(ledger: str, tmp_path: Path) -> None:
    signed = ("--ledger", ledger, "--key", key(tmp_path))
    assert told("revoke", "pop2", "--reason", "sold", *signed) == "pop2 is revoked\n"
    (found,) = rows("status", "--ledger", ledger)
    agents = {agent["agent"]: agent for agent in found["agents"]}
    assert (agents["pop2"]["standing"], found["epoch"]) == ("quarantined", 3)
    file = tmp_path / "pop2.yaml"
    account = Account(sha256(b"1/pop2/account").digest()).address
    file.write_text(
        f"agent: pop2\naccount: '{account}'\nrole: agent\nsoftware: phalanx-agent 9\n"
        f"reference: '{'ab' * 32}'\n"
    )
    assert told("enrol", file, *signed) == "pop2 is enrolled, and to be verified\n"
    said = told("history", "pop2", "--ledger", ledger).splitlines()
    assert "secaas revokes pop2: sold; epoch 3 of keys begins → pop2 is quarantined" in said[-2]
    assert said[-1].endswith("which runs phalanx-agent 9 → pop2 is enrolled")
    # The ledger itself refuses what its rules forbid.
    code, _, err = phalanx("enrol", file, *signed)
    assert (code, err) == (1, "the ledger refuses it: the agent is enrolled already\n")
    stranger = key(tmp_path, bytes(range(1, 33)))
    code, _, err = phalanx("revoke", "pop3", "--reason", "x", "--ledger", ledger, "--key", stranger)
    assert (code, err) == (1, "the ledger refuses it: only an operator may do this\n")


def refused(*arguments: object, code: int = 2) -> str:
    found, out, err = phalanx(*arguments)
    assert (found, out) == (code, "")
    assert err.count("\n") == 1 or "Usage" in err
    return err


VERBS = (
    ("status",),
    ("history",),
    ("plan",),
    ("revoke", "pop1", "--reason", "x", "--key"),
    ("enrol", "", "--key"),
)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_ledger_that_is_not_there_is_refused_by_every_verb(
    verb: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_options, "WAIT_S", 0.3)
    words: list[object] = [*verb]
    if verb[-1] == "--key":
        words.append(key(tmp_path))
    if verb[0] == "enrol":
        words[1] = file = tmp_path / "a.yaml"
        file.write_text("{agent: a, account: b, role: agent, software: '', reference: ''}")
    missing = tmp_path / "none.db"
    assert refused(*words, "--ledger", f"evm:{missing}") == f"there is no ledger {missing}\n"
    assert not missing.exists()
    assert "must be a URL of" in refused(*words, "--ledger", "chain")
    assert "Missing option '--ledger'" in refused(*words)
    # Those are wrong words; a ledger that does not answer is not: nothing is shown of it.
    silent = ("--ledger", "memory:")
    assert "nobody has founded the ledger" in refused(*words, *silent, code=1)


def test_a_node_that_cannot_be_reached_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_options, "WAIT_S", 0.3)
    url = f"http://127.0.0.1:1?operator=0x{'11' * 20}"
    assert "the ledger cannot be read: " in refused("status", "--ledger", url, code=1)


def test_a_ledger_that_was_altered_is_refused(ledger: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "own.db") as file:
        file.execute("update blocks set timestamp = timestamp + 1 where number = 5")
    assert "was altered at block 5" in refused("status", "--ledger", ledger)


@pytest.mark.parametrize("verb", [("history", "pop9"), ("revoke", "pop9", "--reason", "x")])
def test_an_agent_that_was_never_enrolled_is_refused(
    verb: tuple[str, ...], ran: Path, tmp_path: Path
) -> None:
    signed = ("--key", key(tmp_path)) if verb[0] == "revoke" else ()
    assert "'pop9'" in refused(*verb, "--ledger", f"evm:{ran}", *signed)


def test_more_infected_than_there_are_is_refused(ran: Path) -> None:
    assert "5 agents in all" in refused("plan", "--ledger", f"evm:{ran}", "--infected", 6)


def test_keys_that_are_none_or_that_others_may_read_are_refused(ran: Path, tmp_path: Path) -> None:
    words = ("revoke", "pop2", "--reason", "x", "--ledger", f"evm:{ran}", "--key")
    assert "cannot be read" in refused(*words, tmp_path / "none.key")
    assert "chmod 600" in refused(*words, key(tmp_path, bytes(range(32)), 0o644))
    for octets in (b"short", bytes(33)):
        assert "64 hexadecimal digits" in refused(*words, key(tmp_path, octets))
    (tmp_path / "words.key").write_bytes(b"\xffsecret")
    (tmp_path / "words.key").chmod(0o600)
    assert "64 hexadecimal digits" in refused(*words, tmp_path / "words.key")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("[1]", "agent"),
        ("{agent: a}", "account"),
        ("{agent: a, account: b, role: c, software: d, reference: e, key: f}", "key"),
    ],
)
def test_enrolments_that_are_none_are_refused(
    text: str, said: str, ran: Path, tmp_path: Path
) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(text)
    assert said in refused("enrol", file, "--ledger", f"evm:{ran}", "--key", key(tmp_path))


def test_an_enrolment_that_no_ledger_can_keep_is_refused(ledger: str, tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("{agent: a, account: b, role: agent, software: d, reference: e}")
    said = refused("enrol", file, "--ledger", ledger, "--key", key(tmp_path), code=1)
    assert "no Enrolled that can be recorded" in said


def test_an_agent_is_attested_as_its_verifiers_find_it(
    ledger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No agent runs any more, so what is printed is what was found in the round that is open."""
    monkeypatch.setattr("phalanx.cli.trust.ATTEST_S", 0.5)
    signed = ("--ledger", ledger, "--key", key(tmp_path))
    (before,) = rows("plan", "--ledger", ledger)
    said = {row["agent"]: row["said"] for row in before["plan"]}
    agent = next(name for name, found in said.items() if len(found) >= 2)
    line = told("attest", agent, *signed)
    assert line.startswith(f"{agent} is trusted; round {before['round']}: affirming (pop")
    code, out, err = phalanx("attest", "pop1", *signed)
    assert (code, err) == (1, "")
    assert out == f"pop1 is quarantined; round {before['round']}: nobody has looked\n"
    stranger = ("--ledger", ledger, "--key", key(tmp_path, bytes(range(1, 33))))
    code, _, err = phalanx("attest", agent, *stranger)
    assert (code, err) == (1, "the ledger refuses it: only an operator may do this\n")
    assert "agent 'pop9'" in refused("attest", "pop9", *signed, code=2)
