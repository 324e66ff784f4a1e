"""Rules as Kubernetes NetworkPolicies or CiliumNetworkPolicies, and back.

Both are lists of what may pass, without order, at the pods that a selector picks; a packet between
pods needs the leave of both. So an ordered set is cut into disjoint parts first, where its order
matters. Labels of a pod's namespace are labels with ``namespace:`` before them. Prefixes are those
of hosts outside of the cluster. TCP, UDP and SCTP are decided; about the rest both leave much open.

Source: Kubernetes API networking.k8s.io/v1 NetworkPolicy; Cilium API cilium.io/v2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_network
from itertools import chain, product
from typing import Any, Literal, NoReturn

import yaml
from msgspec import Struct, defstruct
from msgspec.structs import replace

from phalanx.domain.errors import ScenarioError
from phalanx.domain.flowspec import PORTS, Spans
from phalanx.loading import parse_as, refusal, show
from phalanx.policy.boxes import (
    LAST_ADDRESS,
    LINE,
    UNIVERSE,
    FieldBox,
    cut,
    line,
    meet,
    merged,
    minus,
    prefixes,
)
from phalanx.policy.exchange import DENY, PERMIT, FreeNames, NotExpressibleError, plain_only, refuse
from phalanx.policy.overlaps import port_ranges, port_spans
from phalanx.policy.rules import (
    LAST_PORT,
    PolicyRule,
    PolicyVerdict,
    PortRange,
    Protocol,
    RuleAction,
    RuleCondition,
    RuleMatch,
    RuleSet,
    Segment,
    rule_offences,
)

Dialect = Literal["kubernetes", "cilium"]
NAMESPACE = "namespace:kubernetes.io/metadata.name"
"""Label with the name of a pod's namespace."""
MOST_RULES, MOST_PAIRS = 20_000, 1_000_000
"""Rules that the policies of a file may come to; pairs of rules into pods and out of pods."""
ESTABLISHED = PolicyRule("established", PERMIT, condition=RuleCondition(state="established"))
"""What both do without being told, as the first rule of a set."""
_PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp", "sctp")
_LABEL = re.compile(r"([A-Za-z0-9]([\w./-]{0,250}[A-Za-z0-9])?)?", re.ASCII)
_POD: Spans = ((LAST_ADDRESS, LAST_ADDRESS + 1),)
"""A pod, on the line of addresses of hosts: behind them all."""
_ALL_PODS = Segment(labels_not_in={NAMESPACE: ()})
_Ways = dict[str, list[PolicyRule]]  # into pods, out of pods
_CILIUM_NAMESPACE = "io.kubernetes.pod.namespace"
_CILIUM_LABEL = "io.cilium.k8s.namespace.labels."


class _Named(Struct, frozen=True):
    name: str
    namespace: str = "default"


class _Expression(Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    operator: str
    values: tuple[str, ...] = ()


class _Selector(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    match_labels: dict[str, str] = {}
    match_expressions: tuple[_Expression, ...] = ()


class _Block(Struct, frozen=True, forbid_unknown_fields=True, rename={"excluded": "except"}):
    cidr: str
    excluded: tuple[str, ...] = ()


class _Peer(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    pod_selector: _Selector | None = None
    namespace_selector: _Selector | None = None
    ip_block: _Block | None = None


class _Port(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    port: int | str | None = None
    end_port: int | None = None
    protocol: str = ""


class _Ports(Struct, frozen=True, forbid_unknown_fields=True):
    ports: tuple[_Port, ...]


def _rule_type(word: str, ports: str, kind: Any, **peers: tuple[str, Any]) -> Any:
    """Return what a rule of one way may say, as ``word`` (from, to) has it."""
    some = [(name, tuple[each, ...] | None, None) for name, (_, each) in peers.items()]  # type: ignore[valid-type]
    return defstruct(
        "_Rule",
        [*some, ("ports", tuple[kind, ...], ())],
        rename={"ports": ports} | {name: word + end for name, (end, _) in peers.items()},
        frozen=True,
        forbid_unknown_fields=True,
    )


_Ingress, _Egress = (_rule_type(w, "ports", _Port, peers=("", _Peer)) for w in ("from", "to"))
_In, _Out = (
    _rule_type(
        word,
        "toPorts",
        _Ports,
        endpoints=("Endpoints", _Selector),
        cidrs=("CIDR", str),
        blocks=("CIDRSet", _Block),
        entities=("Entities", str),
    )
    for word in ("from", "to")
)


class _Spec(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    pod_selector: _Selector
    policy_types: tuple[Literal["Ingress", "Egress"], ...] = ()
    ingress: tuple[_Ingress, ...] | None = None  # type: ignore[valid-type]
    egress: tuple[_Egress, ...] | None = None  # type: ignore[valid-type]


class _CiliumSpec(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    endpoint_selector: _Selector
    ingress: tuple[_In, ...] | None = None  # type: ignore[valid-type]
    egress: tuple[_Out, ...] | None = None  # type: ignore[valid-type]
    ingress_deny: tuple[_In, ...] | None = None  # type: ignore[valid-type]
    egress_deny: tuple[_Out, ...] | None = None  # type: ignore[valid-type]


class _NetworkPolicy(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    api_version: Literal["networking.k8s.io/v1"]
    kind: Literal["NetworkPolicy"]
    metadata: _Named
    spec: _Spec


class _CiliumNetworkPolicy(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    api_version: Literal["cilium.io/v2"]
    kind: Literal["CiliumNetworkPolicy"]
    metadata: _Named
    spec: _CiliumSpec


def from_policies(text: str, name: str, dialect: Dialect) -> RuleSet:
    """Return what the policies in ``text`` (YAML documents) decide; ``name`` stands for it.

    Pods that no policy picks are open. Established connections pass, as the first rule says.

    Raises:
        ScenarioError: with one line; names the field that a rule cannot say.

    """
    ways: _Ways = {"ingress": [], "egress": []}
    lines = 0
    for part in re.split(r"^---[ \t]*$", text, flags=re.MULTILINE):
        if any(each.strip()[:1] not in ("", "#") for each in part.splitlines()):
            _Reader("\n" * lines + part, name, dialect).read(ways)
        lines += part.count("\n")
    for way in ways.values():  # a denial overrules, and what a policy picks is closed to the rest
        way.sort(key=lambda rule: (_phase(rule), rule.id.rpartition("/")[0]))
    rules = _joined(ways, dialect)
    for _, why in () if rules is None else rule_offences(rules):
        raise ScenarioError(f"{name}: {why}")
    if rules is None:
        raise ScenarioError(f"{name}: the policies come to more than {MOST_RULES} rules")
    return rules


def _phase(rule: PolicyRule) -> int:
    return 2 if rule.id.endswith("/isolated") else int(rule.action == PERMIT)


def _joined(ways: _Ways, name: str) -> RuleSet | None:
    """Return what passes that both ways let pass; None: that is too many rules."""
    found = [ESTABLISHED]
    into, out_of = (*ways["ingress"], None), (*ways["egress"], None)
    for i, out in enumerate(out_of):
        if out is not None and out.action == DENY:
            found.append(out)
            continue
        for j, into_pod in enumerate(into):
            if out is None or into_pod is None:
                found += [each for each in (out, into_pod) if each]
            elif (match := _meet(out.match, into_pod.match)) is not None:
                found.append(PolicyRule(f"both/{i + 1}/{j + 1}", into_pod.action, match))
        if len(found) > MOST_RULES or len(into) * len(out_of) > MOST_PAIRS:
            return None
    return RuleSet(name, tuple(found))


def _meet(one: RuleMatch, two: RuleMatch) -> RuleMatch | None:
    source, target = _segment(one.source, two.source), _segment(one.target, two.target)
    both = meet(port_spans(one.ports), port_spans(two.ports))
    if not (source and target and both) or len({one.protocol, two.protocol} - {None}) > 1:
        return None
    return RuleMatch(source, target, one.protocol or two.protocol, (), port_ranges(both))


def _segment(one: Segment, two: Segment) -> Segment | None:
    """Return what two segments have in common; None: nothing."""
    listed = one.addresses or two.addresses
    if one.addresses and two.addresses:
        listed = prefixes(meet(line(one.addresses), line(two.addresses)))
    clash = any(two.labels.get(key, value) != value for key, value in one.labels.items())
    if clash or (not listed and one.addresses):
        return None
    mine, its = one.labels_not_in, two.labels_not_in
    left_out = {key: (*mine.get(key, ()), *its.get(key, ())) for key in (*mine, *its)}
    symbolic = one.symbolic or two.symbolic
    pods = _pods({**one.labels, **two.labels}, left_out) if symbolic else Segment()
    outside = tuple(dict.fromkeys((*one.outside, *two.outside)))
    return pods and replace(pods, addresses=listed, outside=outside)


def _pods(labels: Mapping[str, str], left_out: Mapping[str, tuple[str, ...]]) -> Segment | None:
    """Return pods by their labels, all if none are named; None: no pod can have them."""
    if any(labels.get(key) in values for key, values in left_out.items()):
        return None
    not_in = {k: tuple(dict.fromkeys(v)) for k, v in left_out.items() if v and k not in labels}
    found = Segment(labels=dict(labels), labels_not_in=not_in)
    return found if found.symbolic else _ALL_PODS


class _Reader:
    """Reads one policy."""

    def __init__(self, text: str, name: str, dialect: Dialect) -> None:
        kind = _NetworkPolicy if dialect == "kubernetes" else _CiliumNetworkPolicy
        self._policy: Any
        self._policy, self._tree = parse_as(kind, text, name)
        self._name, self._cilium = name, dialect == "cilium"

    def read(self, ways: _Ways) -> None:
        """Add what the policy says on the ways into its pods and out of them."""
        named, spec = self._policy.metadata, self._policy.spec
        for field in ("name", "namespace"):
            self._known(f"metadata.{field}", getattr(named, field))
        own = {NAMESPACE: named.namespace}
        field = "endpointSelector" if self._cilium else "podSelector"
        selector = spec.endpoint_selector if self._cilium else spec.pod_selector
        subjects = self._labels(f"spec.{field}", selector, own)
        for (way, found), (which, subject) in product(ways.items(), enumerate(subjects, 1)):
            suffix = f".{which}" if len(subjects) > 1 else ""
            at = f"{way}/{named.namespace}/{named.name}{suffix}"
            if len(at) > 100:
                self._fail("metadata.name", "name and namespace have at most 90 signs together")
            listed = getattr(spec, way)
            denied = getattr(spec, f"{way}_deny") if self._cilium else None
            if self._cilium:
                closed = bool(listed or denied)
            else:
                kinds = spec.policy_types or ("Ingress", *(("Egress",) if spec.egress else ()))
                closed = way.capitalize() in kinds
            number = 0
            for key, rules, action in (("", listed, PERMIT), ("Deny", denied, DENY)):
                for index, rule in enumerate(rules or ()) if closed else ():
                    path = f"spec.{way}{key}[{index}]"
                    for peer, (protocol, ports) in product(
                        self._peers(path, rule, own), self._ports(path, rule)
                    ):
                        number += 1
                        if len(found) == MOST_RULES:
                            self._fail(path, f"the policies come to more than {MOST_RULES} rules")
                        title = f"{at}/{key.lower()}{number}"
                        found.append(_rule(title, action, way, subject, peer, protocol, ports))
            if closed:
                found.append(_rule(f"{at}/isolated", DENY, way, subject))

    def _peers(self, path: str, rule: Any, own: dict[str, str]) -> list[Segment]:
        if self._cilium:
            given = rule.endpoints, rule.cidrs, rule.blocks, rule.entities
            if sum(each is not None for each in given) > 1:
                self._fail(path, "peers of one kind are read in a rule")
            if rule.entities is not None and rule.entities != ("all",):
                self._fail(path, "no rule here can say these entities; all is read")
            blocks = rule.blocks or [_Block(each) for each in rule.cidrs or ()]
            peers = [*((each, None) for each in rule.endpoints or ()), *((0, b) for b in blocks)]
            anyone = rule.entities or (rule.ports and all(each is None for each in given))
            if anyone:
                return [Segment()]
        else:
            if not rule.peers:
                return [Segment()]
            peers = [(each, each.ip_block) for each in rule.peers]
        found = []
        for at, (selector, block) in enumerate(peers):
            where = f"{path}.{'to' if '.egress' in path else 'from'}[{at}]"
            if block is not None:
                if isinstance(selector, _Peer) and (
                    selector.pod_selector or selector.namespace_selector
                ):
                    self._fail(where, "a block of addresses or a selector is expected, not both")
                found.append(self._block(where, block))
            else:
                found += self._selected(where, selector, own)
        return found

    def _selected(self, path: str, peer: Any, own: dict[str, str]) -> list[Segment]:
        if self._cilium:
            return self._labels(path, peer, own)
        if peer.pod_selector is None and peer.namespace_selector is None:
            self._fail(path, "a selector or an ipBlock is expected")
        pods = self._labels(f"{path}.podSelector", peer.pod_selector or _Selector(), {})
        if (selector := peer.namespace_selector) is None:
            spaces = [Segment(labels=own)]
        else:
            spaces = self._labels(f"{path}.namespaceSelector", selector, {}, "namespace:")
        if len(spaces) * len(pods) > MOST_RULES:
            self._fail(path, f"selects one of more than {MOST_RULES} sets of labels")
        return [both for space in spaces for pod in pods if (both := _segment(space, pod))]

    def _labels(
        self, path: str, selector: _Selector, own: dict[str, str], prefix: str = ""
    ) -> list[Segment]:
        """Return the labels of what is selected; several: one of them."""
        choices: list[tuple[str, tuple[str, ...]]]
        choices = [(key, (value,)) for key, value in selector.match_labels.items()]
        found, anywhere, left_out = [dict[str, str]()], False, dict[str, tuple[str, ...]]()
        for index, each in enumerate(selector.match_expressions):
            where = f"{path}.matchExpressions[{index}].operator"
            key = self._key(path, prefix, each.key)
            if self._cilium and each.operator == "Exists" and key == NAMESPACE:
                anywhere = True
            elif each.operator not in ("In", "NotIn") or not each.values:
                why = f"{show(each.operator)}: no rule here can say it; In and NotIn are read"
                self._fail(where, why)
            elif each.operator == "In":
                choices.append((each.key, each.values))
            else:
                left_out[key] = (*left_out.get(key, ()), *each.values)
        for key, values in choices:
            ours = self._key(path, prefix, key)
            pairs = product(found, dict.fromkeys(values))
            found = [{**one, ours: value} for one, value in pairs if one.get(ours, value) == value]
            if len(found) > MOST_RULES:
                self._fail(path, f"selects one of more than {MOST_RULES} sets of labels")
        for word in (w for _, values in (*choices, *left_out.items()) for w in values):
            self._known(path, word)
        if anywhere or NAMESPACE in left_out:
            own = {}
        made = (_pods(one if NAMESPACE in one else {**own, **one}, left_out) for one in found)
        return [each for each in made if each]

    def _key(self, path: str, prefix: str, key: str) -> str:
        key = key.removeprefix("k8s:").removeprefix("any:")
        self._known(path, key)
        if self._cilium and key == _CILIUM_NAMESPACE:
            return NAMESPACE
        if self._cilium and key.startswith(_CILIUM_LABEL):
            return f"namespace:{key.removeprefix(_CILIUM_LABEL)}"
        return prefix + key

    def _block(self, path: str, block: _Block) -> Segment:
        try:
            whole, *holes = (ip_network(each) for each in (block.cidr, *block.excluded))
        except ValueError:
            self._fail(path, "prefixes without host bits are expected")
        if not all(h.version == whole.version and h.subnet_of(whole) for h in holes):  # type: ignore[arg-type]
            self._fail(path, f"what is left out has to be in {whole}")
        return Segment((str(whole),), tuple(str(each) for each in holes))

    def _ports(self, path: str, rule: Any) -> list[tuple[Protocol | None, tuple[PortRange, ...]]]:
        listed = rule.ports if not self._cilium else [p for to in rule.ports for p in to.ports]
        spans: dict[Protocol, list[tuple[int, int]]] = {}
        for each in listed:
            word = each.protocol or ("ANY" if self._cilium else "TCP")
            if word not in ("TCP", "UDP", "SCTP", "ANY"[: 3 * self._cilium]):
                self._fail(path, f"protocol {show(word)}: TCP, UDP and SCTP are read")
            port = each.port
            if self._cilium and isinstance(port, str) and port.isdecimal() and len(port) < 6:
                port = int(port) or None
            if isinstance(port, str):
                self._fail(path, f"port {show(port)}: ports are numbers, a name is not known here")
            last = each.end_port or port
            if port is not None and not 0 < port <= (last or 0) <= LAST_PORT:
                self._fail(path, f"ports {port} to {last} are none from 1 to {LAST_PORT}")
            for protocol in (p for p in _PROTOCOLS if word in ("ANY", p.upper())):
                span = PORTS[0] if port is None else (port, (last or port) + 1)
                spans.setdefault(protocol, []).append(span)
        found = [(p, port_ranges(merged(spans[p]))) for p in _PROTOCOLS if p in spans]
        return [*found] or [(None, ())]

    def _known(self, path: str, word: str) -> None:
        if not _LABEL.fullmatch(word):
            self._fail(path, f"{show(word)} is no name or label of Kubernetes")

    def _fail(self, field: str, why: str) -> NoReturn:
        raise refusal(self._name, self._tree, field, why)


def _rule(
    title: str,
    action: RuleAction,
    way: str,
    subject: Segment,
    peer: Segment = Segment(),  # noqa: B008  # frozen
    protocol: Protocol | None = None,
    ports: tuple[PortRange, ...] = (),
) -> PolicyRule:
    source, target = (peer, subject) if way == "ingress" else (subject, peer)
    return PolicyRule(title, action, RuleMatch(source, target, protocol, (), ports))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        """Write what stands in two places twice: readers refuse anchors."""
        return True


def to_policies(
    rules: RuleSet,
    dialect: Dialect,
    namespaces: Sequence[str] = ("default",),
    pods: Sequence[str] = (),
) -> str:
    """Return policies, as YAML documents, that let the same pass.

    Args:
        rules: to be exported; its first rule permits established connections.
        dialect: whose policies.
        namespaces: all in which there are pods that the rules decide about.
        pods: prefixes of the pods' addresses. Kubernetes needs them where rules with labels deny:
            a block of all other addresses would let pods in by their addresses.

    Raises:
        NotExpressibleError: with rule, field and reason.

    """
    try:
        pods = [str(ip_network(each)) for each in pods]
    except ValueError as error:
        raise refuse(None, "pods", f"{dialect}: {error}") from None
    ways = _ways_of(rules, dialect)
    if ways is None:
        ways = _cut(_checked(rules, dialect, pods), rules.default, dialect, namespaces, pods)
    text = yaml.dump_all(_documents(ways, dialect), Dumper=_Dumper, sort_keys=False, width=100)
    return text or "# no policy is needed: all pods are open\n"


def _checked(rules: RuleSet, dialect: Dialect, pods: Sequence[str]) -> list[PolicyRule]:
    """Return the rules after the one that permits established connections."""
    plain_only(rules, dialect, "labels", "labels_not_in", "state")
    first = rules.rules[0] if rules.rules else None
    if first is None or replace(first, id=ESTABLISHED.id, about="", intent="") != ESTABLISHED:
        why = f"{dialect} lets established connections pass: the first has to permit them"
        raise refuse(first, "rules", f"{why} (condition: state: established)")
    rest = [replace(r, condition=replace(r.condition, state=None)) for r in rules.rules[1:]]
    for rule, was in zip(rest, rules.rules[1:], strict=True):
        if was.condition.state == "established":
            raise refuse(was, "condition.state", f"{dialect}: established connections have passed")
        if rule.match.protocol not in (None, *_PROTOCOLS):
            raise refuse(rule, "match.protocol", f"{dialect}: tcp, udp and sctp can be said")
        if any(each.first == 0 < each.last for each in rule.match.ports):
            raise refuse(rule, "match.ports", f"{dialect}: ports begin with 1")
        _pods_only(rule, dialect, pods)
    return rest


def _pods_only(rule: PolicyRule, dialect: str, pods: Sequence[str]) -> None:
    for field, side in (("source", rule.match.source), ("target", rule.match.target)):
        left_out = ((key, *values) for key, values in side.labels_not_in.items())
        for word in chain.from_iterable((*side.labels.items(), *left_out)):
            if not _LABEL.fullmatch(word.removeprefix("namespace:")):
                raise refuse(rule, f"match.{field}.labels", f"{show(word)} is no label there")
        if side.symbolic and (side.addresses or side.outside):
            why = f"{dialect}: pods by labels or hosts by addresses, not both"
            raise refuse(rule, f"match.{field}", why)
        for each in (*side.addresses, *side.outside):
            if any(ip_network(each).overlaps(ip_network(pod)) for pod in pods):
                why = f"{dialect}: {each} has addresses of pods; name pods by their labels"
                raise refuse(rule, f"match.{field}", why)
    if all(side.addresses for side in (rule.match.source, rule.match.target)):
        raise refuse(rule, "match", f"{dialect}: no pod is on either side")


def _ways_of(rules: RuleSet, dialect: Dialect) -> _Ways | None:
    """Return the policies that a set was read from; None if it was not."""
    ways: _Ways = {"ingress": [], "egress": []}
    subjects: dict[str, Segment] = {}
    for way, found in ways.items():
        found.extend(rule for rule in rules.rules if rule.id.startswith(f"{way}/"))
        closed = {rule.id.rpartition("/")[0] for rule in found if rule.id.endswith("/isolated")}
        for rule in found:
            at, _, last = rule.id.rpartition("/")
            named = at.split("/")
            subject = rule.match.target if way == "ingress" else rule.match.source
            own = subjects.setdefault("/".join(named[1:]), subject)
            if (
                at not in closed
                or len(named) != 3
                or own != subject
                or own.labels.get(NAMESPACE) != named[1]
                or (last == "isolated") != (rule == _rule(rule.id, DENY, way, subject))
                or (rule.action == DENY and last != "isolated" and dialect == "kubernetes")
            ):
                return None
    return ways if _joined(ways, rules.name) == rules else None


def _cut(
    rules: list[PolicyRule],
    default: PolicyVerdict,
    dialect: Dialect,
    namespaces: Sequence[str],
    pods: Sequence[str],
) -> _Ways:
    """Return a list of what may pass into pods, and one of what may pass out of them."""
    sides = [side for rule in rules for side in (rule.match.source, rule.match.target)]
    named = (side.labels[NAMESPACE] for side in sides if NAMESPACE in side.labels)
    spaces = list(dict.fromkeys((*namespaces, *named)))
    if default is PolicyVerdict.PERMIT:
        rules = [*rules, PolicyRule("rest", PERMIT)]
    denied = default is PolicyVerdict.PERMIT or any(rule.action == DENY for rule in rules)
    marked = next((rule for rule in rules if rule.match.source.symbolic), None)
    if denied and marked and dialect == "kubernetes" and not pods:
        why = "kubernetes: a rule by labels among denials needs the pods' addresses (--pods)"
        raise refuse(marked, "match.source.labels", why)
    ways: _Ways = {"ingress": [], "egress": []}
    taken = FreeNames(("default",))
    for title, match in _Permitted(rules, pods).parts():
        stem = re.sub(r"[^a-z0-9-]+", "-", title.lower()).strip("-")[:40]
        name = taken.like(stem, "-") if stem in taken.taken else stem
        taken.taken.add(name)
        for way, word, subject, peer in (
            ("ingress", "in", match.target, match.source),
            ("egress", "out", match.source, match.target),
        ):
            for own in () if subject.addresses else _subjects(title, subject, spaces):
                at = f"{way}/{own.labels[NAMESPACE]}/{name}-{word}/1"
                ways[way].append(_rule(at, PERMIT, way, own, peer, match.protocol, match.ports))
        if len(taken.taken) > MOST_RULES:
            raise refuse(None, "rules", f"{dialect}: more than {MOST_RULES} policies are needed")
    for way, found in ways.items():
        for space in spaces:
            own = Segment(labels={NAMESPACE: space})
            found.append(_rule(f"{way}/{space}/default/isolated", DENY, way, own))
    return ways


def _subjects(title: str, segment: Segment, spaces: list[str]) -> Iterator[Segment]:
    """Yield the pods of a side, for each namespace in which they can be."""
    labels, left_out = segment.labels, segment.labels_not_in
    for key in (*labels, *left_out):
        if key.startswith("namespace:") and key != NAMESPACE:
            why = f"a policy picks pods of one namespace, by its name: {NAMESPACE}"
            raise NotExpressibleError(f"rule {title}: match: labels: {why}")
    for space in [labels[NAMESPACE]] if NAMESPACE in labels else spaces:
        if found := _pods({**labels, NAMESPACE: space}, left_out):
            yield found


class _Permitted:
    """What rules in order permit, as matches of which each permits what it has.

    A box has the protocol and the port, and for target and source whether it is a pod or where a
    host stands, and by label the number of its value; 0: it has none of those that rules name.
    """

    def __init__(self, rules: list[PolicyRule], pods: Sequence[str]) -> None:
        self._rules = rules
        sides = [side for r in rules for side in (r.match.source, r.match.target)]
        named = {(k, v) for side in sides for k, v in side.labels.items()}
        named |= {(k, v) for s in sides for k, values in s.labels_not_in.items() for v in values}
        self._values: dict[str, list[str]] = {}
        for key, value in sorted(named):
            self._values.setdefault(key, []).append(value)
        self._anywhere = merged((*minus(LINE, line(pods)), *_POD))

    def parts(self) -> Iterator[tuple[str, RuleMatch]]:
        """Yield the id of the rule that permits, and what it permits or a part of that."""
        denied: list[FieldBox] = []
        for rule in self._rules:
            match = rule.match
            number = 0 if match.protocol is None else _PROTOCOLS.index(match.protocol)
            protocols = (number, number + 1 if match.protocol else len(_PROTOCOLS))
            sides = (*self._box(match.target), *self._box(match.source))
            box = (protocols,), port_spans(match.ports), *sides
            if rule.action == DENY:
                denied.append(box)
            elif all(box):
                made = cut(box, denied)
                if made == [box]:
                    yield rule.id, match
                else:
                    yield from ((rule.id, each) for part in made for each in self._matches(part))

    def _box(self, segment: Segment) -> FieldBox:
        where = line(segment.addresses) if segment.addresses else self._anywhere
        where = _POD if segment.symbolic else minus(where, line(segment.outside))
        found = [where]
        for key, values in self._values.items():
            numbers: Spans = ((0, len(values) + 1),)
            if key in segment.labels:
                numbers = _numbers(values, (segment.labels[key],))
            left_out = segment.labels_not_in.get(key, ())
            found.append(minus(numbers, _numbers(values, left_out)))
        return tuple(found)

    def _matches(self, box: FieldBox) -> Iterator[RuleMatch]:
        middle = 3 + len(self._values)
        for to, by in product(self._segments(box[2:middle]), self._segments(box[middle:])):
            if to.addresses and by.addresses:
                continue
            if box[:2] == (((0, len(_PROTOCOLS)),), PORTS):
                yield RuleMatch(by, to)
                continue
            ports = PORTS if box[1] == PORTS else minus(box[1], ((0, 1),))
            for index, protocol in enumerate(_PROTOCOLS):
                if ports and meet(box[0], ((index, index + 1),)):
                    yield RuleMatch(by, to, protocol, (), port_ranges(ports))

    def _segments(self, side: FieldBox) -> list[Segment]:
        """Return segments that mean one side of a box together."""
        where, *labels = side
        if where == self._anywhere:
            return [Segment()]
        left_out = prefixes(minus(LINE, where))
        if where != _POD and meet(where, _POD):
            return [Segment(outside=left_out)]
        if where != _POD:
            listed = prefixes(where)
            short = len(left_out) + 2 < len(listed)
            return [Segment(tuple(UNIVERSE.values()), left_out) if short else Segment(listed)]
        choices, not_in = [], {}
        for (key, values), numbers in zip(self._values.items(), labels, strict=True):
            held = {v for n, v in enumerate(values, 1) if meet(numbers, ((n, n + 1),))}
            if meet(numbers, ((0, 1),)):
                not_in[key] = tuple(v for v in values if v not in held)
            else:
                choices.append([(key, value) for value in values if value in held])
        made = (_pods(dict(chosen), not_in) for chosen in product(*choices))
        return [each for each in made if each]


def _numbers(values: list[str], chosen: Iterable[str]) -> Spans:
    numbers = (values.index(each) + 1 for each in chosen)
    return merged((number, number + 1) for number in numbers)


def _documents(ways: _Ways, dialect: Dialect) -> Iterator[dict[str, Any]]:
    groups: dict[str, dict[str, list[PolicyRule]]] = {}
    for way, found in ways.items():
        for rule in found:
            at = rule.id.split("/", 1)[1].rpartition("/")[0]
            groups.setdefault(at, {}).setdefault(way, []).append(rule)
    for at, parts in groups.items():
        space, _, name = at.partition("/")
        one = next(iter(parts.values()))[0]
        subject = one.match.target if "ingress" in parts else one.match.source
        chosen = _selector(subject, lambda key: "" if key == NAMESPACE else key)
        meta = {"name": name, "namespace": space}
        if dialect == "kubernetes":
            kinds = [way.capitalize() for way in parts]
            spec: dict[str, Any] = {"podSelector": chosen, "policyTypes": kinds}
            api = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
        else:
            spec = {"endpointSelector": chosen}
            api = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy"}
        for way, rules in parts.items():
            passing = [r for r in rules if not r.id.endswith("/isolated")]
            for rule in passing:
                peer = rule.match.source if way == "ingress" else rule.match.target
                key = way if rule.action == PERMIT else f"{way}Deny"
                render = _kubernetes if dialect == "kubernetes" else _cilium
                ends = ("from" if way == "ingress" else "to", rule.match)
                spec.setdefault(key, []).extend(render(peer, *ends))
            if not passing and dialect == "cilium":
                spec[way] = [{}]
        yield {**api, "metadata": meta, "spec": spec}


def _kubernetes(peer: Segment, word: str, match: RuleMatch) -> Iterator[dict[str, Any]]:
    peers: list[dict[str, Any]] = [{"ipBlock": block} for block in _blocks(peer)]
    if peer.symbolic or (peer.outside and not peer.addresses):
        space = _selector(peer, lambda k: k.partition("namespace:")[2])
        pod = _selector(peer, lambda k: "" if k.startswith("namespace:") else k)
        near = {"podSelector": pod} if pod else {}
        peers.insert(0, {"namespaceSelector": space, **near})
    ports = _ports(match)
    yield {**({word: peers} if peers else {}), **({"ports": ports} if ports else {})}


def _cilium(peer: Segment, word: str, match: RuleMatch) -> Iterator[dict[str, Any]]:
    ports = [{**each, "port": str(each.get("port", 0))} for each in _ports(match)]
    below = {"toPorts": [{"ports": ports}]} if ports else {}
    blocks = list(_blocks(peer))
    if peer.symbolic or (peer.outside and not peer.addresses):
        chosen = _selector(peer, _cilium_key)
        if not (NAMESPACE in peer.labels or peer.labels_not_in.get(NAMESPACE)):
            everywhere = {"key": f"k8s:{_CILIUM_NAMESPACE}", "operator": "Exists"}
            chosen.setdefault("matchExpressions", []).append(everywhere)
        yield {f"{word}Endpoints": [chosen], **below}
    if blocks:
        yield {f"{word}CIDRSet": blocks, **below}
    elif not peer.symbolic:
        yield {f"{word}Entities": ["all"], **below}


def _ports(match: RuleMatch) -> list[dict[str, Any]]:
    if match.protocol is None:
        return []
    ends = [(each.first, each.last) for each in match.ports]
    spans = [{"port": a, "endPort": b} if a < b else {"port": a} for a, b in ends] or [{}]
    return [{"protocol": match.protocol.upper(), **span} for span in spans]


def _blocks(peer: Segment) -> Iterator[dict[str, Any]]:
    if not (peer.addresses or peer.outside):
        return
    holes = [ip_network(each) for each in peer.outside]
    for each in peer.addresses or UNIVERSE.values():
        whole = ip_network(each)
        inner = [hole for hole in holes if hole.version == whole.version]
        if not any(whole.subnet_of(hole) for hole in inner):  # type: ignore[arg-type]
            inside = [str(hole) for hole in inner if hole.subnet_of(whole)]  # type: ignore[arg-type]
            yield {"cidr": str(whole), **({"except": inside} if inside else {})}


def _cilium_key(key: str) -> str:
    if key == NAMESPACE:
        return f"k8s:{_CILIUM_NAMESPACE}"
    space = key.removeprefix("namespace:")
    return f"k8s:{_CILIUM_LABEL}{space}" if space != key else key


def _selector(segment: Segment, key_of: Callable[[str], str]) -> dict[str, Any]:
    """Return a selector of those labels that ``key_of`` names; empty: it leaves the label out."""
    plain = {named: v for k, v in segment.labels.items() if (named := key_of(k))}
    others = [
        {"key": named, "operator": "NotIn", "values": list(values)}
        for k, values in segment.labels_not_in.items()
        if values and (named := key_of(k))
    ]
    return {
        **({"matchLabels": plain} if plain else {}),
        **({"matchExpressions": others} if others else {}),
    }
