"""Calls of a live Python agent, sampled from outside, against those that were learned."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from trust_lab import Agent, agent, until, write_agent

from phalanx.domain.trust import TrustTier
from phalanx.trust import python_stacks
from phalanx.trust.measurement import (
    DUBIOUS,
    CallSamples,
    MeasurementError,
    ReferenceValues,
    appraise,
)
from phalanx.trust.references import reference_of, with_calls

pytestmark = pytest.mark.processes

LOOP = '''
import asyncio
import sys
from collections import deque

from phalanx.trust.processes import ProgressCounter
from sentry import core

RULES = deque(["10.0.0.0/8"])

def rules():
    while True:
        RULES.rotate()
        yield RULES[0]

async def watch():
    await asyncio.sleep(0)
    return [core.work() for _ in range(30)]

class Watch:
    """Turns a loop until stdin ends; does what it says, as an exploited agent does."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.counter = ProgressCounter()
        self.feed = rules()
        self.space = {"core": core, "watch": self}

    def turn(self):
        self.counter.turn()
        next(self.feed)
        self.loop.create_task(watch())
        self.loop.call_later(0.002, self.turn)

    def hear(self):
        line = sys.stdin.readline()
        if not line:
            return self.loop.stop()
        exec(line, self.space)
        print("done", flush=True)

def run():
    watch = Watch()
    watch.loop.add_reader(sys.stdin, watch.hear)
    watch.loop.call_soon(watch.turn)
    print("ready", flush=True)
    watch.loop.run_forever()
'''
BUSY = """
import time
def busy(for_s):
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        pass
"""
AGAIN = f"""{BUSY}
def again():
    busy(0.005)
    watch.loop.call_later(0.01, again)
"""
FEED = f"""{BUSY}
def feed():
    while True:
        busy(0.002)
        yield 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_agent(tmp_path_factory.mktemp("agent"))
    (made / "sentry" / "agent.py").write_text(LOOP)
    return made


@pytest.fixture(scope="module")
def reference(folder: Path) -> ReferenceValues:
    """Return reference values, with the calls that an honest agent was seen to make."""
    plain = reference_of("sentry", "1.0", path=folder, late=(), calls=True)
    with agent(folder, plain) as honest:
        honest.exploit("import time")  # what tests say to agents is no alteration of them
        sampler = honest.measurer.sampler()
        seen = set().union(*(sampler.sample() for _ in range(6000)))
        reached = {sampler.names[callee].split(":")[1] for _, callee in seen}
        assert {"Handle._run", "work", "watch"} <= reached
    return with_calls(plain, seen)


@pytest.fixture
def target(folder: Path, reference: ReferenceValues) -> Iterator[Agent]:
    with agent(folder, reference) as made:
        made.exploit("import time")
        yield made


def sampled(target: Agent, times: int = 400) -> set[tuple[str, str]]:
    """Sample, look, and return what is wrong: where, without its file, and kind."""
    for _ in range(times):
        target.measurer.sample()
    return {(where.rpartition("/")[2], kind) for where, kind in target.verdict()[1]}


def honest(target: Agent) -> None:
    """Affirm an agent by what its names are bound to; its samples are told of apart."""
    seen = replace(target.look(), calls=None)
    tier, found = appraise(seen, replace(target.reference, calls=None))
    assert {each.kind for each in found} <= {"starved", "stalled"}
    assert tier is not TrustTier.CONTRAINDICATED


def test_thousands_of_samples_of_an_honest_agent_show_no_code_that_is_not_listed(
    target: Agent,
) -> None:
    kinds = set[str]()
    for _ in range(10):
        kinds |= {kind for _, kind in sampled(target, 500)}
    assert kinds <= {"call-unlearned"}  # a graph that was sampled is never whole


def test_code_that_is_executed_and_bound_nowhere_is_found(target: Agent) -> None:
    honest(target)
    assert target.process.stdin is not None
    target.process.stdin.write(f"exec(compile({BUSY + 'busy(1)'!r}, 'evil.py', 'exec'), {{}})\n")
    target.process.stdin.flush()
    until(lambda: ("evil.py:<module>:1", "code-unlisted") in sampled(target, 50))
    assert target.verdict()[0] is TrustTier.CONTRAINDICATED


def test_a_callback_in_the_queue_of_a_loop_is_found(target: Agent) -> None:
    target.exploit(f"exec({AGAIN!r}, watch.space)\nwatch.loop.call_soon(watch.space['again'])")
    honest(target)
    until(lambda: ("<string>:again:8", "code-unlisted") in sampled(target))


def test_a_generator_that_is_held_is_found(target: Agent) -> None:
    target.exploit(f"exec({FEED!r}, watch.space)\nwatch.feed = watch.space['feed']()")
    honest(target)
    until(lambda: ("<string>:feed:8", "code-unlisted") in sampled(target))


def test_genuine_code_that_is_called_from_elsewhere_is_told(target: Agent) -> None:
    honest(target)
    target.exploit("[watch.loop.call_later(n / 500, core.work) for n in range(5000)]")

    def told() -> bool:
        tier, said = target.verdict()
        assert tier is TrustTier.AFFIRMING or {kind for _, kind in said} & DUBIOUS
        found = sampled(target)
        return any(k == "call-unlearned" and w.endswith(":work:55") for w, k in found)

    until(told)


def test_missed_code_that_is_faster_than_samples(target: Agent) -> None:
    target.exploit(
        "exec('def quick(): core.ALLOWED.add(1)', watch.space)\n"
        "watch.loop.call_soon(watch.space['quick'])"
    )
    assert "code-unlisted" not in {kind for _, kind in sampled(target)}


def test_evidence_without_samples_is_not_affirmed(target: Agent) -> None:
    until(lambda: target.verdict() == (TrustTier.AFFIRMING, set()))
    calm = replace(target.look().activity, starved=0.0, still_s=0.0)
    seen = replace(target.look(), activity=calm)
    for calls in (None, CallSamples(0, 40)):
        assert appraise(replace(seen, calls=calls), target.reference) == (TrustTier.NONE, ())


def test_a_second_interpreter_is_found(target: Agent) -> None:
    target.exploit("import _xxsubinterpreters\nwatch.other = _xxsubinterpreters.create()")
    tier, found = target.verdict()
    assert tier is TrustTier.CONTRAINDICATED
    assert ("a second interpreter", "module-unlisted") in found


def test_frames_that_are_laid_out_in_an_unknown_way_are_refused(
    target: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_stacks.check_frames.cache_clear()
    wrong = {sys.version_info[:2]: ((56, 8), 8, 48)}
    for frames in ({}, wrong):
        monkeypatch.setattr(python_stacks, "_FRAMES", frames)
        with pytest.raises(MeasurementError, match="laid out in an unknown way: control flow"):
            python_stacks.check_frames()
        seen = target.look()
        assert seen.calls is None
        assert any("control flow is not sampled" in gap for gap in seen.gaps)
        assert appraise(seen, target.reference)[0] is TrustTier.NONE
    python_stacks.check_frames.cache_clear()
