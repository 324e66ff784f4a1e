"""Access control lists from files: YAML, or TOML where the name ends with ``.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from phalanx.domain.errors import ScenarioError
from phalanx.fabric.access import Policy
from phalanx.loading import Offence, Tree, one_line, parse_as, read_text, refusal
from phalanx.loading.refusals import first_offence, twice


def load_policy(path: str | Path) -> Policy:
    """Return the access control list in the file ``path``.

    Raises:
        ScenarioError: with one line ``FILE: FIELD (line N): what is wrong; what is allowed``.

    """
    return parse_policy(read_text(path), str(path))


def parse_policy(text: str, name: str) -> Policy:
    """Return the access control list that ``text`` describes; ``name`` is the file's, for errors.

    Raises:
        ScenarioError: as ``load_policy``.

    """
    if name.endswith(".toml"):
        policy, tree = _parse_toml(text, name)
    else:
        policy, tree = parse_as(Policy, text, name)
    for field, why in _offences(policy):
        raise refusal(name, tree, field, why)
    return policy


def _parse_toml(text: str, name: str) -> tuple[Policy, Tree]:
    try:
        tree = Tree(tomllib.loads(text), {})
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ScenarioError(one_line(f"{name}: no TOML: {error}")) from None
    try:
        return msgspec.convert(tree.data, Policy), tree
    except msgspec.ValidationError as error:
        field, why = first_offence(tree.data, Policy) or ("", str(error))
        raise refusal(name, tree, field, why) from None


def _offences(policy: Policy) -> Iterator[Offence]:
    """Yield what the fields say about each other and may not."""
    yield from twice("rules", (rule.name for rule in policy.rules), ".name")
    for index, rule in enumerate(policy.rules):
        if not (rule.who.role or rule.who.name or rule.who.scope is not None):
            yield f"rules[{index}].who", "nobody is named; for everybody write name: ['*']"
        if not (rule.on.owner or rule.on.capability or rule.on.scope is not None):
            yield f"rules[{index}].on", "nobody is named; for every provider write owner: ['*']"
