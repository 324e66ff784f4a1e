"""Random compromises, one change each, are all found; once undone, and in honest work, no alarm."""

import os
import signal
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
from trust_lab import Agent, agent, write_agent

from phalanx.domain.trust import TrustTier
from phalanx.trust.measurement import appraise
from phalanx.trust.references import reference_of

pytestmark = pytest.mark.processes

LATE = ("wave", "fractions", "http.client", "json", "email.message", "argparse", "textwrap")
CHANGES = int(os.environ.get("PHALANX_PLANS", "0")) or 4

MUTATE = r'''
import builtins, random, sys, types
import wave, fractions, http.client, json, email.message, argparse, textwrap

def places(random):
    """Return a module of those that the loop does not need, and functions in it with owners."""
    names = ["wave", "fractions", "http.client", "json.decoder", "email.message", "argparse",
             "textwrap", "sentry.core"]
    module = sys.modules[random.choice(names)]
    owners = [module] + [c for c in vars(module).values()
                         if isinstance(c, type) and c.__module__ == module.__name__]
    return [(o, n, f) for o in owners for n, f in sorted(vars(o).items())
            if isinstance(f, types.FunctionType) and n not in ("work", "__init_subclass__")
            and not hasattr(f, "cache_info")]

def constants(code, random):
    consts = list(code.co_consts)
    numbers = [i for i, c in enumerate(consts) if isinstance(c, (int, str)) and i]
    if not numbers:
        return None
    i = random.choice(numbers)
    consts[i] = consts[i] + 1 if isinstance(consts[i], int) else consts[i] + "x"
    return code.replace(co_consts=tuple(consts))

def mutate(seed):
    r = random.Random(seed)
    while True:
        owner, name, function = r.choice(places(r))
        kind = r.choice(["code", "constant", "name", "default", "keyword", "rebind", "delete",
                         "wrap", "builtin", "shadow"])
        code = function.__code__
        if kind in ("code", "constant", "name"):
            if kind == "constant":
                new = constants(code, r)
            elif kind == "name":
                new = code.co_names and code.replace(co_names=("x",) + code.co_names[1:])
                new = None if code.co_names[:1] == ("x",) else new
            else:
                new = (lambda *a, **k: None).__code__.replace(co_name=code.co_name)
                new = new if len(new.co_freevars) == len(code.co_freevars) else None
            if not new:
                continue
            function.__code__ = new
            return kind, name, lambda: setattr(function, "__code__", code)
        if kind == "default":
            old = function.__defaults__
            function.__defaults__ = tuple(old or ()) + (7,) if not old else (7,) + old[1:]
            if old and repr(old[0]) == "7":
                continue
            return kind, name, lambda: setattr(function, "__defaults__", old)
        if kind == "keyword":
            old = function.__kwdefaults__
            function.__kwdefaults__ = {**(old or {}), "another": 3}
            return kind, name, lambda: setattr(function, "__kwdefaults__", old)
        if kind in ("rebind", "wrap"):
            other = lambda *a, **k: function(*a, **k)
            if kind == "rebind":
                other = r.choice([f for o, n, f in places(r)])
                if other is function:
                    continue
            setattr(owner, name, other)
            return kind, name, lambda: setattr(owner, name, function)
        if kind == "delete":
            order = dict(vars(owner))
            delattr(owner, name)
            return kind, name, lambda: setattr(owner, name, function)
        if kind == "builtin":
            name = r.choice(["hash", "id", "ord", "abs", "divmod", "isinstance"])
            old = getattr(builtins, name)
            setattr(builtins, name, (lambda *a: old(*a)) if r.random() < 0.5 else builtins.repr)
            return kind, name, lambda: setattr(builtins, name, old)
        setattr(owner, "print", lambda *a: None)
        return kind, name, lambda: delattr(owner, "print")
'''


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    folder: Path = write_agent(tmp_path_factory.mktemp("agent"))
    with agent(folder, reference_of("sentry", "1.0", path=folder, late=LATE)) as made:
        made.exploit(
            f"exec(__import__('base64').b64decode('{b64encode(MUTATE.encode()).decode()}'))"
        )
        assert made.verdict() == (TrustTier.AFFIRMING, set())
        yield made


def test_one_random_change_is_found_and_its_undoing_too(target: Agent) -> None:
    for seed in range(CHANGES):
        target.exploit(f"kind, name, undo = mutate({seed})")
        tier, found = target.verdict()
        assert tier is TrustTier.CONTRAINDICATED, seed
        assert found
        target.exploit("undo()")
        assert target.verdict() == (TrustTier.AFFIRMING, set()), seed


def test_honest_work_raises_no_alarm(target: Agent) -> None:
    for _ in range(10 * CHANGES):
        target.exploit("import gc\ngc.collect()\ncore.work()")
        assert target.verdict() == (TrustTier.AFFIRMING, set())


@pytest.mark.processes
def test_garbage_in_memory_is_survived_and_never_affirmed(target: Agent) -> None:
    random, pid = Random(4), target.process.pid
    target.process.send_signal(signal.SIGSTOP)
    number = os.open(f"/proc/{pid}/mem", os.O_RDWR)
    python = target.measurer._python
    assert python
    assert python._snapshot
    snapshot = python._snapshot
    places = [
        int(snapshot._begins[run] + 8 * word - snapshot._bases[run])
        for word in random.sample(list(snapshot._checked), 5 * CHANGES)
        for run in [int(np.searchsorted(snapshot._bases, 8 * word, side="right")) - 1]
    ]
    try:
        for place in places:
            before = os.pread(number, 8, place)
            os.pwrite(number, random.randbytes(8), place)
            tier, found = appraise(target.look(), target.reference)
            assert tier in (TrustTier.CONTRAINDICATED, TrustTier.WARNING), found
            os.pwrite(number, before, place)
    finally:
        os.close(number)
        target.process.send_signal(signal.SIGCONT)
    kinds = {kind for _, kind in target.verdict()[1]}
    assert kinds <= {"constants-written"}  # pages of the library that were written stay private
