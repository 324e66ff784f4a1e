"""Who verifies whom in a round: the same choice as the attestation contract makes.

A round's seed hangs on shares that agents committed to before any was known, so nobody can tell
the verifiers of a round before it opens, nor choose them (seed 001, 3.B: the contract elects the
verifier and the measured agent). What can be done is to keep one's share back once the others are
known, which halves or doubles the choice for each agent that does; that is recorded as a fault.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from phalanx.domain.agents import AgentId
from phalanx.ledger.ethereum import keccak


@lru_cache(maxsize=4096)
def agent_key(agent: AgentId) -> bytes:
    """Return what stands for an agent in the contracts: 20 octets."""
    return keccak(agent.encode())[:20]


def assigned(
    seed: str, attester: AgentId, members: Iterable[AgentId], verifiers: int
) -> tuple[AgentId, ...]:
    """Return who verifies an attester: those with the lowest hash of seed, attester and name.

    Args:
        seed: of the round, 64 hexadecimal digits.
        attester: who is verified, one of the members or not.
        members: agents that were verified before the round opened, and had not left by then.
        verifiers: how many are elected; fewer if there are not as many.

    Returns:
        The verifiers, in the order of their hashes.

    """
    return _assigned(seed, attester, frozenset(members), verifiers)


@lru_cache(maxsize=16)  # agents of one process ask the same
def elected(
    seed: str, members: frozenset[AgentId], verifiers: int
) -> dict[AgentId, tuple[AgentId, ...]]:
    """Return the verifiers of each member in a round, in the order of their names."""
    each = sorted(members)  # the order of a set differs from process to process
    return {attester: _assigned(seed, attester, members, verifiers) for attester in each}


def _assigned(
    seed: str, attester: AgentId, members: frozenset[AgentId], verifiers: int
) -> tuple[AgentId, ...]:
    head = bytes.fromhex(seed) + agent_key(attester)
    others = (member for member in members if member != attester)
    return tuple(sorted(others, key=lambda it: keccak(head + agent_key(it)))[:verifiers])


def commitment(agent: AgentId, number: int, share: str) -> str:
    """Return what an agent commits to (``Drawn``) for a share of 64 hexadecimal digits."""
    return keccak(agent_key(agent) + number.to_bytes(8, "big") + bytes.fromhex(share)).hex()
