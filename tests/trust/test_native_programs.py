"""Attacks on a live native program, made by another process, and what finds them."""

import ctypes
import faulthandler
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace
from trust_lab import NEEDS_C, PROGRAM, Agent, compiled, kinds, running, started, until

from phalanx.domain.trust import TrustTier
from phalanx.trust.elf import text_digest
from phalanx.trust.measurement import MeasurementError, ReferenceValues, appraise
from phalanx.trust.measurer import ProcessMeasurer
from phalanx.trust.processes import (
    PROGRESS,
    Mapping,
    ProcessFiles,
    ProgressCounter,
    harden_process,
)
from phalanx.trust.references import reference_of_program

pytestmark = NEEDS_C
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become two other users")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    compiled(folder, "extra.so", "int extra(void) { return 1; }", "-shared", "-fPIC")
    return compiled(folder, "guard", PROGRAM, "-Wl,-z,relro,-z,now")


@pytest.fixture(scope="module")
def reference(program: Path) -> ReferenceValues:
    return replace(reference_of_program(program, "guard", "1.0"), core_dumps=True, stall_s=0.2)


@pytest.fixture
def target(program: Path, reference: ReferenceValues) -> Iterator[Agent]:
    with running(started([str(program)])) as process:
        made = Agent(process, reference)
        with made.measurer:
            assert made.verdict() == (TrustTier.AFFIRMING, set())
            yield made


def part(target: Agent, permissions: str, end: bool = False) -> Mapping:
    """Return the first mapping of the program with these permissions, or the last."""
    maps = ProcessFiles(target.process.pid).mappings()
    found = [m for m in maps if m.path.endswith("/guard") and m.permissions == permissions]
    return found[-1 if end else 0]


def write(target: Agent, address: int, octets: bytes) -> bytes:
    """Write into the memory of the target, as a debugger does; return what was there."""
    number = os.open(f"/proc/{target.process.pid}/mem", os.O_RDWR)
    try:
        before = os.pread(number, len(octets), address)
        try:
            os.pwrite(number, octets, address)
        except OSError:
            pytest.skip("this kernel lets nobody write into read-only memory")
        return before
    finally:
        os.close(number)


def found(target: Agent, *, thin: bool = False) -> tuple[TrustTier, set[str]]:
    tier, deviations = appraise(target.look(thin=thin), target.reference)
    return tier, kinds(deviations)


def test_a_byte_patched_in_live_text(target: Agent) -> None:
    write(target, part(target, "r-xp").end - 1, b"\x90")
    expected = {"text-altered", "page-written"}
    assert found(target) == (TrustTier.CONTRAINDICATED, expected)
    assert found(target, thin=True) == (TrustTier.CONTRAINDICATED, {"page-written"})


def test_a_patch_that_was_put_back(target: Agent) -> None:
    place = part(target, "r-xp").end - 1
    write(target, place, write(target, place, b"\x90"))
    assert found(target) == (TrustTier.CONTRAINDICATED, {"page-written"})


def test_missed_a_patch_that_was_put_back_and_forgotten_between_two_looks(target: Agent) -> None:
    place = part(target, "r-xp").end - 1
    write(target, place, write(target, place, b"\x90"))
    target.exploit("forget")
    assert found(target) == (TrustTier.AFFIRMING, set())


def test_missed_an_attack_on_data(target: Agent) -> None:
    target.exploit("data")
    assert found(target) == (TrustTier.AFFIRMING, set())


def test_a_pointer_among_the_relocated_constants(target: Agent) -> None:
    write(target, part(target, "r--p", end=True).start + 8, bytes(8))
    assert found(target) == (TrustTier.CONTRAINDICATED, {"constants-written"})


def test_read_only_data(target: Agent) -> None:
    write(target, part(target, "r--p").start + 4000, b"\x01")
    assert found(target) == (TrustTier.CONTRAINDICATED, {"constants-written"})


def test_a_preloaded_library(program: Path, reference: ReferenceValues) -> None:
    environment = {"LD_PRELOAD": str(program.parent / "extra.so")}
    with running(started([str(program)], environment)) as process:
        target = Agent(process, reference)
        assert found(target)[1] == {"environment", "object-unlisted"}


@pytest.mark.parametrize(
    ("order", "kind"),
    [("load ./extra.so", "object-unlisted"), ("execute", "object-unbacked"),
     ("memfd", "object-unbacked")],
)  # fmt: skip
def test_code_that_nobody_listed(program: Path, target: Agent, order: str, kind: str) -> None:
    target.exploit(order.replace(".", str(program.parent), 1))
    assert found(target) == (TrustTier.CONTRAINDICATED, {kind})
    assert found(target, thin=True) == (TrustTier.CONTRAINDICATED, {kind})


def test_a_library_that_is_linked_by_its_path_is_listed(program: Path, tmp_path: Path) -> None:
    needs = program.parent / "extra.so"
    options = "-Wl,--no-as-needed", str(needs)
    made = compiled(tmp_path, "linked", "int main(void) { return 0; }", *options)
    reference = reference_of_program(made, "linked", "1.0")
    assert reference.objects[str(needs)] == (text_digest(str(needs)),)


TRACER = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
print("ready" if libc.ptrace(0x4206, int(sys.argv[1]), 0, 0) == 0 else "no", flush=True)
sys.stdin.read()
"""


def test_a_tracer(target: Agent) -> None:
    command = [sys.executable, "-c", TRACER, str(target.process.pid)]
    with running(started(command)):
        assert found(target) == (TrustTier.CONTRAINDICATED, {"traced"})
    assert found(target) == (TrustTier.AFFIRMING, set())


def test_a_file_altered_before_load(
    program: Path, reference: ReferenceValues, tmp_path: Path
) -> None:
    copy = Path(shutil.copy(program, tmp_path / "guard"))
    moved = replace(
        reference, objects={**reference.objects, str(copy): reference.objects[str(program)]}
    )
    octets = bytearray(copy.read_bytes())
    assert (text_digest(str(copy)),) == moved.objects[str(copy)]
    place = octets.find(b"\x83\xff\x01")  # cmp edi, 1: what judge() compares with
    assert place > 0
    octets[place + 2] = 2
    copy.write_bytes(octets)
    with running(started([str(copy)])) as process:
        assert found(Agent(process, moved)) == (TrustTier.CONTRAINDICATED, {"text-altered"})


def test_a_file_that_was_replaced_needs_a_restart(
    program: Path, reference: ReferenceValues, tmp_path: Path
) -> None:
    copy = Path(shutil.copy(program, tmp_path / "guard"))
    moved = replace(
        reference, objects={**reference.objects, str(copy): reference.objects[str(program)]}
    )
    with running(started([str(copy)])) as process:
        target = Agent(process, moved)
        assert found(target) == (TrustTier.AFFIRMING, set())
        copy.unlink()
        assert found(target) == (TrustTier.WARNING, {"object-deleted"})


def test_a_stopped_program(target: Agent) -> None:
    target.process.send_signal(signal.SIGSTOP)
    until(lambda: found(target) == (TrustTier.WARNING, {"stopped"}))
    target.process.send_signal(signal.SIGCONT)
    until(lambda: found(target) == (TrustTier.AFFIRMING, set()))


def test_a_loop_that_does_not_turn(target: Agent) -> None:
    target.exploit("hang")
    target.look()
    time.sleep(0.25)
    assert found(target) == (TrustTier.WARNING, {"stalled"})


@pytest.mark.processes
def test_a_program_that_gets_no_core(target: Agent) -> None:
    core = {min(os.sched_getaffinity(0))}
    hogs = []
    try:
        for _ in range(3):
            hogs.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            os.sched_setaffinity(hogs[-1].pid, core)
        os.sched_setaffinity(target.process.pid, core)
        os.setpriority(os.PRIO_PROCESS, target.process.pid, 19)
        assert target.process.stdin
        target.process.stdin.write("spin\n")
        target.process.stdin.flush()
        until(lambda: "starved" in found(target)[1])
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_a_process_that_has_ended(target: Agent) -> None:
    target.process.kill()
    target.process.wait()
    with pytest.raises(MeasurementError, match="ended"):
        target.look()
    with pytest.raises(MeasurementError, match="No such"):
        ProcessMeasurer(target.process.pid, "guard", "1.0")


def test_core_dumps_are_warned_of(target: Agent) -> None:
    seen = replace(target.look(), core_limit=-1, dumpable=None)
    tier, deviations = appraise(seen, replace(target.reference, core_dumps=False))
    assert (tier, kinds(deviations)) == (TrustTier.WARNING, {"core-dumps-allowed"})


def forked(work: Callable[[], int]) -> int:
    """Return the exit code of work that a child does; it ends without the parent's tidying."""
    child = os.fork()
    if child == 0:
        code = 99
        with suppress(BaseException):
            code = work()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    assert not os.WCOREDUMP(status)
    return os.waitstatus_to_exitcode(status)


def test_a_core_dump_asked_for_is_not_made() -> None:
    def crash() -> int:
        faulthandler.disable()
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))
        assert harden_process() == ()
        os.abort()

    assert forked(crash) == -signal.SIGABRT


@ROOT
@pytest.mark.parametrize("hardened", [False, True])
def test_memory_is_kept_from_processes_of_the_same_user(hardened: bool) -> None:
    secret = bytearray(b"a key that nobody else may read")
    where = ctypes.addressof(ctypes.c_char.from_buffer(secret))
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        if hardened:
            harden_process()
        else:
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
        os.write(told, b"x")
        time.sleep(60)
        os._exit(0)
    try:
        os.read(ready, 1)

        def read() -> int:
            os.setgid(65534)
            os.setuid(65534)
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
            try:
                return int(ProcessFiles(child).read("mem", where, len(secret)) == secret)
            except MeasurementError:
                return 2

        assert forked(read) == (2 if hardened else 1)
        assert ProcessFiles(child).read("mem", where, len(secret)) == secret  # root may

        def measure() -> int:
            os.setgid(65534)
            os.setuid(65534)
            seen = ProcessMeasurer(child, "x", "1").look(thin=True)
            tier, _ = appraise(seen, ReferenceValues("x", "1"))
            return 1 if seen.gaps and tier is not TrustTier.AFFIRMING else 0

        assert forked(measure) == (1 if hardened else 0)
        assert ProcessMeasurer(child, "x", "1").look(thin=True).dumpable is not hardened
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_the_counter_of_a_loop_is_found() -> None:
    counter = ProgressCounter()
    counter.turn()
    with ProcessMeasurer(os.getpid(), "x", "1") as measurer:
        assert measurer.look(thin=True).activity.progress == 1


def test_the_counter_of_a_loop_never_seems_to_go_back() -> None:
    """Written octet by octet it did, seldom: who looked just then called a genuine agent forged."""
    count = "from phalanx.trust.processes import ProgressCounter\nc = ProgressCounter()\n"
    loop = f"{count}print(flush=True)\nwhile True:\n    c.turn()\n"
    other = subprocess.Popen([sys.executable, "-c", loop], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        other.stdout.readline()
        files = ProcessFiles(other.pid)
        (start,) = [mapping.start for mapping in files.mappings() if PROGRESS in mapping.path]
        seen = [int.from_bytes(files.read("mem", start, 8), "little") for _ in range(100_000)]
        files.close()
    finally:
        other.kill()
        other.communicate()
    assert seen == sorted(seen)
    assert seen[0] < seen[-1]
