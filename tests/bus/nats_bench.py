"""What a message costs over NATS, beside nats-py: run it as a program."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nats
from nats_lab import DOMAIN, RECORDER, A, B, Ground, Lab

from phalanx.bus import subjects
from phalanx.bus.client import Delivery, Stored, Unanswered

MESSAGES, REQUESTS, BURST, AHEAD = 20_000, 2_000, 200, 4_000
PAYLOAD = bytes(300)
TO_B = subjects.message(DOMAIN, "b", "a")
CALL_B = subjects.call(DOMAIN, "b", "op", "agent", "a")


def tell(what: str, count: int, began: tuple[float, float]) -> None:
    cpu, wall = time.process_time() - began[0], time.perf_counter() - began[1]
    print(f"{what:28} {cpu / count * 1e6:7.1f} µs processor {wall / count * 1e6:7.1f} µs")


def now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def messages(ground: Ground) -> None:
    a, b = ground.join(A), ground.join(B)
    got: list[Delivery] = []
    b.subscribe(subjects.pattern(DOMAIN, "msg", "b", "*"), got.append)
    ground.rest()
    began, sent = now(), 0
    while sent < MESSAGES:
        for _ in range(BURST):
            a.publish(TO_B, PAYLOAD)
        sent += BURST
        ground.until(lambda: len(got) > sent - AHEAD)  # noqa: B023  # called before it changes
    ground.until(lambda: len(got) == MESSAGES)
    tell("publish and deliver", MESSAGES, began)


def requests(ground: Ground) -> None:
    a, b = ground.join(A), ground.join(B)
    b.subscribe(subjects.calls(DOMAIN, "b"), lambda asked: b.respond(asked, b"ok"))
    ground.rest()
    answers: list[Delivery | Unanswered] = []

    def ask(answer: Delivery | Unanswered | None = None) -> None:
        if answer is not None:
            answers.append(answer)
        if len(answers) < REQUESTS:
            a.request(CALL_B, b"", ask, timeout_s=5)

    began = now()
    ask()
    ground.until(lambda: len(answers) == REQUESTS, within_s=60)
    tell("request and answer", REQUESTS, began)


def events(ground: Ground) -> None:
    a, recorder = ground.join(A), ground.join(RECORDER)
    done: list[str | None] = []
    got: list[Stored] = []

    def take(stored: Stored) -> None:
        got.append(stored)
        stored.acknowledge()

    began = now()
    for number in range(MESSAGES // 2):
        a.append(subjects.event(DOMAIN, "a", "x"), PAYLOAD, str(number), done.append)
    ground.until(lambda: len(done) == MESSAGES // 2, within_s=60)
    tell("append and acknowledge", MESSAGES // 2, began)
    began = now()
    recorder.follow(subjects.EVENTS, take, durable="bench")
    ground.until(lambda: len(got) == MESSAGES // 2, within_s=60)
    tell("follow and acknowledge", MESSAGES // 2, began)


async def nats_py(lab: Lab, what: Callable[..., object]) -> None:
    host, port = lab.addresses[0]
    url = f"tls://{host}:{port}"
    a = await nats.connect(url, tls=lab.context(A), tls_handshake_first=True)
    b = await nats.connect(url, tls=lab.context(B), tls_handshake_first=True)
    got, came = 0, asyncio.Event()

    async def take(_: object) -> None:
        nonlocal got
        got += 1
        came.set()

    await b.subscribe(subjects.pattern(DOMAIN, "msg", "b", "*"), cb=take)
    await asyncio.sleep(0.1)
    began = now()
    for number in range(MESSAGES):
        await a.publish(TO_B, PAYLOAD)
        if number % BURST == 0:
            await asyncio.sleep(0)
        while number - got > AHEAD:
            came.clear()
            await came.wait()
    while got < MESSAGES:
        came.clear()
        await came.wait()
    what("nats-py: publish and deliver", MESSAGES, began)
    await a.close()
    await b.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, Ground.of_one(Path(directory)) as ground:
        messages(ground)
        requests(ground)
        events(ground)
        asyncio.run(nats_py(ground.lab, tell))


if __name__ == "__main__":
    main()
