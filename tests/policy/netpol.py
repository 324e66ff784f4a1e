"""What NetworkPolicies and CiliumNetworkPolicies let pass, read straight from their documentation.

Kubernetes: "Network Policies" (concepts) and the API reference of networking.k8s.io/v1. A block of
addresses is held against a pod's own address, too: the API says nothing else. Cilium: "Layer 3",
"Layer 4" and "Deny policies" of its documentation; prefixes are never those of pods there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network


@dataclass(frozen=True)
class End:
    """A pod (with a namespace), or a host outside."""

    address: str
    namespace: str = ""
    labels: dict = field(default_factory=dict)
    namespace_labels: dict = field(default_factory=dict)

    @property
    def all_labels(self) -> dict:
        """Labels as our model has them."""
        return self.labels | {f"namespace:{k}": v for k, v in self.namespace_labels.items()}


def selects(selector: dict, labels: dict) -> bool:
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for each in selector.get("matchExpressions", []):
        key, values = each["key"], each.get("values", [])
        held = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not held[each["operator"]]:
            return False
    return True


def _in_block(block: dict, address: str) -> bool:
    at = ip_address(address)
    inside = at in ip_network(block["cidr"])
    return inside and not any(at in ip_network(each) for each in block.get("except", []))


def _port(port: dict, protocol: str, number: int, every: tuple = ()) -> bool:
    if port.get("protocol", every[0] if every else "TCP") not in (protocol, *every):
        return False
    if port.get("port") in (None, *every[1:]):
        return True
    first = int(port["port"])
    return first <= number <= port.get("endPort", first)


def kubernetes_allows(policies: list[dict], source: End, target: End, protocol: str, port: int):
    """Whether a new connection is let through."""
    ways = ("Ingress", target, source, "from"), ("Egress", source, target, "to")
    return all(_kubernetes(policies, *way, protocol, port) for way in ways)


def _kubernetes(policies, way, subject: End, peer: End, word, protocol, port) -> bool:
    if not subject.namespace:
        return True
    isolated = False
    for policy in policies:
        spec, home = policy["spec"], policy["metadata"].get("namespace", "default")
        types = spec.get("policyTypes") or ["Ingress"] + ["Egress"] * bool(spec.get("egress"))
        if home != subject.namespace or way not in types:
            continue
        if not selects(spec["podSelector"], subject.labels):
            continue
        isolated = True
        for rule in spec.get(way.lower()) or []:
            peers, ports = rule.get(word), rule.get("ports")
            if peers and not any(_peer(each, home, peer) for each in peers):
                continue
            if not ports or any(_port(each, protocol, port) for each in ports):
                return True
    return not isolated


def _peer(said: dict, home: str, peer: End) -> bool:
    if "ipBlock" in said:
        return _in_block(said["ipBlock"], peer.address)
    if not peer.namespace:
        return False
    if "namespaceSelector" in said:
        if not selects(said["namespaceSelector"], peer.namespace_labels):
            return False
    elif peer.namespace != home:
        return False
    return selects(said.get("podSelector", {}), peer.labels)


def cilium_allows(policies: list[dict], source: End, target: End, protocol: str, port: int) -> bool:
    """Whether a new connection is let through."""
    ways = ("ingress", target, source, "from"), ("egress", source, target, "to")
    return all(_cilium(policies, *way, protocol, port) for way in ways)


def _cilium(policies, way, subject: End, peer: End, word, protocol, port) -> bool:
    if not subject.namespace:
        return True
    closed, allowed, denied = False, False, False
    for policy in policies:
        spec, home = policy["spec"], policy["metadata"].get("namespace", "default")
        if home != subject.namespace or not selects(
            _plain(spec["endpointSelector"]), subject.labels
        ):
            continue
        for key in (way, f"{way}Deny"):
            for rule in spec.get(key) or []:
                closed = True
                if _cilium_rule(rule, word, home, peer, protocol, port):
                    allowed |= key == way
                    denied |= key != way
    return not denied and (allowed or not closed)


def _cilium_rule(rule: dict, word: str, home: str, peer: End, protocol: str, port: int) -> bool:
    ports = [each for to in rule.get("toPorts", []) for each in to["ports"]]
    if ports and not any(_port(each, protocol, port, ("ANY", "0")) for each in ports):
        return False
    kinds = f"{word}Endpoints", f"{word}CIDR", f"{word}CIDRSet", f"{word}Entities"
    if not any(kind in rule for kind in kinds):
        return bool(ports)
    labels = dict(peer.labels)
    labels["io.kubernetes.pod.namespace"] = peer.namespace
    for key, value in peer.namespace_labels.items():
        labels[f"io.cilium.k8s.namespace.labels.{key}"] = value
    for each in rule.get(kinds[0], []):
        selector = _plain(each)
        named = [*selector["matchLabels"], *(e["key"] for e in selector["matchExpressions"])]
        near = "io.kubernetes.pod.namespace" in named or peer.namespace == home
        if peer.namespace and near and selects(selector, labels):
            return True
    blocks = [{"cidr": each} for each in rule.get(kinds[1], [])] + rule.get(kinds[2], [])
    if not peer.namespace and any(_in_block(block, peer.address) for block in blocks):
        return True
    return "all" in rule.get(kinds[3], [])


def _plain(selector: dict) -> dict:
    """The selector without the prefixes that name where a label comes from."""
    return {
        "matchLabels": {
            k.removeprefix("k8s:"): v for k, v in selector.get("matchLabels", {}).items()
        },
        "matchExpressions": [
            {**each, "key": each["key"].removeprefix("k8s:")}
            for each in selector.get("matchExpressions", [])
        ],
    }
