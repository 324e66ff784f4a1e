"""What one look at a live process saw, what it should have seen, and the appraisal of the two.

A ``ProcessMeasurement`` is the claims of an attester's evidence (RFC 9334, 8.1; RFC 9711, 4.2.16),
``ReferenceValues`` are those of RFC 9334, 8.3. Both are frozen and travel in messages and files.
``appraise`` is pure. It judges the three things that seed 000, III.A, names: that nothing was
altered before load, that nothing was altered in memory since, and that the agent really runs.

Whatever was not looked at, or could not be read, keeps a measurement from being affirming; so
does an error in the appraisal itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from math import isfinite
from typing import Self

import msgspec
from msgspec import Struct

from phalanx.domain.errors import PhalanxError
from phalanx.domain.trust import Deviation, TrustTier

STALL_S = 5.0
"""An agent's loop turns at least once in this time, however little there is to do, in seconds."""
STARVED = 0.8
"""Share of the time that the main thread may wait for a core, between two looks."""
SHORTEST_S = 1.0
"""Looks closer together than this say nothing of the share of a core, in seconds."""
DUBIOUS = frozenset(
    {
        "stopped", "stalled", "starved", "version-old", "object-deleted", "core-dumps-allowed",
    }
)  # fmt: skip
"""Deviations after which nothing is known to be altered: WARNING; after others CONTRAINDICATED."""
TOLD = frozenset({"call-unlearned"})
"""Deviations that are told and change no tier: calls that were sampled are never all there are."""
UNREADY = "unready"
"""Digest of a native class that was not used yet; it gets its members with its first use."""
MOST_MISSING = 3
"""Names that a module lacks which are told one by one."""
MOST_DEVIATIONS = 50
"""More of them say nothing new, and would fill the ledger."""


class MeasurementError(PhalanxError):
    """A process cannot be measured, or octets are no measurement; the text is one clear line."""


class _Travelling(Struct, frozen=True):
    """What travels as canonical JSON: the same contents, the same octets."""

    def encode(self) -> bytes:
        """Return it as octets."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def decode(cls, octets: bytes) -> Self:
        """Return what octets hold.

        Raises:
            MeasurementError: if that is something else.

        """
        try:
            return msgspec.json.decode(octets, type=cls)
        except (ValueError, RecursionError) as error:
            raise MeasurementError(f"no {cls.__name__}: {error}") from None


class MappedObject(Struct, frozen=True):
    """One file whose segments a process may execute."""

    text: str
    """SHA-256 of its executable segments in memory, hexadecimal; empty: a thin look."""
    written: int = 0
    """Pages of these segments that were written: private to the process (pagemap)."""
    constants: str = ""
    """SHA-256 of its read-only pages that are private: relocated (RELRO) or written. Depends on
    where the process was loaded: comparable within its life alone."""
    rewritten: bool = False
    """Whether ``constants`` differs from the measurer's first look at this process."""
    deleted: bool = False
    """The file it was loaded from is not there any more, as after an update."""


class PythonModule(Struct, frozen=True):
    """Digests of one module of a live CPython process."""

    code: str
    """Of all code that its names lead to, with the names."""
    bindings: str
    """Of what its names are bound to otherwise: defaults, closures, wrappers, bases, builtins."""


class PythonDetail(Struct, frozen=True):
    """What the digests of a ``PythonModule`` are made of, by dotted name below the module."""

    code: dict[str, str]
    bindings: dict[str, str]

    def digests(self) -> PythonModule:
        """Return the digests of the whole."""
        return PythonModule(_of_names(self.code), _of_names(self.bindings))


class Activity(Struct, frozen=True):
    """Whether a process really runs (seed 000, III.A: denial of service by resource attrition)."""

    state: str
    """Letter of proc(5): R, S, D, T (stopped), t (traced), Z …"""
    cpu_s: float
    """CPU time that all its threads have had since its start."""
    waiting_s: float
    """Time that its main thread was ready to run and had no core, since its start."""
    memory_mb: float
    """Resident, in megabytes (10^6 octets)."""
    load: float
    """Load of the machine over one minute, per core."""
    starved: float = 0.0
    """Share of the time since the measurer's last look that the main thread waited for a core."""
    progress: int | None = None
    """Counter of the agent's own loop; None: it has none that can be read."""
    still_s: float = 0.0
    """How long the measurer has seen that counter stand still, in seconds."""

    def told(self) -> dict[str, float | str]:
        """Return what the log tells of it."""
        return {
            "state": self.state,
            "cpu_s": round(self.cpu_s, 2),
            "memory_mb": round(self.memory_mb, 1),
            "load": round(self.load, 2),
            "starved": round(self.starved, 3),
            "still_s": round(self.still_s, 1),
        }


class CallSamples(Struct, frozen=True):
    """What samples of the stacks of a CPython process saw that is not in the reference values."""

    samples: int
    """That were believed, since the last look."""
    torn: int
    """That were thrown away, since the last look."""
    unlisted: dict[str, str] = {}
    """Code that is not listed, ever seen: name (file, qualified name, first line) by digest."""
    unlearned: list[tuple[str, str, str]] = []
    """Calls since the last look: digests of caller and of what it calls, and their names."""


class ProcessMeasurement(_Travelling, frozen=True):
    """What one look at a live process saw; nothing in it is a judgement."""

    software: str
    """Name of the package, as the process was started under."""
    version: str
    pid: int
    started: int
    """Clock ticks from the machine's start to that of the process: with ``pid``, one life."""
    at_s: float
    """When the look began: the measurer's monotonic clock, in seconds."""
    activity: Activity
    objects: dict[str, MappedObject]
    """By path."""
    unbacked: tuple[str, ...] = ()
    """Executable mappings that no file backs, the kernel's own (vdso) excepted."""
    environment: dict[str, str] = {}
    """Variables that change what is loaded, as the process was started with."""
    tracer: int = 0
    """PID that traces the process; 0: none."""
    dumpable: bool | None = None
    """Whether its own user may read its memory; None: cannot be told, as for root's processes."""
    core_limit: int = 0
    """Largest core file in octets; -1: no limit."""
    seccomp: int = 0
    """Mode of proc(5): 0 none, 1 strict, 2 filter."""
    no_new_privileges: bool = False
    modules: dict[str, PythonModule] | None = None
    """Of a CPython process; None: not one, not looked at or not readable (``gaps`` says)."""
    details: dict[str, PythonDetail] = {}
    """Of modules that changed since the measurer's first look, or were asked for by name."""
    thin: bool = False
    """Whether mappings and pages were looked at alone, and no contents."""
    calls: CallSamples | None = None
    """None: its stacks are not sampled."""
    gaps: tuple[str, ...] = ()
    """What could not be looked at, one line each: with any of them nothing is affirmed."""
    took_s: float = 0.0
    cpu_s: float = 0.0
    """CPU time that the measurer took for this look."""


class ModuleReference(Struct, frozen=True):
    """What may stand in one module."""

    seen: tuple[PythonModule, ...] = ()
    """Digests of the whole at trusted starts; empty: it was read from its file alone."""
    code: dict[str, tuple[str, ...]] = {}
    """By name: digests of code seen there."""
    bindings: dict[str, tuple[str, ...]] = {}
    optional: tuple[str, ...] = ()
    """Names in ``code`` and ``bindings`` that need not be there."""
    file_code: tuple[str, ...] = ()
    """Digests of all code in its file, for modules that no trusted start has imported."""


class ReferenceValues(_Travelling, frozen=True):
    """What a genuine process of one package and version looks like (RFC 9334, 8.3)."""

    software: str
    version: str
    minimum_version: str = ""
    """Older ones are out of date; empty: none is."""
    objects: dict[str, tuple[str, ...]] = {}
    """Objects that may be mapped, by path: allowed digests of their executable segments."""
    modules: dict[str, ModuleReference] | None = None
    """None: the program is not a Python one, and no module is expected."""
    unbacked: tuple[str, ...] = ()
    """Executable mappings without a file that genuine processes have, too."""
    environment: dict[str, str] = {}
    """Values that watched variables have; any other value, and none, is a deviation."""
    core_dumps: bool = False
    """Whether a genuine process may leave a core file, with its memory in it."""
    counts: bool = True
    """Whether a genuine process has a progress counter."""
    calls: dict[str, tuple[str, ...]] | None = None
    """By digest of code: what it calls; by "": what a thread begins with. None: not sampled."""
    codes: tuple[str, ...] = ()
    """Digests of code beside that of ``modules`` that may run, if calls are sampled."""
    stall_s: float = STALL_S

    def digest(self) -> str:
        """Return the SHA-256 of all of it, hexadecimal."""
        return sha256(self.encode()).hexdigest()


def appraise(
    measurement: ProcessMeasurement,
    reference: ReferenceValues,
    previous: ProcessMeasurement | None = None,
) -> tuple[TrustTier, tuple[Deviation, ...]]:
    """Judge what was seen (RFC 9334, 8.4). Pure.

    Args:
        measurement: what was seen.
        reference: what should have been seen; of the same package and version.
        previous: an earlier look at the same agent, if one is known.

    Returns:
        CONTRAINDICATED if anything was altered; WARNING if nothing was, but it does not run as it
        should; NONE if something could not be looked at, as in every thin look without a finding;
        AFFIRMING only if all was looked at and is as it should be, ``TOLD`` apart. And what
        differs, the worst first.

    """
    try:
        found = tuple(_deviations(measurement, reference, previous))
        missing = _missing(measurement, reference)
    except Exception as error:  # whatever the evidence does to us, it is not trusted
        what = f"could not be appraised: {type(error).__name__}"
        return TrustTier.NONE, (Deviation("appraisal-failed", measurement.software, what),)
    ordered = sorted(set(found), key=lambda d: (d.kind in TOLD, d.kind in DUBIOUS, d))
    ordered = ordered[:MOST_DEVIATIONS]
    kinds = {deviation.kind for deviation in ordered} - TOLD
    if kinds - DUBIOUS:
        tier = TrustTier.CONTRAINDICATED
    elif kinds:
        tier = TrustTier.WARNING
    else:
        tier = TrustTier.NONE if missing else TrustTier.AFFIRMING
    return tier, tuple(ordered)


def version_key(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, to compare by: 0.10.1 is newer than 0.9."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def short(octets: bytes) -> str:
    """Return the first 128 bits of the SHA-256, hexadecimal: names one of very many parts."""
    return sha256(octets).hexdigest()[:32]


def _of_names(digests: Mapping[str, str]) -> str:
    return short("\n".join(f"{name} {digests[name]}" for name in sorted(digests)).encode())


def _missing(measurement: ProcessMeasurement, reference: ReferenceValues) -> bool:
    """Whether something that belongs to a whole look was not seen."""
    now = measurement.activity
    return bool(
        measurement.thin
        or not all(map(isfinite, (measurement.at_s, now.cpu_s, now.waiting_s, now.starved)))
        or not isfinite(now.still_s)
        or measurement.gaps
        or not measurement.objects
        or not all(thing.text for thing in measurement.objects.values())
        or (reference.modules is not None and not measurement.modules)
        or (reference.counts and measurement.activity.progress is None)
        or (reference.calls is not None and not (measurement.calls and measurement.calls.samples))
    )


def _deviations(
    seen: ProcessMeasurement, reference: ReferenceValues, previous: ProcessMeasurement | None
) -> Iterator[Deviation]:
    if (seen.software, seen.version) != (reference.software, reference.version):
        expected = f"{reference.software} {reference.version}"
        yield Deviation(
            "other-software", seen.software, f"{seen.software} {seen.version}, not {expected}"
        )
    if version_key(seen.version) < version_key(reference.minimum_version):
        least = reference.minimum_version
        yield Deviation("version-old", seen.software, f"{seen.version}; at least {least} is due")
    yield from _surroundings(seen, reference)
    yield from _running(seen, reference, previous)
    yield from _objects(seen, reference, previous)
    for name in sorted(seen.modules or {}):
        yield from _module(name, seen, reference)
    if seen.calls is not None and reference.calls is not None:
        for digest, name in sorted(seen.calls.unlisted.items()):
            yield Deviation("code-unlisted", name, f"{digest[:12]} is run and not listed")
        for caller, callee, name in seen.calls.unlearned:
            if callee not in reference.calls.get(caller, ()):
                yield Deviation("call-unlearned", name, "is a call that was never learned")


def _surroundings(seen: ProcessMeasurement, reference: ReferenceValues) -> Iterator[Deviation]:
    for name in sorted({*seen.environment, *reference.environment}):
        there, expected = seen.environment.get(name), reference.environment.get(name)
        if there != expected:
            what = "is set" if expected is None else "is unset" if there is None else "is another"
            due = "unset" if expected is None else "as in the reference values"
            yield Deviation("environment", name, f"{what} when the process starts; expected {due}")
    if seen.tracer:
        yield Deviation("traced", seen.software, f"by process {seen.tracer}")
    if not reference.core_dumps and seen.core_limit and seen.dumpable is not False:
        limit = "any size" if seen.core_limit < 0 else f"{seen.core_limit} octets"
        yield Deviation("core-dumps-allowed", seen.software, f"a core file of {limit} may be left")


def _running(
    seen: ProcessMeasurement, reference: ReferenceValues, previous: ProcessMeasurement | None
) -> Iterator[Deviation]:
    now, software = seen.activity, seen.software
    if now.state in ("T", "t", "Z", "X"):
        yield Deviation("stopped", software, f"state {now.state}")
    still_s, starved = now.still_s, now.starved
    if previous is not None and (previous.pid, previous.started) == (seen.pid, seen.started):
        passed, former = seen.at_s - previous.at_s, previous.activity
        if now.progress == former.progress is not None:
            still_s = max(still_s, passed)
        if now.cpu_s < former.cpu_s or (now.progress or 0) < (former.progress or 0):
            yield Deviation("activity-forged", software, "its counters went back")
        if passed >= SHORTEST_S:
            starved = max(starved, (now.waiting_s - former.waiting_s) / passed)
    if reference.counts and now.progress is not None and still_s >= reference.stall_s:
        yield Deviation("stalled", software, f"its loop has not turned for {still_s:.1f} s")
    if starved > STARVED:
        yield Deviation("starved", software, f"waited for a core {starved:.0%} of the time")


def _objects(
    seen: ProcessMeasurement, reference: ReferenceValues, previous: ProcessMeasurement | None
) -> Iterator[Deviation]:
    same = previous is not None and (previous.pid, previous.started) == (seen.pid, seen.started)
    former = previous.objects if same and previous is not None else {}
    for path, thing in sorted(seen.objects.items()):
        allowed = reference.objects.get(path)
        if allowed is None:
            yield Deviation("object-unlisted", path, "is mapped executable and not listed")
            continue
        if thing.text and thing.text not in allowed:
            yield Deviation("text-altered", path, _expected(thing.text, allowed))
        if thing.written:
            yield Deviation("page-written", path, f"{thing.written} executable pages were written")
        then = former[path].constants if path in former else ""
        if thing.rewritten or (then and thing.constants and then != thing.constants):
            yield Deviation("constants-written", path, "its read-only pages changed since start")
        if thing.deleted:
            yield Deviation("object-deleted", path, "its file was replaced; it needs a restart")
    for mapping in seen.unbacked:
        if mapping not in reference.unbacked:
            yield Deviation("object-unbacked", mapping, "is executable and no file backs it")


def _module(name: str, seen: ProcessMeasurement, reference: ReferenceValues) -> Iterator[Deviation]:
    assert seen.modules is not None
    module, known = seen.modules[name], (reference.modules or {}).get(name)
    if known is None:
        yield Deviation("module-unlisted", name, "is imported and not listed")
        return
    if module in known.seen:
        return
    detail = seen.details.get(name)
    if detail is None or detail.digests() != module:
        yield Deviation("module-altered", name, "its digest is none of the listed ones")
        return
    for path, digest in sorted(detail.code.items()):
        if digest in known.code.get(path, known.file_code):
            continue
        genuine = _is_known(digest, reference.modules or {})
        if genuine and not known.seen:  # imported from a module that is known
            continue
        kind = "function-rebound" if genuine else "code-altered"
        yield Deviation(kind, f"{name}.{path}", _expected(digest, known.code.get(path, ())))
    if not known.seen:  # its file says what code it has, not what its names are bound to
        return
    for path, digest in sorted(detail.bindings.items()):
        allowed = known.bindings.get(path)
        if allowed is None:
            yield Deviation("binding-unlisted", f"{name}.{path}", "is bound and not listed")
        elif digest not in allowed and digest != UNREADY:
            yield Deviation("binding-altered", f"{name}.{path}", _expected(digest, allowed))
    optional = set(known.optional)
    lazy = "__getattr__" in known.code  # its names are bound when they are first asked for
    there = {*detail.code, *detail.bindings}
    roots = {path.partition(".")[0] for path in there}
    listed = {*known.code, *known.bindings}
    missing = listed - there - optional
    if lazy:  # what no other module has is not asked for elsewhere, but bound by its own import
        others = [m for n, m in (reference.modules or {}).items() if n != name]
        code = (d for m in others for d in (*m.code.values(), m.file_code))
        elsewhere = {digest for digests in code for digest in digests}
        own = {path for path, digests in known.code.items() if elsewhere.isdisjoint(digests)}
        missing = {p for p in missing if p in own or p.partition(".")[0] in roots}
    for path in sorted(missing)[:MOST_MISSING]:
        what = f"is listed and not bound, as are {len(missing) - 1} other names of the module"
        yield Deviation("binding-missing", f"{name}.{path}", what)


def _is_known(digest: str, modules: Mapping[str, ModuleReference]) -> bool:
    """Whether some listed module has this code: then it is genuine, and only the place is not."""
    return any(
        digest in module.file_code or any(digest in known for known in module.code.values())
        for module in modules.values()
    )


def _expected(found: str, allowed: Iterable[str]) -> str:
    listed = " or ".join(digest[:12] for digest in allowed) or "nothing"
    return f"{found[:12]}; expected {listed}"
