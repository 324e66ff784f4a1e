"""Which function calls which in a live CPython process, sampled from outside through its memory.

A sample reads the stacks of all threads twice, at once one after the other. What both readings
show alike from the outermost frame on was there; the rest was changing and is thrown away. Code is
named by the digest that the walk of ``python_objects`` gives it, so what runs and is bound nowhere
stands out. A call that takes less time than the two readings is mostly missed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import sys
import threading
import traceback
from collections.abc import Sequence
from itertools import pairwise
from os.path import commonprefix
from random import SystemRandom

from phalanx.trust.elf import PAGE
from phalanx.trust.measurement import CallSamples, MeasurementError, ReferenceValues
from phalanx.trust.processes import Mapping, ProcessFiles
from phalanx.trust.python_layout import WORD, layout, runtime_address, runtime_of
from phalanx.trust.python_objects import UNREADABLE, CodeReader

ANEW = 0.02
"""Share of samples that read all code again that they find."""
MOST_NAMED = 50
"""More of them say nothing new, and would fill the evidence."""
ATTEMPTS = 3
"""Readings of a process that keeps changing under them, before a sample is thrown away."""
CONFIRMED = 6
"""Readings more that show the same before another outermost frame of a thread is believed."""
_MOST_WORDS = 1 << 16
_FRAMES = {(3, 11): ((56, 8), 32, 48), (3, 12): ((56, 0), 0, 8), (3, 13): ((72,), 0, 8)}
"""By version: from a thread's state to its current frame; code and caller in a frame."""
_ONE = struct.Struct("<Q")
_RANDOM = SystemRandom()
Call = tuple[str, str]
"""Digests of the code that calls and of that which is called; a thread begins with ""."""
Stack = list[tuple[int, int]]
"""Addresses of frame and code, the outermost first."""


class StackReader:
    """Reads the stacks of one process, as they are between two moments close to each other."""

    def __init__(self, files: ProcessFiles, runtime: int) -> None:
        """Read of a process.

        Args:
            files: of the process.
            runtime: where ``_PyRuntime`` is in it.

        """
        self._files, self._main = files, runtime + layout().interpreter + WORD
        self._current, self._code, self._previous = _FRAMES[sys.version_info[:2]]
        self._pages: dict[int, bytes] = {}
        self._whole, self._left = False, 0
        self._roots: dict[int, tuple[int, int]] = {}
        """By thread: its outermost frame and its code."""

    def stacks(self) -> list[Sequence[tuple[int, int]]]:
        """Return the stack of each thread, without the innermost frames that were changing.

        Raises:
            MeasurementError: if what was read is no chain of frames.

        """
        self._walk({})
        numbers = tuple(self._pages)  # known now, and so read at once, twice
        once, again = [{n: self._page(n) for n in numbers} for _ in range(2)]
        before, after = self._walk(once), self._walk(again)
        # Of lists, not of paths.
        found = {t: commonprefix([s, after.get(t, [])]) for t, s in before.items()}  # noqa: RUF071
        roots = {thread: stack[0] for thread, stack in found.items() if stack}
        for thread in [t for t, root in roots.items() if self._roots.get(t) != root]:
            # A frame that is just being left has no caller, either, for a moment.
            others = (self._walk({}).get(thread) for _ in range(CONFIRMED))
            if not all(other and other[0] == roots[thread] for other in others):
                del roots[thread]
        self._roots = roots
        return [found[thread] for thread in roots]

    def _walk(self, pages: dict[int, bytes]) -> dict[int, Stack]:
        """Follow the chains of frames in pages; if none are given, in those that are needed."""
        self._pages, self._whole, self._left = pages, bool(pages), _MOST_WORDS
        found = dict[int, Stack]()
        thread = self._word(self._word(self._main) + layout().threads)
        while thread:
            frame, stack = thread, Stack()
            for offset in self._current:
                frame = self._word(frame + offset)
            while frame:
                stack.append((frame, self._word(frame + self._code)))
                frame = self._word(frame + self._previous)
            found[thread] = stack[::-1]
            thread = self._word(thread + WORD)
        return found

    def _word(self, address: int) -> int:
        number, begin = divmod(address, PAGE)
        if number not in self._pages and not self._whole:
            self._pages[number] = self._page(number)
        self._left -= 1
        if begin % WORD or not self._left:
            raise MeasurementError("what was read is no stack")
        return int(_ONE.unpack_from(self._pages[number], begin)[0])

    def _page(self, number: int) -> bytes:
        return self._files.read("mem", number * PAGE, PAGE)


class CallSampler:
    """Samples the calls of one live process."""

    def __init__(self, files: ProcessFiles, maps: tuple[Mapping, ...]) -> None:
        """Find the interpreter of a process.

        Args:
            files: of the process.
            maps: its mappings.

        Raises:
            MeasurementError: if it is another build of CPython than ours, or one of which it is
                not known how it lays out frames.

        """
        check_frames()
        runtime = runtime_of(maps)
        self._reader = StackReader(files, runtime)
        self._none = runtime + min(d for d, v in layout().singletons.items() if v == "None")
        self._codes = CodeReader(files, runtime)
        self._digests: dict[int, str] = {}
        self.names: dict[str, str] = {}
        """By digest of code: its file, qualified name and first line."""
        self._reference: ReferenceValues | None = None
        self._known: frozenset[str] = frozenset()
        self._unlisted: set[str] = set()
        self._unlearned: set[Call] = set()
        self._samples = self._torn = 0
        self._lock = threading.Lock()

    def sample(self) -> set[Call]:
        """Return the calls that are going on now; none: what was read is not to be believed."""
        if _RANDOM.random() < ANEW:
            self._digests.clear()
        for _ in range(ATTEMPTS):
            calls = set[Call]()
            with contextlib.suppress(*UNREADABLE):
                for stack in self._reader.stacks():
                    digests = [digest for _, code in stack if (digest := self._digest(code))]
                    calls.update(pairwise(["", *digests]))
                if calls:
                    return calls
        return set()

    def compare(self, reference: ReferenceValues) -> None:
        """Take a sample, and remember what of it is not in the reference values."""
        if self._reference is not reference:
            self._reference, self._known = reference, listed_code(reference)
        learned = reference.calls or {}
        with self._lock:  # a look samples beside what samples between looks
            calls = self.sample()
        self._samples, self._torn = self._samples + bool(calls), self._torn + (not calls)
        for caller, callee in calls:
            if callee not in self._known:
                self._unlisted.add(callee)
            elif callee not in learned.get(caller, ()) and caller in self._known:
                self._unlearned.add((caller, callee))

    @property
    def believed(self) -> int:
        """How many samples were, since it was asked for them last."""
        return self._samples

    def taken(self) -> CallSamples:
        """Return what was seen: code that is not listed ever, all else since it was asked last."""
        named = self.names
        unlisted = {code: named[code] for code in sorted(self._unlisted)[:MOST_NAMED]}
        calls = sorted(self._unlearned)[:MOST_NAMED]
        unlearned = [(a, b, f"{named.get(a, 'a thread')} -> {named[b]}") for a, b in calls]
        found = CallSamples(self._samples, self._torn, unlisted, unlearned)
        self._samples, self._torn, self._unlearned = 0, 0, set()
        return found

    def _digest(self, address: int) -> str:
        """Return the digest of code; empty: there is none, or it has gone while it was read."""
        if address == self._none:  # what calls Python from C, as of 3.13
            return ""
        if address not in self._digests:
            digest, name = self._codes.read(address)
            if not digest:
                return ""
            self._digests[address], self.names[digest] = digest, name
        return self._digests[address]


def listed_code(reference: ReferenceValues) -> frozenset[str]:
    """Return the digests of all code that a genuine process may run; "" is what calls a thread."""
    modules, calls = (reference.modules or {}).values(), reference.calls or {}
    found = {"", *reference.codes, *calls}.union(*calls.values())
    for module in modules:
        found.update(module.file_code, *module.code.values())
    return frozenset(found)


@functools.cache
def check_frames() -> None:
    """Try on our own stack whether it is known how this version lays out frames.

    Raises:
        MeasurementError: if it is not.

    """
    mine = [id(frame.f_code) for frame, _ in traceback.walk_stack(sys._getframe())][::-1]
    files = ProcessFiles(os.getpid())
    with contextlib.suppress(*UNREADABLE), contextlib.closing(files):
        for stack in StackReader(files, runtime_address()).stacks():
            if [code for _, code in stack if code in mine][: len(mine)] == mine:
                return
    raise MeasurementError(
        f"frames of CPython {sys.version.split()[0]} are laid out in an unknown way: "
        "control flow is not sampled"
    )
