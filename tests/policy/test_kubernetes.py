"""Rules as network policies of Kubernetes and Cilium, and back."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from phalanx.domain.errors import ScenarioError
from phalanx.policy.exchange import NotExpressibleError
from phalanx.policy.kubernetes import ESTABLISHED, from_policies, to_policies
from phalanx.policy.rules import (
    PROTOCOL_NUMBERS,
    LabelledWorkload,
    PolicyInventory,
    PolicyPacket,
    PolicyRule,
    PolicyVerdict,
    PortRange,
    RuleAction,
    RuleMatch,
    RuleSchedule,
    RuleSet,
    Segment,
    decide,
)
from tests.nightly import examples
from tests.one_line import taken_or_refused
from tests.policy.netpol import End, cilium_allows, kubernetes_allows
from tests.policy.rule_values import PORT_LISTS

QUICK = settings(max_examples=examples(6), deadline=None, phases=[Phase.generate])
ALLOWS = {"kubernetes": kubernetes_allows, "cilium": cilium_allows}
DIALECTS = st.sampled_from(tuple(ALLOWS))
SPACE = "kubernetes.io/metadata.name"
APPS, TIERS = ("web", "db", "mail"), ("front", "back")
SPACES = {"shop": {SPACE: "shop", "team": "a"}, "bank": {SPACE: "bank", "team": "b"}}
PODS = [
    End(f"10.244.{i}.{j}", space, {"app": app, "tier": tier}, SPACES[space])
    for i, space in enumerate(SPACES)
    for j, (app, tier) in enumerate((a, t) for a in APPS for t in TIERS)
] + [End("10.244.9.1", "shop", {}, SPACES["shop"]), End("fd00::9", "bank", {}, SPACES["bank"])]
HOSTS = [
    End(each)
    for each in (
        "192.0.2.0", "192.0.2.255", "192.0.3.0", "198.51.100.7", "203.0.113.127", "203.0.113.128",
        "2001:db8::1", "2001:db9::",
    )
]  # fmt: skip
POD_RANGES = ("10.244.0.0/16", "fd00::/16")
INVENTORY = PolicyInventory(
    workloads=tuple(
        LabelledWorkload(f"pod{i}", (pod.address,), pod.all_labels) for i, pod in enumerate(PODS)
    )
)
BLOCKS = ("192.0.2.0/24", "192.0.2.128/25", "203.0.113.0/24", "203.0.113.128/25", "2001:db8::/32")
LABELS = st.sampled_from(
    (
        {"app": "web"},
        {"app": "db"},
        {"tier": "back"},
        {"app": "web", "tier": "front"},
        {"app": "db", f"namespace:{SPACE}": "shop"},
        {f"namespace:{SPACE}": "bank"},
    )
)
SIDES = st.one_of(
    st.just(Segment()),
    LABELS.map(lambda labels: Segment(labels=labels)),
    st.lists(st.sampled_from(BLOCKS), max_size=2, unique=True).map(lambda b: Segment(tuple(b))),
    st.just(Segment(("192.0.2.0/24",), ("192.0.2.128/25",))),
    st.just(Segment(outside=("203.0.113.0/24",))),
    st.sampled_from(
        (
            Segment(labels_not_in={"app": ("web", "mail")}),
            Segment(labels={"tier": "back"}, labels_not_in={"app": ("db",)}),
            Segment(labels_not_in={f"namespace:{SPACE}": ("shop",)}),
            Segment(labels_not_in={f"namespace:{SPACE}": ()}),
        )
    ),
)
PERMIT, DENY = RuleAction(PolicyVerdict.PERMIT), RuleAction(PolicyVerdict.DENY)


@st.composite
def _sets(draw: st.DrawFn, denials: bool = True) -> RuleSet:
    rules = [ESTABLISHED]
    for number in range(draw(st.integers(0, 4))):
        source, target = draw(SIDES), draw(SIDES)
        if source.addresses and target.addresses:
            source = Segment()
        protocol = draw(st.sampled_from((None, "tcp", "udp", "sctp")))
        ports = draw(PORT_LISTS) if protocol else ()
        match = RuleMatch(source, target, protocol, (), ports)
        action = draw(st.sampled_from((PERMIT, DENY))) if denials else PERMIT
        rules.append(PolicyRule(f"Rule_{number}", action, match))
    default = draw(st.sampled_from(PolicyVerdict)) if denials else PolicyVerdict.DENY
    return RuleSet("some", tuple(rules), default)


ENDS = st.sampled_from((*PODS, *HOSTS))
PACKETS = st.tuples(
    ENDS,
    ENDS,
    st.sampled_from(("TCP", "UDP", "SCTP")),
    st.sampled_from((1, 21, 22, 23, 79, 80, 81, 443, 444, 8080, 8081, 65_534, 65_535)),
).filter(lambda p: (p[0].namespace or p[1].namespace)
         and ip_address(p[0].address).version == ip_address(p[1].address).version)  # fmt: skip


def _load(text: str) -> list[dict]:
    found = yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return [each for each in found if each]


def _dump(policies: list[dict]) -> str:
    return "---\n".join(json.dumps(each) + "\n" for each in policies)


def _ours(rules: RuleSet, source: End, target: End, protocol: str, port: int) -> bool:
    number = PROTOCOL_NUMBERS[protocol.lower()]
    packet = PolicyPacket(source.address, target.address, number, 40_000, port)
    return decide(rules, packet)[0].verdict is PolicyVerdict.PERMIT


@QUICK
@given(_sets(), DIALECTS, st.lists(PACKETS, min_size=30, max_size=30))
def test_policies_let_the_same_pass_as_the_rules(
    rules: RuleSet, dialect: str, seen: list[tuple[End, End, str, int]]
) -> None:
    text = to_policies(rules, dialect, tuple(SPACES), POD_RANGES)
    policies = _load(text)
    resolved = INVENTORY.resolve(rules)
    for packet in seen:
        assert ALLOWS[dialect](policies, *packet) == _ours(resolved, *packet), (packet, text)


@QUICK
@given(_sets(), DIALECTS)
def test_policies_are_read_back_and_written_the_same(rules: RuleSet, dialect: str) -> None:
    read = from_policies(to_policies(rules, dialect, tuple(SPACES), POD_RANGES), "x", dialect)
    again = to_policies(read, dialect, tuple(SPACES))
    assert from_policies(again, "x", dialect) == read


SELECTORS = st.builds(
    lambda labels, more: {"matchLabels": labels, "matchExpressions": more},
    st.sampled_from(({}, {"app": "web"}, {"app": "db"}, {"tier": "back"})),
    st.sampled_from(
        (
            [],
            [{"key": "tier", "operator": "In", "values": ["front", "back"]}],
            [{"key": "app", "operator": "NotIn", "values": ["web", "mail"]}],
        )
    ),
)
K8S_PEERS = st.one_of(
    st.builds(lambda pod: {"podSelector": pod}, SELECTORS),
    st.just({"namespaceSelector": {}}),
    st.just(
        {
            "namespaceSelector": {
                "matchExpressions": [{"key": SPACE, "operator": "NotIn", "values": ["shop"]}]
            }
        }
    ),
    st.builds(
        lambda pod, space: {"podSelector": pod, "namespaceSelector": {"matchLabels": space}},
        SELECTORS,
        st.sampled_from(({}, {"team": "a"}, {SPACE: "bank"})),
    ),
    st.sampled_from(BLOCKS).map(lambda b: {"ipBlock": {"cidr": b}}),
    st.just({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}}),
)
K8S_PORTS = st.sampled_from(
    (
        {"port": 80},
        {"protocol": "UDP", "port": 53, "endPort": 443},
        {"protocol": "SCTP"},
        {"protocol": "TCP", "port": 443, "endPort": 8080},
    )
)


@st.composite
def _policies(draw: st.DrawFn) -> list[dict]:
    made = []
    for number in range(draw(st.integers(1, 3))):
        types = draw(st.sampled_from((["Ingress"], ["Egress"], ["Ingress", "Egress"])))
        spec = {"podSelector": draw(SELECTORS), "policyTypes": types}
        for way, word in (("Ingress", "from"), ("Egress", "to")):
            if way in types:
                spec[way.lower()] = draw(
                    st.lists(
                        st.fixed_dictionaries(
                            {},
                            optional={
                                word: st.lists(K8S_PEERS, min_size=1, max_size=2),
                                "ports": st.lists(K8S_PORTS, min_size=1, max_size=2),
                            },
                        ),
                        max_size=2,
                    )
                )
        meta = {"name": f"p{number}", "namespace": draw(st.sampled_from(tuple(SPACES)))}
        api = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
        made.append({**api, "metadata": meta, "spec": spec})
    return made


@QUICK
@given(_policies(), st.lists(PACKETS, min_size=30, max_size=30))
def test_what_others_wrote_is_read_as_it_is_meant(
    policies: list[dict], seen: list[tuple[End, End, str, int]]
) -> None:
    read = from_policies(_dump(policies), "x.yaml", "kubernetes")
    resolved = INVENTORY.resolve(read)
    for packet in seen:
        assert kubernetes_allows(policies, *packet) == _ours(resolved, *packet), packet
    again = to_policies(read, "kubernetes")
    assert from_policies(again, "y.yaml", "kubernetes") == read
    written = _load(again)
    for packet in seen:
        assert kubernetes_allows(written, *packet) == _ours(resolved, *packet), packet


CILIUM = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
    - fromEndpoints:
        - matchLabels: {"k8s:app": web, "k8s:io.kubernetes.pod.namespace": bank}
        - matchLabels: {app: mail}
      toPorts: [{ports: [{port: "5432", protocol: TCP}, {port: "53"}]}]
    - fromCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.2.128/25]}]
    - fromEntities: [all]
      toPorts: [{ports: [{port: "80", endPort: 443, protocol: TCP}]}]
    - toPorts: [{ports: [{port: "0", protocol: SCTP}]}]
  ingressDeny:
    - fromEndpoints: [{matchLabels: {tier: back}}]
  egress:
    - {}
---
# only the ports
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: bank}
spec:
  endpointSelector: {matchExpressions: [{key: app, operator: In, values: [web, mail]}]}
  egressDeny:
    - toCIDR: [203.0.113.0/24]
  egress:
    - toEntities: [all]
"""


@QUICK
@given(st.lists(PACKETS, min_size=30, max_size=30))
def test_denials_of_cilium_overrule(seen: list[tuple[End, End, str, int]]) -> None:
    read = from_policies(CILIUM, "x.yaml", "cilium")
    resolved, policies = INVENTORY.resolve(read), _load(CILIUM)
    again = to_policies(read, "cilium")
    assert from_policies(again, "y.yaml", "cilium") == read
    written = _load(again)
    for packet in seen:
        ours = _ours(resolved, *packet)
        assert cilium_allows(policies, *packet) == ours, packet
        assert cilium_allows(written, *packet) == ours, packet


def _one(action: RuleAction = PERMIT, **fields: object) -> RuleSet:
    match = {k: fields.pop(k) for k in list(fields) if k in RuleMatch.__struct_fields__}
    rule = PolicyRule("r1", action, RuleMatch(**match), **fields)
    return RuleSet("one", (ESTABLISHED, rule), PolicyVerdict.DENY)


WEB = Segment(labels={"app": "web"})


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (RuleSet("none"), "rules: kubernetes lets established connections pass"),
        (_one(protocol="icmp"), "rule r1: match.protocol: kubernetes"),
        (_one(schedule=RuleSchedule((1,))), "rule r1: schedule: kubernetes"),
        (_one(RuleAction(PolicyVerdict.PERMIT, 1.0)), "rule r1: action.rate_mb_s: kubernetes"),
        (_one(source=Segment(slice="iot")), "rule r1: match.source.slice: kubernetes"),
        (_one(source=Segment(("10.0.0.0/8",), labels={"a": "b"})), "rule r1: match.source: "),
        (
            _one(source=Segment(("10.0.0.0/8",)), target=Segment(("192.0.2.0/24",))),
            "rule r1: match: kubernetes: no pod",
        ),
        (
            _one(protocol="tcp", target=WEB, ports=(PortRange(0, 9),)),
            "rule r1: match.ports: kubernetes: ports begin with 1",
        ),
        (_one(target=Segment(labels={"аpp": "web"})), "rule r1: match.target.labels: "),
        (_one(target=Segment(labels={"namespace:team": "a"})), "rule r1: match: labels: "),
        (_one(DENY, source=WEB), "rule r1: match.source.labels: kubernetes: a rule by labels"),
    ],
)
def test_what_policies_cannot_say_is_refused_by_rule_and_field(rules: RuleSet, words: str) -> None:
    with pytest.raises(NotExpressibleError) as refused:
        to_policies(rules, "kubernetes")
    assert str(refused.value).startswith(words)


def test_a_prefix_with_pods_is_refused() -> None:
    with pytest.raises(NotExpressibleError, match="has addresses of pods"):
        to_policies(_one(source=Segment(("10.0.0.0/8",))), "kubernetes", pods=("10.244.0.0/16",))


def test_what_is_no_prefix_of_pods_is_refused() -> None:
    with pytest.raises(NotExpressibleError, match="pods: kubernetes: '10\\.0"):
        to_policies(_one(), "kubernetes", pods=("10.0.0.0/99",))


HEAD = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\n"
FROM = "spec: {podSelector: {}, ingress: [{from: [{%s}]}]}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "spec: {podSelector: {}, ingress: [{ports: [{port: http}]}]}", "a name is not"),
        (HEAD + "spec: {podSelector: {}, ingress: [{ports: [{port: 9, endPort: 8}]}]}", "9 to 8"),
        (HEAD + "spec: {podSelector: {}, ingress: [{from: [{}]}]}", "a selector or an ipBlock"),
        (
            HEAD + "spec: {podSelector: {matchExpressions: [{key: a, operator: Exists}]}}",
            r"matchExpressions\[0\].operator \(line 4\): 'Exists'",
        ),
        (HEAD + "spec: {podSelector: {matchLabels: {аpp: web}}}", "no name or label"),
        (HEAD + "spec: {podSelector: {}, ingres: []}", "did you mean 'ingress'"),
        (HEAD + "spec: {podSelector: {}, podSelector: {}}", "given twice"),
        (HEAD + "spec: &a {podSelector: *a}", "anchors"),
        (HEAD + FROM % "ipBlock: {cidr: 10.0.0.1/8}", "host bits"),
        (
            HEAD + FROM % "ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/9]}",
            "has to be in",
        ),
        ("a: " * 5 + "[" * 100, "YAML|nested|mapping"),
        (HEAD.replace("v1", "v2"), "apiVersion"),
    ],
)  # fmt: skip
def test_what_a_rule_cannot_say_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(ScenarioError, match=words) as refused:
        from_policies(text, "x.yaml", "kubernetes")
    assert str(refused.value).isprintable()


def test_policies_that_multiply_are_refused() -> None:
    rule = "{%s: [%s]}"
    many = ", ".join(f"{{ipBlock: {{cidr: 10.0.{i}.0/24}}}}" for i in range(200))
    ways = f"ingress: [{rule % ('from', many)}], egress: [{rule % ('to', many)}]"
    text = HEAD + f"spec: {{podSelector: {{}}, policyTypes: [Ingress, Egress], {ways}}}"
    with pytest.raises(ScenarioError, match="more than 20000 rules"):
        from_policies(text, "x.yaml", "kubernetes")


WRONG = st.one_of(
    st.sampled_from(
        (None, "", 0, -1, 70_000, 1.5, True, "x" * 300, [], {}, [{}], [None], "10.0.0.1/8", "::/0",
         "аpp", "a\nb", "*", {"x": {"y": [{"z": "1"}]}}, [[[[]]]], "TCP", "80", 80, "Ingress")
    ),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
        ),
        max_leaves=6,
    ),
)  # fmt: skip


def _places(value: object, path: tuple = ()) -> list[tuple]:
    pairs: list = []
    if isinstance(value, dict | list):
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    return [path, *(place for key, each in pairs for place in _places(each, (*path, key)))]


def _with(value: object, path: tuple, wrong: object) -> object:
    if not path:
        return wrong
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = _with(copied[path[0]], path[1:], wrong)
    return copied


@st.composite
def _broken(draw: st.DrawFn) -> tuple[str, str]:
    dialect = draw(DIALECTS)
    documents = _load(CILIUM) if dialect == "cilium" else draw(_policies())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(_places(documents)[1:]))
        documents = _with(documents, at, draw(WRONG))
    return json.dumps(documents)[1:-1] if draw(st.booleans()) else _dump(documents), dialect


@settings(max_examples=examples(32), deadline=None)
@given(_broken())
def test_no_document_is_more_than_refused_in_a_line(broken: tuple[str, str]) -> None:
    text, dialect = broken
    read = taken_or_refused(ScenarioError, lambda: from_policies(text, "x", dialect))
    if read is not None:
        again = to_policies(read, dialect)
        assert from_policies(again, "x", dialect) == read


VALUES = ", ".join(f"v{n}" for n in range(28))
IN = tuple(f"{{key: l{n}, operator: In, values: [{VALUES}]}}" for n in range(3))
TWO = f"{{matchExpressions: [{IN[0]}, {IN[1]}]}}"
PICKS = f"{{matchExpressions: [{', '.join(IN)}]}}"
BOTH_WAYS = "spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [%s], egress: [%s]}"
WAYS = tuple(
    ", ".join(f"{{{word}: [{{podSelector: {{matchLabels: {{a: v{n}}}}}}}]}}" for n in range(1_500))
    for word in ("from", "to")
)
BARE = "---\n".join(f"{HEAD.replace('name: a', f'name: a{n}')}spec: {{podSelector: {{}}}}\n"
                   for n in range(200))  # fmt: skip
MANY = ", ".join(["x"] * 50_000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + f"spec: {{podSelector: {PICKS}}}", "more than 20000 sets"),
        (HEAD + f"spec: {{podSelector: {TWO}, ingress: [{{from: [{{podSelector: {TWO}}}]}}]}}",
         "more than 20000 rules"),
        (HEAD + FROM % f"podSelector: {TWO}, namespaceSelector: {TWO}", "more than 20000 sets"),
        (HEAD + BOTH_WAYS % WAYS, "more than 20000 rules"),
        (BARE + "---\nx: 1", "line 1001"),
        (HEAD + "spec: " + "{podSelector: " * 5_000, "nested|YAML"),
        (HEAD + "spec: {podSelector: {matchLabels: {a: " + "b" * 1_000_000 + "}}}", "no name or"),
        (HEAD + FROM % f"ipBlock: {{cidr: 10.0.0.0/8, except: [{MANY}]}}", "host bits"),
    ],
)  # fmt: skip
def test_hostile_documents_are_refused_in_a_line(text: str, words: str) -> None:
    with pytest.raises(ScenarioError, match=words) as refused:
        from_policies(text, "x.yaml", "kubernetes")
    assert len(str(refused.value)) < 1_000
    assert str(refused.value).isprintable()
