"""Trust Level Agreements: the document, the scores that follow, and who goes by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from typer.testing import CliRunner

from phalanx.auction.outlook import Outlook
from phalanx.cli.main import app
from phalanx.coordination.contacts import LoopContacts
from phalanx.domain.errors import ScenarioError
from phalanx.domain.trust import AttestationResult, TrustTier
from phalanx.ledger import RecordedEntry
from phalanx.ledger.entries import Attested, Enrolled, Entry, Planned, RoundOpened
from phalanx.runtime.loading import offences, parse_scenario
from phalanx.runtime.scenario import Scenario, TrustSpec
from phalanx.runtime.system import System
from phalanx.runtime.whatif import what_if
from phalanx.slices.agreements import AgreedPop, Trusted, parse_agreement, scores
from phalanx.slices.model import (
    ManagedFunction,
    NetworkSlice,
    NetworkSliceSubnet,
    SlicesSpec,
    SNssai,
)
from phalanx.trust.register import FORGETTING, TrustRegister
from phalanx.trust.score import TrustAttribute
from tests.mutations import mutated
from tests.nightly import examples
from tests.one_line import taken_or_refused

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "tla.yaml"
GOOD = EXAMPLE.read_text(encoding="utf-8")
TREE: dict[str, Any] = yaml.safe_load(GOOD.replace("2026-11-01", "'2026-11-01'"))
TREE["certificates"] = [{**c, **{k: str(c[k]) for k in ("issued", "until")}}
                        for c in TREE["certificates"]]  # fmt: skip
AGREED = parse_agreement(GOOD, "f.yaml")
FEW = settings(max_examples=examples(24), suppress_health_check=list(HealthCheck))


def tla(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["tla", *map(str, arguments)], env={"COLUMNS": "160"})
    assert "Traceback" not in done.output
    return done.exit_code, done.stdout, done.stderr


class Group:
    """A ledger of agents that are found genuine in a chain, and in rounds of 10 s."""

    def __init__(self, *agents: str, **half_lives: float) -> None:
        self.register = TrustRegister(
            half_lives={TrustAttribute(k.replace("_", "-")): v for k, v in half_lives.items()}
        )
        self.add(0.0, Enrolled("secaas", "0x0", "operator", "", ""))
        self.add(0.0, Planned(10.0, 2))
        for name in agents:
            self.add(0.0, Enrolled(name, f"0x{name}", "agent", "phalanx 1", ""))
        for name, by in zip(agents, ("secaas", *agents), strict=False):
            self.add(
                1.0, Attested(AttestationResult(name, by, TrustTier.AFFIRMING, 0, 0.0, "", by))
            )

    def add(self, at_s: float, entry: Entry) -> None:
        self.register.apply(RecordedEntry(self.register.position + 1, at_s, "0x", entry))

    def rounds(self, until: int, tier: TrustTier = TrustTier.AFFIRMING, of: str = "") -> None:
        for number in range(self.register.round + 1, until + 1):
            self.add(10.0 * number, RoundOpened(number, f"{number:064x}"))
            for name in self.register.members:
                said = tier if of in ("", name) else TrustTier.AFFIRMING
                for by in self.register.verifiers_of(name):
                    found = AttestationResult(name, by, said, number, 0.0, "", "")
                    self.add(10.0 * number, Attested(found))


# -- the document -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "field", "why"),
    [
        ("weight: 2,", "weight: -2,", "attributes.compliance.weight", "from 0 to 100"),
        ("minimum: 0.4", "minimum: 1", "attributes.compliance.minimum", "to below 1"),
        ("  compliance:", "  complience:", "attributes.complience", "did you mean 'compliance'?"),
        ("as_of: 2026-11-01", "as_of: 1026-11-01", "as_of", "a date such as 2026-01-31"),
        ("as_of: 2026-11-01", "as_of: 2026-11-31", "as_of", "is no day"),
        ("[FI, SE]", "[FI, SX]", "locations.jurisdictions[1]", "known are DE, FI, SE, US"),
        ("of: north,", "of: nord,", "certificates[0].of", "did you mean 'north'?"),
        ("kind: operator", "kind: router", "certificates[0].kind", "one of agent, function"),
        ("by: kiwa, issued: 2026", "by: kiwi, issued: 2026", "certificates[0].by", "'kiwa'?"),
        ("until: 2029", "until: 2019", "certificates[0].until", "before it is issued"),
        ("standards: [ISO/IEC 27001]", "standards: [GDPR]", "certificates[0].standard", "GDPR"),
        ("name: lulea", "name: helsinki", "pops[1].name", "already that of pops[0]"),
    ],
)
def test_what_is_wrong_is_one_line_with_code_2(
    tmp_path: Path, old: str, new: str, field: str, why: str
) -> None:
    file = tmp_path / "tla.yaml"
    assert old in GOOD
    file.write_text(GOOD.replace(old, new, 1))
    code, out, err = tla("check", file)
    line = " ".join(err.split())
    assert (code, out) == (2, "")
    assert f"tla.yaml: {field} (line" in line
    assert why in line


def test_an_agreement_in_which_nothing_counts_is_refused() -> None:
    zero = {name: {"weight": 0} for name in TREE["attributes"]}
    with pytest.raises(ScenarioError, match="no attribute has a weight"):
        parse_agreement(json.dumps({**TREE, "attributes": zero}), "f.yaml")


@FEW
@given(mutated(TREE))
def test_values_changed_anywhere(tree: Any) -> None:
    taken = taken_or_refused(ScenarioError, lambda: parse_agreement(json.dumps(tree), "f.yaml"))
    if taken is not None:
        scores(taken, Trusted({"a": "helsinki"}), Group("a", "b").register)


@FEW
@given(st.integers(0, len(GOOD)), st.integers(0, 30), st.text(max_size=5))
def test_good_text_damaged_anywhere(at: int, gone: int, put: str) -> None:
    text = GOOD[:at] + put + GOOD[at + gone :]
    taken_or_refused(ScenarioError, lambda: parse_agreement(text, "f.yaml"))


def test_check_and_show_say_what_it_asks() -> None:
    code, out, _ = tla("check", EXAMPLE)
    assert (code, out.split(": ", 1)[1].strip()) == (
        0,
        "ok, north-core with 1 standard, 4 PoPs, 2 certificates",
    )
    code, out, _ = tla("show", EXAMPLE)
    said = " ".join(out.split())
    assert "refused at ashburn: ashburn is in US; the agreement north-core allows FI, SE" in said
    code, out, _ = tla("show", EXAMPLE, "--json")
    assert parse_agreement(json.dumps(json.loads(out)["agreement"]), "f.yaml") == AGREED


# -- the score --------------------------------------------------------------------------------


def test_without_an_agreement_the_score_is_that_of_the_ledger() -> None:
    group = Group("a", "b", "c")
    group.rounds(5)
    group.rounds(6, TrustTier.WARNING, "a")
    group.rounds(7)
    seen_for, against = 1.0, 0.0
    for _ in range(5):
        seen_for = seen_for * FORGETTING + 1.0
    seen_for, against = seen_for * FORGETTING, against * FORGETTING + 0.5
    expected = (seen_for + 1) / (seen_for + against + 2)
    assert group.register.members["a"].score == pytest.approx(expected, abs=1e-12)


def test_each_part_names_its_evidence_and_parts_make_the_score() -> None:
    group = Group("a", "b", "c", attestation=40.0)
    group.rounds(9)
    found = scores(AGREED, Trusted(dict.fromkeys("abc", "helsinki")), group.register)
    score = found["agent", "a"]
    parts = {part.attribute.value: part for part in score.parts}
    assert parts["compliance"].evidence == "ISO/IEC 27001 by kiwa until 2029-01-31"
    assert parts["operating-location"].evidence == "helsinki in FI"
    assert parts["attestation"].evidence.startswith("ledger entry ")
    assert parts["age"].evidence == "one of the group for 90 s"
    seen_for = sum(p.weight * p.seen_for for p in score.parts)
    total = sum(p.weight * (p.seen_for + p.against) for p in score.parts)
    assert score.value == pytest.approx((seen_for + 1) / (total + 2))
    fading = 1 / (1 - 0.5 ** (10.0 / 40.0))  # of rounds of 10 s, and a half-life of 40 s
    assert parts["attestation"].seen_for < fading < 12.9


def test_a_certificate_fades_by_its_age_and_ends_on_its_day() -> None:
    group = Group("a", "b", "c")
    values = []
    for days in (0, 300, 600, 900):
        group.register.now_s = days * 86_400.0
        found = AGREED.evidence("pop", "lulea", "lulea", group.register.now_s)
        values.append(found[TrustAttribute.COMPLIANCE])
    assert [v.seen_for for v in values] == sorted((v.seen_for for v in values), reverse=True)
    assert values[0].seen_for == pytest.approx(0.5 ** (273 * 86_400 / 31_536_000))
    assert (values[-1].seen_for, values[-1].against) == (0.0, 1.0)  # ended on 2029-01-31
    assert "attested by nobody" in values[-1].named


class Counted(tuple[Any, ...]):
    """A list of an agreement that counts how often it was gone through."""

    rounds = 0

    def __iter__(self) -> Any:
        self.rounds += 1
        return super().__iter__()


def test_many_pops_and_certificates_are_gone_through_once_each() -> None:
    """Scores are worked out anew with each entry of the ledger."""
    group = Group("a", "b", "c")
    names = [f"pop{number}" for number in range(300)]
    pops = Counted(AgreedPop(name, "FI", f"operator{name}") for name in names)
    covered = [replace(AGREED.certificates[0], of=name, kind="pop") for name in names[::2]]
    certificates = Counted(covered)
    agreement = replace(AGREED, pops=pops, certificates=certificates)
    found = scores(agreement, Trusted(dict.fromkeys("abc", names[0])), group.register)
    assert certificates.rounds == 1
    assert pops.rounds <= 4
    compliant = {
        name for name in names for p in found["pop", name].parts
        if p.attribute is TrustAttribute.COMPLIANCE and "attested by nobody" not in p.evidence
    }  # fmt: skip
    assert compliant == {*names[::2]}
    assert scores(agreement, Trusted(), group.register)["operator", f"operator{names[1]}"]


def test_a_value_below_its_minimum_leaves_nothing() -> None:
    uncertified = replace(AGREED, certificates=())
    found = scores(uncertified, Trusted({"a": "helsinki"}), Group("a", "b", "c").register)
    assert found["agent", "a"].value == 0.0
    assert found["agent", "a"].reason.startswith("compliance 0.333, at least 0.4 agreed")


def test_what_stands_on_others_is_trusted_by_the_evidence_of_the_least_of_them() -> None:
    group = Group("a", "b", "c", "d")
    group.rounds(6, TrustTier.WARNING, "b")
    of = Trusted(
        {"a": "helsinki", "b": "lulea", "c": "frankfurt", "d": "ashburn"},
        {"amf": "helsinki", "smf": "lulea", "upf": "ashburn"},
        {"core": ("amf", "smf"), "far": ("amf", "upf")},
    )
    found = scores(AGREED, of, group.register)
    values = {name: found["pop", name].value for name in ("helsinki", "lulea", "frankfurt")}
    assert min(values, key=lambda name: values[name]) == "lulea"
    assert found["service", "core"].value < found["function", "amf"].value
    attested = {p.attribute: p for p in found["operator", "north"].parts}
    lulea = {p.attribute: p for p in found["pop", "lulea"].parts}
    assert attested[TrustAttribute.ATTESTATION] == lulea[TrustAttribute.ATTESTATION]
    for kind, name in (("pop", "ashburn"), ("function", "upf"), ("service", "far")):
        assert found[kind, name].value == 0.0  # type: ignore[index]
        assert "ashburn is in US" in found[kind, name].reason  # type: ignore[index]


# -- who goes by it ---------------------------------------------------------------------------


POPS = {"pop1": "FI", "pop2": "SE", "pop3": "US", "pop4": "FI", "pop5": "FI", "pop6": "FI"}


@pytest.fixture(scope="module")
def plan() -> Scenario:
    agreed = {
        **TREE,
        "locations": {"jurisdictions": ["FI", "SE"]},
        "pops": [{"name": n, "jurisdiction": j, "operator": "north"} for n, j in POPS.items()],
        "certificates": [TREE["certificates"][0] | {"of": "pop5", "kind": "pop"}],
        "attributes": {"compliance": {"weight": 4}},
    }
    raw = yaml.safe_load((ROOT / "scenarios" / "lying-agent.yaml").read_text())
    raw |= {"agreement": agreed, "faults": [], "traffic": [], "duration_s": 40}
    return parse_scenario(json.dumps(raw), "f.yaml")


def test_an_agreement_needs_agents_that_attest_each_other(plan: Scenario) -> None:
    assert dict(offences(replace(plan, trust=None)))["trust"].startswith("is missing")
    assert not [*offences(plan)]
    elsewhere = replace(plan.agreement, locations=AGREED.locations, pops=AGREED.pops)
    wrong = dict(offences(replace(plan, agreement=elsewhere)))
    assert "there is no PoP 'helsinki'" in wrong["agreement.pops[0].name"]


def test_agents_bid_and_choose_by_it(plan: Scenario) -> None:
    with_it = what_if(plan, "linkRateLimited", "pop6", at_s=20.0)
    assert with_it.refusals["pop3"] == "pop3 is in US; the agreement north-core allows FI, SE"
    trust = {ranked.bidder: ranked.bid.terms["trust"] for ranked in with_it.ranking}
    assert max(trust, key=lambda name: trust[name]) == "pop5"  # it alone has a certificate
    without = what_if(replace(plan, agreement=None), "linkRateLimited", "pop6", at_s=20.0)
    assert "pop3" in {ranked.bidder for ranked in without.ranking}


def test_an_auctioneer_believes_no_bid_from_where_nothing_may_stand(plan: Scenario) -> None:
    system = System(plan)
    system.run(20.0)
    view = system.agents["pop6"].agent.capability(Outlook).view
    assert view.properties("pop3")["trust"] == 0.0
    assert view.properties("pop5")["trust"] > 0.5


def test_a_least_score_keeps_those_out_that_no_certificate_covers(plan: Scenario) -> None:
    least = replace(plan, trust=TrustSpec(period_s=10, least=0.7))
    answer = what_if(least, "linkRateLimited", "pop6", at_s=20.0)
    assert [ranked.bidder for ranked in answer.ranking] == ["pop5"]
    assert answer.refusals["pop1"].startswith("trust 0.")
    assert answer.refusals["pop1"].endswith("at least 0.7 wanted")


def test_slices_are_services_and_may_name_the_agreement_they_run_under(plan: Scenario) -> None:
    functions = (ManagedFunction("amf", "AMF", "server"), ManagedFunction("smf", "SMF", "server"))
    core = NetworkSliceSubnet("core", "CN", ("amf", "smf"))
    iot = NetworkSlice("iot", SNssai(3), ("core",), agreement="north-core")
    whole = replace(plan, slices=SlicesSpec(functions, (core,), (iot,)))
    assert not [*offences(whole)]
    of = whole.trusted()
    assert (of.functions, of.services) == (
        {"amf": "pop6", "smf": "pop6"},
        {"iot": ("amf", "smf")},
    )
    assert of.agents["sem-amf"] == "pop6"
    away = replace(whole, hosts=tuple(replace(host, at="pop3") for host in whole.hosts))
    assert dict(offences(away))["slices.functions[0].host"] == (
        "may not stand there: pop3 is in US; the agreement north-core allows FI, SE"
    )
    other = replace(whole, slices=replace(whole.slices, slices=(replace(iot, agreement="far"),)))
    assert dict(offences(other)) == {
        "slices.slices[0].agreement": "there is no agreement 'far'; known are north-core"
    }


def test_loops_have_scores_and_go_by_them(plan: Scenario) -> None:
    functions = (ManagedFunction("amf", "AMF", "server"),)
    core = NetworkSliceSubnet("core", "CN", ("amf",))
    slices = SlicesSpec(functions, (core,), (NetworkSlice("iot", SNssai(3), ("core",)),))
    system = System(replace(plan, slices=slices))
    system.run(30.0)
    contacts = system.agents["nssi-core"].agent.capability(LoopContacts)
    loops = ("domain-CN", "e2e", "nsi-iot", "sem-amf")
    assert all(contacts.trusts(name) for name in loops)
    assert {"sem-amf", "pop5"} <= contacts._scores.keys()
    assert contacts._scores["pop5"] > contacts._scores["sem-amf"] > 0.2  # at pop6
    assert contacts._scores["pop3"] == 0.0
    assert not contacts.trusts("pop3")
