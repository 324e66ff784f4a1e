"""Attacks on a live Python agent, made by the exploited agent itself, and what finds them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.nightly import at_night
from trust_lab import Agent, agent, write_agent

from phalanx.domain.trust import TrustTier
from phalanx.trust.measurement import ReferenceValues
from phalanx.trust.python_layout import code_digest
from phalanx.trust.python_objects import _Snapshot
from phalanx.trust.references import reference_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_agent(tmp_path_factory.mktemp("agent"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> ReferenceValues:
    return reference_of(
        "sentry", "1.0", path=folder, late=("wave", "fractions", "http.client", "json")
    )


@pytest.fixture
def target(folder: Path, reference: ReferenceValues) -> Iterator[Agent]:
    with agent(folder, reference) as made:
        yield made


ATTACKS = {
    "__code__ swapped": (
        "core.may_pass.__code__ = (lambda s, l=1, *, strict=True: True).__code__",
        "sentry.core.may_pass", "code-altered"),
    "function rebound to known code": (
        "core.may_pass = core.deny", "sentry.core.may_pass", "function-rebound"),
    "function rebound to new code": (
        "core.may_pass = lambda *a, **k: True", "sentry.core.may_pass", "code-altered"),
    "constant of a code object changed": (
        "c = core.may_pass.__code__\n"
        "core.may_pass.__code__ = c.replace(co_consts=tuple("
        "-1 if k == 5 else k for k in c.co_consts))",
        "sentry.core.may_pass", "code-altered"),
    "constant written in place": (
        "import ctypes\nk = core.may_pass.__code__.co_consts\n"
        "slot = id(k) + tuple.__basicsize__ + 8 * k.index(5)\n"
        "ctypes.c_size_t.from_address(slot).value = id(-1)\ncore.more = 1",
        "sentry.core.may_pass", "code-altered"),
    "default argument changed": (
        "core.may_pass.__defaults__ = (1,)", "sentry.core.may_pass", "binding-altered"),
    "keyword default changed": (
        "core.may_pass.__kwdefaults__ = {'strict': False}",
        "sentry.core.may_pass", "binding-altered"),
    "keyword default changed in place": (
        "core.may_pass.__kwdefaults__['strict'] = False",
        "sentry.core.may_pass", "binding-altered"),
    "method replaced": (
        "core.Guard.judge = lambda self, source: 'pass'", "sentry.core.Guard.judge",
        "code-altered"),
    "method deleted": (
        "del core.Guard.judge", "sentry.core.Guard.judge", "binding-missing"),
    "method added": (
        "core.Guard.__getattribute__ = lambda s, n: object.__getattribute__(s, n)",
        "sentry.core.Guard.__getattribute__", "code-altered"),
    "base class exchanged": (
        "Other = type('Base', (), {'judge': lambda self, s: 'pass', '__slots__': ()})\n"
        "core.Guard.__bases__ = (type('Other', (core.Base,), {}),)",
        "sentry.core.Guard", "binding-altered"),
    "property replaced": (
        "core.Guard.count = property(lambda self: 0)", "sentry.core.Guard.count.fget",
        "code-altered"),
    "static method replaced": (
        "core.Guard.name = staticmethod(core.deny)", "sentry.core.Guard.name.__func__",
        "function-rebound"),
    "closure's cell changed": (
        "core.step.__closure__[0].cell_contents = core.weight.__wrapped__",
        "sentry.core.step.<cell 0>", "function-rebound"),
    "wrapped function of a cache exchanged": (
        "import functools\ncore.weight = functools.lru_cache(lambda n: 0)",
        "sentry.core.weight.__wrapped__", "code-altered"),
    "partial exchanged": (
        "core.heavy = core.partial(core.weight, 8)", "sentry.core.heavy", "binding-altered"),
    "builtin wrapped": (
        "import builtins\nreal = builtins.len\nbuiltins.len = lambda x: real(x)",
        "builtins.len", "code-altered"),
    "builtin exchanged for another": (
        "import builtins\nbuiltins.hash = builtins.id", "builtins.hash", "binding-altered"),
    "builtin shadowed in a module": (
        "core.len = lambda x: 1", "sentry.core.len", "code-altered"),
    "builtins of a module exchanged": (
        "import builtins\ncore.__builtins__ = dict(vars(builtins))",
        "sentry.core.__builtins__", "binding-altered"),
    "module injected": (
        "import sys, types\nm = types.ModuleType('sentry.extra')\nsys.modules['sentry.extra'] = m",
        "sentry.extra", "module-unlisted"),
    "module under a genuine name": (
        "import sys, types\nm = types.ModuleType('wave')\nm.open = lambda f: 1\n"
        "sys.modules['wave'] = m", "wave.open", "code-altered"),
    "imported module exchanged": (
        "import types\ncore.functools = types.ModuleType('functools')",
        "sentry.core.functools", "binding-altered"),
    "standard library patched": (
        "import json\njson.loads = lambda s: {}", "json.loads", "code-altered"),
}  # fmt: skip


SAME_PLACE = {
    "function rebound to known code", "function rebound to new code", "default argument changed",
    "constant of a code object changed", "constant written in place",
    "keyword default changed in place", "method deleted",
}  # fmt: skip
"""Attacks on what another attack of the list changes, too."""


@at_night
def test_all_are_found_at_once(target: Agent) -> None:
    attacks = {name: attack for name, attack in ATTACKS.items() if name not in SAME_PLACE}
    assert target.verdict() == (TrustTier.AFFIRMING, set())
    for code, _, _ in attacks.values():
        target.exploit(code)
    tier, found = target.verdict()
    assert tier is TrustTier.CONTRAINDICATED
    for name, (_, where, kind) in attacks.items():
        assert (where, kind) in found, name


@at_night
def test_a_number_as_keyword_default_is_found_in_the_next_look_and_its_undoing_too(
    target: Agent,
) -> None:
    for _ in range(2):
        assert target.verdict() == (TrustTier.AFFIRMING, set())
        target.exploit("core.weigh.__kwdefaults__['factor'] = 70000")
        expected = {("sentry.core.weigh", "binding-altered")}
        assert target.verdict() == (TrustTier.CONTRAINDICATED, expected)
        target.exploit("core.weigh.__kwdefaults__['factor'] = 30000")


@at_night
def test_nothing_is_taken_from_a_look_during_which_all_changed(
    target: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, where, kind = ATTACKS["constant written in place"]
    assert target.verdict() == (TrustTier.AFFIRMING, set())
    with monkeypatch.context() as always:
        always.setattr(_Snapshot, "unchanged", lambda *_: False)
        assert "changed during" in " ".join(target.look().gaps)
    target.exploit(code)
    tier, found = target.verdict()
    assert tier is TrustTier.CONTRAINDICATED
    assert (where, kind) in found


@pytest.mark.processes
@pytest.mark.parametrize("attack", ATTACKS)
def test_each_is_found(target: Agent, attack: str) -> None:
    code, where, kind = ATTACKS[attack]
    assert target.verdict() == (TrustTier.AFFIRMING, set())
    target.exploit(code)
    tier, found = target.verdict()
    assert tier is TrustTier.CONTRAINDICATED
    assert (where, kind) in found
    assert target.verdict()[0] is TrustTier.CONTRAINDICATED


def test_an_honest_agent_is_affirmed_while_it_works(target: Agent) -> None:
    target.exploit("import gc, wave, fractions, http.client")  # imports that come late
    for _ in range(30):
        assert target.verdict() == (TrustTier.AFFIRMING, set())
    target.exploit("gc.collect()")
    target.exploit("core.LIMIT += 1")
    assert target.verdict() == (TrustTier.AFFIRMING, set())


def test_missed_data_of_a_python_agent(target: Agent) -> None:
    for code in (
        "core.ALLOWED.add('10.0.0.2')",  # a set that decides
        "core.LIMIT = 0",
        "core.handlers = [lambda s: True]",  # a function in a list
        "core.guard = core.Guard()",
        "core.guard.judge = lambda s: 'pass'",  # a method of one instance
    ):
        target.exploit(code)
    assert target.verdict() == (TrustTier.AFFIRMING, set())


def test_code_is_digested_alike_from_files_and_from_memory(reference: ReferenceValues) -> None:
    for function in (json.JSONDecoder.raw_decode, json.JSONEncoder.iterencode, json.loads):
        name = function.__qualname__
        listed = (reference.modules or {})[function.__module__].code[name]
        assert listed == (code_digest(function.__code__),)
