"""The measurer of a live process: a look from outside, in full or at its mappings alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TypeVar

from msgspec.structs import replace

from phalanx.trust import processes
from phalanx.trust.measurement import (
    SHORTEST_S,
    Activity,
    CallSamples,
    MappedObject,
    MeasurementError,
    ProcessMeasurement,
    PythonDetail,
    PythonModule,
    ReferenceValues,
)
from phalanx.trust.python_objects import PythonObjects
from phalanx.trust.python_stacks import CallSampler

LEAST_SAMPLES, MOST_TRIES = 3, 60
"""Samples of the stacks that are believed in each look that takes any, and tries for them."""
T = TypeVar("T")
Maps = tuple[processes.Mapping, ...]
Parts = tuple[dict[str, PythonModule] | None, dict[str, PythonDetail]]


class ProcessMeasurer:
    """Measures one process, and remembers what can only be judged by comparing looks.

    It runs outside the measured process, better with more rights than that has: as root, or as the
    same user as long as the process is dumpable. Close it, or use it in a ``with`` statement.
    """

    def __init__(self, pid: int, software: str, version: str) -> None:
        """Begin to measure.

        Args:
            pid: of the process.
            software: name of its package, as it was started under.
            version: of the package.

        Raises:
            MeasurementError: if there is no such process.

        """
        self._files = processes.ProcessFiles(pid)
        self._software, self._version = software, version
        self._started = processes.started(self._files)
        self._texts: dict[object, str] = {}
        self._constants: dict[str, tuple[int, str]] = {}
        """By object: octets mapped read-only, and digest of the private pages among these."""
        self._turned: tuple[int | None, float] = (None, 0.0)
        """The counter of the loop, and when it was first seen so."""
        self._waited: tuple[float, float] | None = None
        """When the share of a core was looked at last, and the waiting until then."""
        self._starved = 0.0
        self._python: PythonObjects | None = None
        self._sampler: CallSampler | None = None
        self._calls_of: ReferenceValues | None = None
        """Reference values with the calls that may be seen, of the last look."""

    def __enter__(self) -> ProcessMeasurer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files of the process."""
        self._files.close()

    def look(
        self,
        *,
        thin: bool = False,
        details: Collection[str] = (),
        reference: ReferenceValues | None = None,
    ) -> ProcessMeasurement:
        """Measure the process once; it runs on meanwhile.

        Args:
            thin: look at mappings, pages and activity alone, for a tenth of the cost.
            details: modules whose parts are wanted by name.
            reference: modules that are not as listed there are given with their parts, too; None:
                those alone that changed since the first look.

        Raises:
            MeasurementError: if the process has ended. What cannot be read of a living one is
                named in ``gaps``.

        """
        at_s, cpu_s, files = time.monotonic(), time.thread_time(), self._files
        gaps: list[str] = []

        def tried(read: Callable[[], T], otherwise: T) -> T:
            try:
                return read()
            except MeasurementError as error:
                gaps.append(str(error))
                return otherwise

        status = files.status()
        no_maps: Maps = ()
        no_objects: dict[str, MappedObject] = {}
        python: Parts = (None, {})
        maps = tried(files.mappings, no_maps)
        now = self._compared(processes.activity(files, maps), at_s)  # the rest takes its time
        objects = tried(lambda: self._objects(maps, thin=thin), no_objects)
        calls: CallSamples | None = None
        if reference is not None and reference.calls is not None:
            self._calls_of = reference
            calls = tried(self._calls, calls)
        if not thin and any("x" in m.permissions and _named_python(m.path) for m in maps):
            python = tried(lambda: self._python_parts(maps, details, reference), python)
        return ProcessMeasurement(
            software=self._software,
            version=self._version,
            pid=files.pid,
            started=self._started,
            at_s=at_s,
            activity=now,
            objects=objects,
            unbacked=processes.unbacked(maps),
            environment=tried(files.environment, {}),
            tracer=int(status.get("TracerPid", "0")),
            dumpable=self._dumpable(status),
            core_limit=tried(files.core_limit, -1),
            seccomp=int(status.get("Seccomp", "0")),
            no_new_privileges=status.get("NoNewPrivs") == "1",
            modules=python[0],
            details=python[1],
            thin=thin,
            calls=calls,
            gaps=tuple(gaps),
            took_s=time.monotonic() - at_s,
            cpu_s=time.thread_time() - cpu_s,
        )

    def details(self) -> dict[str, PythonDetail]:
        """Return the parts of all Python modules, as of the last full look."""
        return self._python.details if self._python is not None else {}

    def sampler(self) -> CallSampler:
        """Return what samples the stacks of the process.

        Raises:
            MeasurementError: if it is no CPython process, or one whose frames are not understood.

        """
        if self._sampler is None:
            self._sampler = CallSampler(self._files, self._files.mappings())
        return self._sampler

    def sample(self) -> None:
        """Sample the calls of the process, if the last look had reference values with calls."""
        if self._calls_of is not None:
            self.sampler().compare(self._calls_of)

    def _calls(self) -> CallSamples:
        for _ in range(MOST_TRIES):  # so that every look says whether they can be read
            self.sample()
            if self.sampler().believed >= LEAST_SAMPLES:
                break
        return self.sampler().taken()

    def _objects(self, maps: Maps, *, thin: bool) -> dict[str, MappedObject]:
        found: dict[str, MappedObject] = {}
        looked = processes.mapped_objects(self._files, maps, self._texts, contents=not thin)
        for path, thing, readable in looked:
            if not thin:
                before, constants = self._constants.get(path, (-1, ""))
                if readable > before:  # an object that is being loaded: its RELRO comes last
                    self._constants[path] = readable, thing.constants
                elif constants != thing.constants:
                    thing = replace(thing, rewritten=True)  # noqa: PLW2901
            twice = found.get(path)
            if twice is not None:  # the file was replaced, and both are mapped
                thing = replace(thing, text="", deleted=True)  # noqa: PLW2901
            found[path] = thing
        return found

    def _python_parts(
        self, maps: Maps, details: Collection[str], reference: ReferenceValues | None
    ) -> Parts:
        if self._python is None:
            self._python = PythonObjects(self._files, maps)
        return self._python.look(details, reference)

    def _compared(self, now: Activity, at_s: float) -> Activity:
        if now.progress != self._turned[0] or now.progress is None:
            self._turned = now.progress, at_s
        if self._waited is None:
            self._waited = at_s, now.waiting_s
        elif at_s - self._waited[0] >= SHORTEST_S:
            passed, waited = at_s - self._waited[0], now.waiting_s - self._waited[1]
            self._starved, self._waited = max(0.0, waited / passed), (at_s, now.waiting_s)
        return replace(now, starved=self._starved, still_s=at_s - self._turned[1])

    def _dumpable(self, status: dict[str, str]) -> bool | None:
        user = int(status["Uid"].split()[1])
        return None if user == 0 else self._files.owner() == user


def _named_python(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.startswith(("libpython3", "python3"))
