"""The messages of one auction among bare asyncio tasks with a queue each: the floor.

cfp to N, N proposals, one accept-proposal, N - 1 reject-proposals, one inform: 3N + 1.
Nobody evaluates, holds or records anything.
"""

from __future__ import annotations

import asyncio
import time

CFP, PROPOSE, ACCEPT, REJECT, INFORM = "cfp", "propose", "accept-proposal", "reject", "inform"


def auctions(bidders: int, rounds: int) -> list[float]:
    """Return the seconds that each of ``rounds`` auctions took."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(_auctions(bidders, rounds))


async def _auctions(bidders: int, rounds: int) -> list[float]:
    to_initiator: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    inboxes: list[asyncio.Queue[str]] = [asyncio.Queue() for _ in range(bidders)]

    async def bidder(number: int) -> None:
        inbox = inboxes[number]
        while True:
            performative = await inbox.get()
            if performative == CFP:
                to_initiator.put_nowait((PROPOSE, number))
            elif performative == ACCEPT:
                to_initiator.put_nowait((INFORM, number))

    tasks = [asyncio.create_task(bidder(number)) for number in range(bidders)]
    took = []
    for winner in range(rounds):
        begin = time.perf_counter()
        for inbox in inboxes:
            inbox.put_nowait(CFP)
        for _ in range(bidders):
            await to_initiator.get()
        for number, inbox in enumerate(inboxes):
            inbox.put_nowait(ACCEPT if number == winner % bidders else REJECT)
        performative, _ = await to_initiator.get()
        took.append(time.perf_counter() - begin)
        assert performative == INFORM
    for task in tasks:
        task.cancel()
    return took
