"""How a bidder goes on after a crash: what it ran, what it had promised, who relies on it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from phalanx.auction.estate import Instance
from phalanx.auction.memory import BidderMemory, CustomerMemory
from phalanx.auction.participant import Contract, Stage
from phalanx.bdi import Agent, Believe
from phalanx.bdi.steps import Steps
from phalanx.domain.actions import Failed, Lift, ReadMeasure, Stop
from phalanx.domain.actions import Outcome as ActionOutcome
from phalanx.domain.goals import Predicate

if TYPE_CHECKING:
    from phalanx.auction.bidder import Bidder

RESTARTED = "its agent was restarted"


def remember(bidder: Bidder) -> BidderMemory:
    """Return the estate of ``bidder``, its customers, and the contracts that it won."""
    return BidderMemory(
        tuple(instance.memory() for instance in bidder.estate),
        tuple(
            CustomerMemory(effect, customer, goal)
            for effect, customers in bidder.customers.items()
            for customer, goal in customers.items()
        ),
        tuple(contract.memory() for contract in bidder.contracts.won()),
    )


def recall(bidder: Bidder, me: Agent, part: BidderMemory) -> None:
    """Take up what is remembered.

    VNFs that run are kept with their measures, as far as these are still in force. What had not
    come to run is stopped, and its contract fails at once, so that the work is passed on.
    """
    for old in part.instances:
        bidder.estate.add(Instance.recalled(old))
    for relying in part.customers:
        bidder.keep(relying.effect, relying.customer, relying.goal)
    for won in part.contracts:
        bidder.contracts.recall(Contract.recalled(won))
    for instance in bidder.estate:
        for measure in instance.passing.values():
            me.perform(Lift(measure), lambda _: None)
        instance.passing.clear()
        if instance.running:
            _take_up(bidder, me, instance)
        else:
            bidder.estate.remove(instance.id)
            me.perform(Stop(instance.id, RESTARTED), lambda _: None)
    for contract in bidder.contracts.working():
        contract.heard = me.now
        if at_work(bidder, contract) is None:
            bidder.fail(me, contract, f"{RESTARTED} before the VNF ran")


def at_work(bidder: Bidder, contract: Contract) -> Instance | None:
    """Return the instance that runs for ``contract`` already."""
    for instance in bidder.estate:
        if instance.running and contract.conversation in instance.jobs:
            return instance
    return None


def _take_up(bidder: Bidder, me: Agent, instance: Instance) -> None:
    me.active.add(instance.vnfd.name)
    for conversation in list(instance.jobs):
        contract = bidder.contracts.get(conversation)
        if contract is not None and contract.stage is Stage.DONE:
            del instance.jobs[conversation]
    for effect, measure in instance.measures.items():
        me.perform(ReadMeasure(measure), partial(_still_in_force, instance, effect, measure))


def _still_in_force(
    instance: Instance, effect: Predicate, measure: str, outcome: ActionOutcome
) -> Steps | None:
    if isinstance(outcome, Failed) and instance.measures.get(effect) == measure:
        del instance.measures[effect]
        return (Believe(effect, value=False),)
    return None
