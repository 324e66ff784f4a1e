"""Rules as Kubernetes NetworkPolicies or CiliumNetworkPolicies, and back.

Both are lists of what may pass, without order, at the pods that a selector picks; a packet between
pods needs the leave of both. So an ordered set is cut into disjoint parts first, where its order
matters. Labels of a pod's namespace are labels with ``namespace:`` before them. Prefixes are those
of hosts outside of the cluster. TCP, UDP and SCTP are decided; about the rest both leave much open.

Source: Kubernetes API networking.k8s.io/v1 NetworkPolicy; Cilium API cilium.io/v2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_network
from itertools import product
from typing import Any, Literal, NoReturn

import yaml
from msgspec import Struct
from msgspec.structs import replace

from phalanx.domain.errors import ScenarioError
from phalanx.loading import parse_as, refusal, show
from phalanx.policy.boxes import (
    UNIVERSE,
    Box,
    Ranges,
    merged,
    port_ranges,
    prefix_ranges,
    prefixes,
    regions,
    without,
)
from phalanx.policy.exchange import DENY, PERMIT, PLACE, NotExpressibleError, plain_only, refuse
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
MOST_RULES = 20_000
"""Rules that the policies of a file may come to."""
ESTABLISHED = PolicyRule("established", PERMIT, condition=RuleCondition(state="established"))
"""What both do without being told, as the first rule of a set."""
_PODS = {
    "": ""
}  # labels of all pods; of no use outside of this file, as are keys that begin with !
_PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp", "sctp")
_LABEL = re.compile(r"([A-Za-z0-9]([\w./-]{0,250}[A-Za-z0-9])?)?", re.ASCII)
_BOTH: Ranges = ((0, 1),)
_V6 = 1 << 32
_LINE: Ranges = ((0, _V6 + (1 << 128) - 1),)
_Ways = tuple[list[PolicyRule], list[PolicyRule]]  # into pods, out of pods
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


class _Ingress(Struct, frozen=True, forbid_unknown_fields=True, rename={"peers": "from"}):
    peers: tuple[_Peer, ...] = ()
    ports: tuple[_Port, ...] = ()


class _Egress(Struct, frozen=True, forbid_unknown_fields=True, rename={"peers": "to"}):
    peers: tuple[_Peer, ...] = ()
    ports: tuple[_Port, ...] = ()


class _In(Struct, frozen=True, forbid_unknown_fields=True, rename={
    "endpoints": "fromEndpoints", "cidrs": "fromCIDR", "blocks": "fromCIDRSet",
    "entities": "fromEntities", "to_ports": "toPorts",
}):  # fmt: skip
    endpoints: tuple[_Selector, ...] | None = None
    cidrs: tuple[str, ...] | None = None
    blocks: tuple[_Block, ...] | None = None
    entities: tuple[str, ...] | None = None
    to_ports: tuple[_Ports, ...] = ()


class _Out(Struct, frozen=True, forbid_unknown_fields=True, rename={
    "endpoints": "toEndpoints", "cidrs": "toCIDR", "blocks": "toCIDRSet",
    "entities": "toEntities", "to_ports": "toPorts",
}):  # fmt: skip
    endpoints: tuple[_Selector, ...] | None = None
    cidrs: tuple[str, ...] | None = None
    blocks: tuple[_Block, ...] | None = None
    entities: tuple[str, ...] | None = None
    to_ports: tuple[_Ports, ...] = ()


class _Spec(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    pod_selector: _Selector
    policy_types: tuple[Literal["Ingress", "Egress"], ...] = ()
    ingress: tuple[_Ingress, ...] | None = None
    egress: tuple[_Egress, ...] | None = None


class _CiliumSpec(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    endpoint_selector: _Selector
    ingress: tuple[_In, ...] | None = None
    egress: tuple[_Out, ...] | None = None
    ingress_deny: tuple[_In, ...] | None = None
    egress_deny: tuple[_Out, ...] | None = None


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
    ways: _Ways = ([], [])
    line = 0
    for part in re.split(r"^---[ \t]*$", text, flags=re.MULTILINE):
        if any(each.strip()[:1] not in ("", "#") for each in part.splitlines()):
            _Reader("\n" * line + part, name, dialect).read(ways)
        line += part.count("\n")
    for way in ways:  # a denial overrules, and what a policy picks is closed to the rest
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
    for i, out in enumerate((*ways[1], None)):
        if out is not None and out.action == DENY:
            found.append(out)
            continue
        for j, into in enumerate((*ways[0], None)):
            if out is None or into is None:
                found += [each for each in (out, into) if each]
            elif (match := _meet(out.match, into.match)) is not None:
                found.append(PolicyRule(f"both/{i + 1}/{j + 1}", into.action, match))
            if len(found) > MOST_RULES:
                return None
    return RuleSet(name, tuple(found))


def _meet(one: RuleMatch, two: RuleMatch) -> RuleMatch | None:
    source, target = _segment(one.source, two.source), _segment(one.target, two.target)
    mine, its = port_ranges(one.ports), port_ranges(two.ports)
    both = without(mine, without(mine, its))
    if not (source and target and both) or len({one.protocol, two.protocol} - {None}) > 1:
        return None
    ports = tuple(PortRange(*each) for each in both) if one.ports or two.ports else ()
    return RuleMatch(source, target, one.protocol or two.protocol, (), ports)


def _segment(one: Segment, two: Segment) -> Segment | None:
    listed = one.addresses or two.addresses
    if one.addresses and two.addresses:
        mine, its = _line(one.addresses), _line(two.addresses)
        listed = _unline(without(mine, without(mine, its)))
    clash = any(two.labels.get(key, value) != value for key, value in one.labels.items())
    if clash or (not listed and one.addresses):
        return None
    outside = tuple(dict.fromkeys((*one.outside, *two.outside)))
    return Segment(listed, outside, labels={**one.labels, **two.labels})


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
        for (way, found), (which, subject) in product(
            zip(("ingress", "egress"), ways, strict=True), enumerate(subjects, 1)
        ):
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
                        title = f"{at}/{key.lower()}{number}"
                        found.append(_rule(title, action, way, subject, peer, protocol, ports))
            if closed:
                found.append(_rule(f"{at}/isolated", DENY, way, subject, Segment()))

    def _peers(self, path: str, rule: Any, own: dict[str, str]) -> list[Segment]:
        if self._cilium:
            given = rule.endpoints, rule.cidrs, rule.blocks, rule.entities
            if sum(each is not None for each in given) > 1:
                self._fail(path, "peers of one kind are read in a rule")
            if rule.entities is not None and rule.entities != ("all",):
                self._fail(path, "no rule here can say these entities; all is read")
            blocks = rule.blocks or [_Block(each) for each in rule.cidrs or ()]
            peers = [*((each, None) for each in rule.endpoints or ()), *((0, b) for b in blocks)]
            anyone = rule.entities or (rule.to_ports and all(each is None for each in given))
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
                continue
            for labels in self._selected(where, selector, own):
                if not labels:
                    self._fail(where, "all pods, and no hosts outside: no rule here can say it")
                found.append(Segment(labels=labels))
        return found

    def _selected(self, path: str, peer: Any, own: dict[str, str]) -> list[dict[str, str]]:
        if self._cilium:
            return self._labels(path, peer, own)
        if peer.pod_selector is None and peer.namespace_selector is None:
            self._fail(path, "a selector or an ipBlock is expected")
        spaces = [own]
        if (selector := peer.namespace_selector) is not None:
            spaces = self._labels(f"{path}.namespaceSelector", selector, {}, "namespace:")
        pods = self._labels(f"{path}.podSelector", peer.pod_selector or _Selector(), {})
        return [{**space, **pod} for space in spaces for pod in pods]

    def _labels(
        self, path: str, selector: _Selector, own: dict[str, str], prefix: str = ""
    ) -> list[dict[str, str]]:
        """Return the labels of what is selected; several: one of them."""
        choices: list[tuple[str, tuple[str, ...]]]
        choices = [(key, (value,)) for key, value in selector.match_labels.items()]
        found, anywhere = [dict[str, str]()], False
        for index, each in enumerate(selector.match_expressions):
            where = f"{path}.matchExpressions[{index}].operator"
            if self._cilium and each.operator == "Exists" and each.key.endswith(_CILIUM_NAMESPACE):
                anywhere = True
            elif each.operator != "In" or not each.values:
                self._fail(where, f"{show(each.operator)}: no rule here can say it; In is read")
            else:
                choices.append((each.key, each.values))
        for key, values in choices:
            for word in (key, *values):
                self._known(path, word.removeprefix("k8s:").removeprefix("any:"))
            ours = prefix + key.removeprefix("k8s:").removeprefix("any:")
            if self._cilium and ours == _CILIUM_NAMESPACE:
                ours = NAMESPACE
            elif self._cilium and ours.startswith(_CILIUM_LABEL):
                ours = f"namespace:{ours.removeprefix(_CILIUM_LABEL)}"
            pairs = product(found, dict.fromkeys(values))
            found = [{**one, ours: value} for one, value in pairs if one.get(ours, value) == value]
            if len(found) > MOST_RULES:
                self._fail(path, f"selects one of more than {MOST_RULES} sets of labels")
        return [one if anywhere or NAMESPACE in one else {**own, **one} for one in found]

    def _block(self, path: str, block: _Block) -> Segment:
        try:
            whole, *holes = (ip_network(each) for each in (block.cidr, *block.excluded))
        except ValueError:
            self._fail(path, "prefixes without host bits are expected")
        if not all(h.version == whole.version and h.subnet_of(whole) for h in holes):  # type: ignore[arg-type]
            self._fail(path, f"what is left out has to be in {whole}")
        return Segment((str(whole),), tuple(str(each) for each in holes))

    def _ports(self, path: str, rule: Any) -> list[tuple[Protocol | None, tuple[PortRange, ...]]]:
        listed = rule.ports if not self._cilium else [p for to in rule.to_ports for p in to.ports]
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
                span = (0, LAST_PORT) if port is None else (port, last or port)
                spans.setdefault(protocol, []).append(span)
        if not spans:
            return [(None, ())]
        whole = ((0, LAST_PORT),)
        return [
            (p, () if (r := merged(spans[p])) == whole else tuple(PortRange(*each) for each in r))
            for p in sorted(spans, key=_PROTOCOLS.index)
        ]

    def _known(self, path: str, word: str) -> None:
        if not _LABEL.fullmatch(word):
            self._fail(path, f"{show(word)} is no name or label of Kubernetes")

    def _fail(self, field: str, why: str) -> NoReturn:
        raise refusal(self._name, self._tree, field, why)


def _rule(
    title: str,
    action: RuleAction,
    way: str,
    labels: dict[str, str],
    peer: Segment,
    protocol: Protocol | None = None,
    ports: tuple[PortRange, ...] = (),
) -> PolicyRule:
    subject = Segment(labels=labels)
    source, target = (peer, subject) if way == "ingress" else (subject, peer)
    return PolicyRule(title, action, RuleMatch(source, target, protocol, (), ports))


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
    ways = _ways_of(rules, dialect)
    if ways is None:
        ways = _cut(_checked(rules, dialect, pods), rules.default, dialect, namespaces, pods)
    return yaml.safe_dump_all(_documents(ways, dialect), sort_keys=False, width=100)


def _checked(rules: RuleSet, dialect: Dialect, pods: Sequence[str]) -> list[PolicyRule]:
    """Return the rules after the one that permits established connections."""
    says = {
        **PLACE,
        "match.source.slice": "a slice is no label; name the workloads by labels",
        "match.target.slice": "a slice is no label; name the workloads by labels",
        "match.source_ports": "policies know no source ports",
        "condition.encrypted": "policies do not see encryption",
        "condition.fragment": "policies know no fragments",
        "schedule": "policies have no timetable",
        "action.rate_mb_s": "policies have no rates",
        "action.log": "policies record no packets",
    }
    plain_only(rules, dialect, says)
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
        for word in (each for pair in side.labels.items() for each in pair):
            if not _LABEL.fullmatch(word.removeprefix("namespace:")):
                raise refuse(rule, f"match.{field}.labels", f"{show(word)} is no label there")
        if side.labels and (side.addresses or side.outside):
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
    ways: _Ways = ([], [])
    subjects: dict[str, dict[str, str]] = {}
    for way, found in zip(("ingress", "egress"), ways, strict=True):
        found.extend(rule for rule in rules.rules if rule.id.startswith(f"{way}/"))
        closed = {rule.id.rpartition("/")[0] for rule in found if rule.id.endswith("/isolated")}
        for rule in found:
            at, _, last = rule.id.rpartition("/")
            named = at.split("/")
            subject = rule.match.target if way == "ingress" else rule.match.source
            shut = _rule(rule.id, DENY, way, subject.labels, Segment())
            own = subjects.setdefault("/".join(named[1:]), subject.labels)
            if (
                at not in closed
                or len(named) != 3
                or own != subject.labels
                or own.get(NAMESPACE) != named[1]
                or (last == "isolated") != (rule == shut)
                or (rule.action == DENY and last != "isolated" and dialect == "kubernetes")
            ):
                return None
    return ways if any(ways) and _joined(ways, rules.name) == rules else None


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
    parts = [(rule.id, rule.match) for rule in rules]
    if default is PolicyVerdict.PERMIT or any(rule.action == DENY for rule in rules):
        marked = next((rule for rule in rules if rule.match.source.labels), None)
        if marked and dialect == "kubernetes" and not pods:
            why = "kubernetes: a rule by labels among denials needs the pods' addresses (--pods)"
            raise refuse(marked, "match.source.labels", why)
        parts = [(f"part-{n}", m) for n, m in enumerate(_cells(rules, default, pods), 1)]
    ways: _Ways = ([], [])
    taken = {"default"}
    for title, match in parts:
        stem = re.sub(r"[^a-z0-9-]+", "-", title.lower()).strip("-")[:40]
        name = next(
            n for i in range(len(taken) + 1) if (n := f"{stem}-{i}" if i else stem) not in taken
        )
        taken.add(name)
        for way, word, found, subject, peer in (
            ("ingress", "in", ways[0], match.target, match.source),
            ("egress", "out", ways[1], match.source, match.target),
        ):
            for labels in () if subject.addresses else _subjects(title, subject, spaces):
                at = f"{way}/{labels[NAMESPACE]}/{name}-{word}/1"
                found.append(_rule(at, PERMIT, way, labels, peer, match.protocol, match.ports))
    for way, found in zip(("ingress", "egress"), ways, strict=True):
        for space in spaces:
            at = f"{way}/{space}/default/isolated"
            found.append(_rule(at, DENY, way, {NAMESPACE: space}, Segment()))
    return ways


def _subjects(title: str, segment: Segment, spaces: list[str]) -> Iterator[dict[str, str]]:
    """Yield labels of the pods of a side, for each namespace in which they can be."""
    labels = segment.labels
    for key in labels:
        if key.lstrip("!").startswith("namespace:") and key.lstrip("!") != NAMESPACE:
            why = f"a policy picks pods of one namespace, by its name: {NAMESPACE}"
            raise NotExpressibleError(f"rule {title}: match: labels: {why}")
    without_space = {key: value for key, value in labels.items() if not key.endswith(NAMESPACE)}
    for space in [labels[NAMESPACE]] if NAMESPACE in labels else spaces:
        if space not in labels.get(f"!{NAMESPACE}", "").split(","):
            yield {**without_space, NAMESPACE: space}


def _cells(
    rules: list[PolicyRule], default: PolicyVerdict, pods: Sequence[str]
) -> Iterator[RuleMatch]:
    """Yield disjoint matches of all that passes. What is not of a label has it with ``!``."""
    sides = [[r.match.target for r in rules], [r.match.source for r in rules]]
    atoms = [sorted({pair for side in each for pair in side.labels.items()}) for each in sides]
    hosts = without(_LINE, _line(pods))
    halves = [(_BOTH, hosts, *(_BOTH for _ in each)) for each in atoms]
    full: Box = (*halves[0], *halves[1], ((0, 2),), ((0, LAST_PORT),))
    boxes: list[Box] = []
    passes: list[bool] = []
    for rule in rules:
        protocol = rule.match.protocol
        number = full[-2] if protocol is None else ((_PROTOCOLS.index(protocol),) * 2,)
        for target, source in product(
            _side(rule.match.target, atoms[0], hosts), _side(rule.match.source, atoms[1], hosts)
        ):
            boxes.append((*target, *source, number, port_ranges(rule.match.ports)))
            passes.append(rule.action == PERMIT)
    passes.append(default is PolicyVerdict.PERMIT)
    middle = len(halves[0])
    for box, _ in regions([boxes], full, lambda first: True if passes[first[0]] else None):
        to, by = _unside(box[:middle], atoms[0]), _unside(box[middle:-2], atoms[1])
        if to is None or by is None or (to.addresses and by.addresses):
            continue
        if box[-2:] == full[-2:]:
            yield RuleMatch(by, to)
            continue
        cut = tuple(PortRange(max(first, 1), last) for first, last in box[-1] if last)
        for index, protocol in enumerate(_PROTOCOLS):
            if any(first <= index <= last for first, last in box[-2]) and cut:
                yield RuleMatch(by, to, protocol, (), () if box[-1] == full[-1] else cut)


def _side(segment: Segment, atoms: list[tuple[str, str]], hosts: Ranges) -> Iterator[Box]:
    """Yield boxes of one side: whether it is a pod, a host's address, and each label or not."""
    free = (_BOTH for _ in atoms)
    if segment.labels:
        wanted = segment.labels.items()
        yield ((1, 1),), hosts, *(((1, 1),) if atom in wanted else _BOTH for atom in atoms)
    elif segment.addresses or segment.outside:
        listed = _line(segment.addresses) if segment.addresses else hosts
        if found := without(listed, _line(segment.outside)):
            yield ((0, 0),), found, *free
        if not segment.addresses:
            yield ((1, 1),), hosts, *(_BOTH for _ in atoms)
    else:
        yield _BOTH, hosts, *free


def _unside(box: Box, atoms: list[tuple[str, str]]) -> Segment | None:
    if box[0] == _BOTH:
        return Segment()
    if box[0] == ((0, 0),):
        listed, left_out = _unline(box[1]), _unline(without(_LINE, box[1]))
        if len(left_out) + 2 < len(listed):
            return Segment(tuple(UNIVERSE.values()), left_out)
        return Segment(listed)
    labels: dict[str, str] = {}
    for (key, value), span in zip(atoms, box[2:], strict=True):
        if span == ((1, 1),):
            if key in labels:
                return None  # nothing has two values of a label
            labels[key] = value
        elif span == ((0, 0),):
            held = labels.get(f"!{key}")
            labels[f"!{key}"] = value if held is None else f"{held},{value}"
    for key in [key for key in labels if key[0] != "!"]:
        labels.pop(f"!{key}", None)
    return Segment(labels=labels or _PODS)


def _line(listed: Iterable[str]) -> Ranges:
    names = list(listed)
    v6 = ((first + _V6, last + _V6) for first, last in prefix_ranges(names, 6))
    return (*prefix_ranges(names, 4), *v6)


def _unline(line: Ranges) -> tuple[str, ...]:
    v4 = [(first, min(last, _V6 - 1)) for first, last in line if first < _V6]
    v6 = [(max(first, _V6) - _V6, last - _V6) for first, last in line if last >= _V6]
    return (*prefixes(tuple(v4), 4), *prefixes(tuple(v6), 6))


def _documents(ways: _Ways, dialect: Dialect) -> Iterator[dict[str, Any]]:
    groups: dict[str, dict[str, list[PolicyRule]]] = {}
    for way, found in zip(("ingress", "egress"), ways, strict=True):
        for rule in found:
            groups.setdefault(rule.id.split("/", 1)[1].rpartition("/")[0], {}).setdefault(
                way, []
            ).append(rule)
    for at, parts in groups.items():
        space, _, name = at.partition("/")
        one = next(iter(parts.values()))[0]
        subject = one.match.target if "ingress" in parts else one.match.source
        labels = {k: v for k, v in subject.labels.items() if k != NAMESPACE and k}
        meta = {"name": name, "namespace": space}
        if dialect == "kubernetes":
            spec: dict[str, Any] = {
                "podSelector": _selector(labels),
                "policyTypes": [way.capitalize() for way in parts],
            }
            api = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
        else:
            spec = {"endpointSelector": _selector(labels)}
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
    if peer.labels or (peer.outside and not peer.addresses):
        space = {k: v for k, v in peer.labels.items() if k.lstrip("!").startswith("namespace:")}
        pod = {k: v for k, v in peer.labels.items() if k and k not in space}
        near = {"podSelector": _selector(pod)} if pod else {}
        peers.insert(0, {"namespaceSelector": _selector(space), **near})
    ports = [
        {"protocol": match.protocol.upper(), **span}
        for span in (_span(each) for each in match.ports or (None,))
        if match.protocol
    ]
    yield {**({word: peers} if peers else {}), **({"ports": ports} if ports else {})}


def _cilium(peer: Segment, word: str, match: RuleMatch) -> Iterator[dict[str, Any]]:
    ports = [
        {"port": str(span.pop("port", 0)), **span, "protocol": match.protocol.upper()}
        for span in (_span(each) for each in match.ports or (None,))
        if match.protocol
    ]
    below = {"toPorts": [{"ports": ports}]} if ports else {}
    blocks = list(_blocks(peer))
    if peer.labels or (peer.outside and not peer.addresses):
        chosen = _selector({k: v for k, v in peer.labels.items() if k}, _cilium_key)
        if not any(k.endswith(NAMESPACE) for k in peer.labels):
            everywhere = {"key": f"k8s:{_CILIUM_NAMESPACE}", "operator": "Exists"}
            chosen.setdefault("matchExpressions", []).append(everywhere)
        yield {f"{word}Endpoints": [chosen], **below}
    if blocks:
        yield {f"{word}CIDRSet": blocks, **below}
    elif not peer.labels:
        yield {f"{word}Entities": ["all"], **below}


def _span(ports: PortRange | None) -> dict[str, Any]:
    if ports is None:
        return {}
    return {"port": ports.first} | ({"endPort": ports.last} if ports.last > ports.first else {})


def _blocks(peer: Segment) -> Iterator[dict[str, Any]]:
    if not (peer.addresses or peer.outside):
        return
    holes = [ip_network(each) for each in peer.outside]
    for each in peer.addresses or UNIVERSE.values():
        whole = ip_network(each)
        inner = [hole for hole in holes if hole.version == whole.version]
        if not any(whole.subnet_of(hole) for hole in inner):  # type: ignore[arg-type]
            cut = [str(hole) for hole in inner if hole.subnet_of(whole)]  # type: ignore[arg-type]
            yield {"cidr": str(whole), **({"except": cut} if cut else {})}


def _cilium_key(key: str) -> str:
    if key == NAMESPACE:
        return f"k8s:{_CILIUM_NAMESPACE}"
    space, _, rest = key.rpartition("namespace:")
    return f"k8s:{_CILIUM_LABEL}{rest}" if key.startswith("namespace:") else space + rest


def _selector(
    labels: dict[str, str],
    key_of: Callable[[str], str] = lambda key: key.removeprefix("namespace:"),
) -> dict[str, Any]:
    plain = {key_of(k): v for k, v in labels.items() if k[0] != "!"}
    others = [
        {"key": key_of(k[1:]), "operator": "NotIn", "values": v.split(",")}
        for k, v in labels.items()
        if k[0] == "!"
    ]
    return {
        **({"matchLabels": plain} if plain else {}),
        **({"matchExpressions": others} if others else {}),
    }
