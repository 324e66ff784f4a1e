"""Code that libraries make of hashes of text, as attrs does: alike in all processes of one seed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace
from trust_lab import running, started

from phalanx.domain.trust import TrustTier
from phalanx.trust.hardening import check, harden, start
from phalanx.trust.measurement import appraise
from phalanx.trust.measurer import ProcessMeasurer
from phalanx.trust.processes import HASH_SEED, safe_environment
from phalanx.trust.references import reference_of

pytestmark = pytest.mark.processes

MAKER = """
class Rule:
    pass

space = {}
exec(f"def __hash__(self): return hash(({hash('sentry.Rule')}, id(self)))", space)
Rule.__hash__ = space["__hash__"]
"""
MAIN = """
import sys
from phalanx.trust.processes import ProgressCounter
from maker import rules
counter = ProgressCounter()
counter.turn()
print("ready", flush=True)
sys.stdin.read()
"""


def write_maker(folder: Path) -> Path:
    (folder / "maker").mkdir(parents=True)
    for name, text in (("__init__", ""), ("rules", MAKER), ("__main__", MAIN)):
        (folder / "maker" / f"{name}.py").write_text(text)
    return folder


def verdict(pid: int, reference: object) -> tuple[TrustTier, set[tuple[str, str]]]:
    with ProcessMeasurer(pid, "maker", "1.0") as measurer:
        seen = measurer.look(reference=reference)  # type: ignore[arg-type]
    calm = replace(seen, activity=replace(seen.activity, starved=0.0, still_s=0.0))
    tier, found = appraise(calm, reference)  # type: ignore[arg-type]
    return tier, {(each.where, each.kind) for each in found}


def test_processes_of_one_seed_are_affirmed_and_others_told_apart(tmp_path: Path) -> None:
    folder = write_maker(tmp_path)
    reference = reference_of("maker", "1.0", path=folder, late=("runpy",), hash_seed="77")
    assert reference.environment == {HASH_SEED: "77"}
    code = "import sys, runpy; sys.path.insert(0, sys.argv[1]); runpy.run_module('maker.__main__')"
    command = [sys.executable, "-B", "-c", code, str(folder)]
    affirmed, altered = TrustTier.AFFIRMING, TrustTier.CONTRAINDICATED
    for seed, expected in (("77", affirmed), ("77", affirmed), ("78", altered), ("", altered)):
        with running(started(command, safe_environment(seed))) as process:
            tier, found = verdict(process.pid, reference)
        assert tier is expected, (seed, found)
        assert ((HASH_SEED, "environment") in found) is (tier is altered)


def test_a_hardened_package_starts_with_the_seed_of_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HASH_SEED, "5")  # of who starts it: no agent's
    key = Ed25519PrivateKey.generate()
    source = write_maker(tmp_path / "source") / "maker"
    variants = [tmp_path / "one", tmp_path / "two"]
    references = [harden(source, v, key, software="maker", version="1.0")[0] for v in variants]
    seeds = [check(variant, key.public_key()).hash_seed for variant in variants]
    assert seeds[0] == seeds[1]  # one for all that one key hardens of a software
    assert seeds[0] not in ("", "0", "5")
    for _ in range(2):
        ready, ended = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(ready[1], 1)
            os.dup2(ended[0], 0)
            os.close(ended[1])
            try:
                start(variants[0], key.public_key())
            finally:
                os._exit(1)
        try:
            os.close(ready[1])
            with os.fdopen(ready[0]) as said:
                assert said.readline() == "ready\n"
            tier, found = verdict(child, references[0])
            assert tier is TrustTier.AFFIRMING, found
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            for number in ended:
                os.close(number)
