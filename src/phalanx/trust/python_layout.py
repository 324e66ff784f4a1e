"""How this build of CPython lays its objects out in memory, found by looking at our own.

A measurer is the same build as its target (``same_build``), so where a field stands in its own
objects it stands in the target's. Pointers are found by searching an object for the address of
what it is known to point to; sizes and kinds come from objects made for it. What was found is
tried on our own memory before it is used on another's: a build that is laid out otherwise is
refused, in one line.
"""

from __future__ import annotations

import builtins
import ctypes
import dis
import functools
import gc
import opcode
import os
import re
import struct
import sys
import types
from array import array
from collections.abc import Iterable
from types import CodeType
from typing import Any, NamedTuple

from phalanx.trust.elf import text_digest
from phalanx.trust.measurement import MeasurementError, short
from phalanx.trust.processes import Mapping, ProcessFiles

WORD = 8
_SEARCHED = 1 << 19
"""Octets of the interpreter's state that are searched for a pointer."""
_TYPE = int(type.__dict__["__basicsize__"].__get__(type))
_HEADER = CodeType.__basicsize__
"""Octets of a code object before its instructions."""
_LOCAL, _CELL, _FREE = 0x20, 0x40, 0x80
_ARGUMENTS = {"a": 67, "b": 30, "c": 53}
"""Positional-only, other and keyword arguments: numbers found nowhere else in a code object."""
_TEXTS = "co_name", "co_qualname", "co_exceptiontable", "co_linetable"
_NUMBERS = (
    "co_flags", "co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_stacksize",
    "co_firstlineno",
)  # fmt: skip


class Units(NamedTuple):
    """What is needed to see the code that was compiled in the code that runs.

    CPython specialises instructions while they run (PEP 659) and keeps what it learned in units
    after them. Both are undone here, as ``code.co_code`` does it.
    """

    general: bytes
    """By opcode: the opcode that was compiled."""
    pattern: re.Pattern[bytes]
    counts: dict[int, int]
    """By group of the pattern: how many units of cache it ends with."""

    def normal(self, octets: bytes) -> bytes:
        """Return instructions as they were compiled, their caches zero."""
        plain = bytearray(octets)
        plain[0::2] = plain[0::2].translate(self.general)
        return self.pattern.sub(self._emptied, bytes(plain))

    def _emptied(self, match: re.Match[bytes]) -> bytes:
        count = 2 * self.counts.get(match.lastindex or 0, 0)
        return match[0][: len(match[0]) - count] + bytes(count)


class Layout(NamedTuple):
    """Offsets in octets, but for what says otherwise."""

    types: dict[int, str]
    """By distance from the runtime: a kind of object, by the name of its type."""
    singletons: dict[int, str]
    """By distance from the runtime: None, True, False, Ellipsis."""
    interpreter: int
    """In ``_PyRuntime``: the newest interpreter's state; the main one's follows it."""
    threads: int
    """In that: the state of its newest thread."""
    modules: int
    builtins: int
    module_dict: int
    type_dict: int
    type_mro: int
    type_name: int
    type_flags: int
    code: tuple[int, ...]
    """Consts, names, names of locals, their kinds, name, qualname, exception and line table."""
    numbers: tuple[int, ...]
    """In code: 32-bit flags, argcount, posonlyargcount, kwonlyargcount, stacksize, firstlineno."""
    instructions: int
    vectorcall: int
    """In a function."""
    lru_function: int
    tuple_items: int
    strings: dict[int, tuple[int, int]]
    """By state, as far as ``string_mask`` goes: where the characters begin, and their octets."""
    string_mask: int
    tagged: bool
    """Whether an int has its sign and length in a tag (3.12)."""
    units: Units


def code_digest(code: CodeType) -> str:
    """Return the digest of a code object of this process, as the walk of another's gives it."""
    variables = code.co_varnames, code.co_cellvars, code.co_freevars
    consts = tuple(map(_plain, code.co_consts))
    texts, numbers = (tuple(getattr(code, n) for n in names) for names in (_TEXTS, _NUMBERS))
    return fields_digest(code.co_code, consts, code.co_names, variables, texts, numbers)


def fields_digest(*fields: object) -> str:
    """Return the digest of code; its file's name is not in it, since a package may move."""
    return short(repr(fields).encode("utf-8", "surrogatepass"))


def local_names(names: Iterable[str], kinds: bytes) -> tuple[tuple[str, ...], ...]:
    """Return the names of local, cell and free variables, from those of all and their kinds."""
    pairs = list(zip(names, kinds, strict=True))
    return tuple(
        tuple(name for name, kind in pairs if kind & bit) for bit in (_LOCAL, _CELL, _FREE)
    )


def unordered(values: Iterable[object]) -> tuple[object, ...]:
    """Return a frozen set as it stands in a digest."""
    return ("frozenset", *sorted(map(repr, values)))


def runtime_of(maps: tuple[Mapping, ...]) -> int:
    """Return where ``_PyRuntime`` of a target is, from its mappings.

    Raises:
        MeasurementError: if its CPython is another build than ours.

    """
    address, files = runtime_address(), ProcessFiles(os.getpid())
    heads = [m for m in files.mappings() if m.backed and m.offset == 0 and m.start <= address]
    files.close()
    mine = max(heads, key=lambda m: m.start)  # the library's data follow its first mapping
    name = mine.path.rpartition("/")[2]
    for theirs in maps:
        if theirs.path.rpartition("/")[2] == name and theirs.offset == 0:
            same = (theirs.inode, theirs.path) == (mine.inode, mine.path)
            if same or text_digest(theirs.path) == text_digest(mine.path):
                return theirs.start + address - mine.start
    raise MeasurementError(f"its CPython is another build than ours ({name}): not measured")


def runtime_address() -> int:
    """Return where the runtime's state of this process is."""
    return ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))


@functools.cache
def layout() -> Layout:
    """Return how this build lays out its objects.

    Raises:
        MeasurementError: if that cannot be found, with one line.

    """
    try:
        return _found()
    except (LookupError, ValueError, AttributeError, struct.error) as error:
        raise MeasurementError(
            f"objects of CPython {sys.version.split()[0]} are laid out in an unknown way: {error}"
        ) from None


def _found() -> Layout:
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise LookupError("known is CPython with its lock")
    runtime, made = runtime_address(), type("Made", (), {})
    state, head = (
        ctypes.cast(getattr(ctypes.pythonapi, f"PyInterpreterState_{name}"), ctypes.c_void_p).value
        for name in ("Main", "ThreadHead")
    )
    state = ctypes.CFUNCTYPE(ctypes.c_void_p)(state or 0)() or 0
    thread = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(head or 0)(state) or 0
    one, two, three = (",".join(f"{c}{n}" for n in range(m)) for c, m in _ARGUMENTS.items())
    function = eval(f"lambda {one},/,{two},*,{three}: 'a constant'")  # noqa: S307  # our own text
    marks = {"co_stacksize": 1237, "co_firstlineno": 77_777, "co_qualname": f"a name {runtime}"}
    code = function.__code__.replace(**marks)
    # What all functions have, and stands last: the address of what calls them.
    mine, other = (
        _words(id(f), types.FunctionType.__basicsize__ // WORD) for f in (function, _found)
    )
    call = max(n for n, word in enumerate(mine) if word == other[n] and word >> 32)
    lru = functools.lru_cache(function)
    kinds = _place_of(id(code), id(code.co_filename), _HEADER) - WORD  # they have no attribute
    consts, names, *texts = (
        _place_of(id(code), id(getattr(code, name)), _HEADER)
        for name in ("co_consts", "co_names", *_TEXTS)
    )
    numbers = struct.unpack(f"<{_HEADER // 4}i", ctypes.string_at(id(code), _HEADER))
    return Layout(
        types={id(t) - runtime: str(t.__name__) for t in _KINDS},
        singletons={id(v) - runtime: repr(v) for v in (None, True, False, ...)},
        interpreter=_place_of(runtime, state, _SEARCHED),
        threads=_place_of(state, thread, _SEARCHED),
        modules=_place_of(state, id(sys.modules), _SEARCHED),
        builtins=_place_of(state, id(vars(builtins)), _SEARCHED),
        module_dict=_place_of(id(sys), id(vars(sys)), 64),
        type_dict=_place_of(id(made), id(gc.get_referents(made.__dict__)[0]), _TYPE),
        type_mro=_place_of(id(made), id(made.__mro__), _TYPE),
        type_name=24,
        type_flags=_place_of(id(made), made.__flags__, _TYPE),
        code=(consts, names, kinds - WORD, kinds, *texts),
        numbers=tuple(4 * numbers.index(getattr(code, name), 6) for name in _NUMBERS),
        instructions=_HEADER,
        vectorcall=call * WORD,
        lru_function=_place_of(id(lru), id(function), type(lru).__basicsize__),
        tuple_items=tuple.__basicsize__,
        **_string_states(),
        tagged=_words(id(5), 3)[2] != 1,
        units=_units(),
    )


_KINDS = (
    types.FunctionType, types.CodeType, types.ModuleType, types.MethodType, types.CellType,
    types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType,
    types.GetSetDescriptorType, types.ClassMethodDescriptorType, property, staticmethod,
    classmethod, dict, tuple, str, bytes, int, float, complex, frozenset, type,
)  # fmt: skip


def _string_states() -> dict[str, Any]:
    """Return how the state of a string tells its kind, whether it is interned or static or not."""
    number = os.getpid()  # makes strings that the compiler cannot share
    fresh = [f"{number}x{c}" for c in ("y", "é", "€", "😀")]
    states = [_state(s) for s in fresh]
    mask = 0xFF & ~(states[0] ^ _state(sys.intern(f"{number}interned")))
    mask &= ~(states[0] ^ _state("")) & ~(states[0] ^ _state("sys"))
    mask &= ~(states[1] ^ _state("é"))
    heads = [sys.getsizeof(s) - (len(s) + 1) * w for s, w in zip(fresh, (1, 1, 2, 4), strict=True)]
    known = {
        s & mask: (head, width) for s, head, width in zip(states, heads, (1, 1, 2, 4), strict=True)
    }
    if len(known) != 4:
        raise LookupError("the state of a string does not tell its kind")
    return {"strings": known, "string_mask": mask}


def _state(text: str) -> int:
    return int(struct.unpack_from("<I", ctypes.string_at(id(text) + 32, 4))[0])


def _units() -> Units:
    all_opmap: dict[str, int] = dis._all_opmap  # type: ignore[attr-defined]
    general = bytearray(range(256))
    for name, base in dis.deoptmap.items():  # type: ignore[attr-defined]
        general[all_opmap[name]] = all_opmap[base]
    entries: Any = opcode._inline_cache_entries  # type: ignore[attr-defined]
    if isinstance(entries, dict):  # by name since 3.13
        entries = [entries.get(name, 0) for name in dis._all_opname]  # type: ignore[attr-defined]
    by_count: dict[int, list[int]] = {}
    for number in range(256):
        count = entries[number] if number < len(entries) else 0
        by_count.setdefault(count if general[number] == number else 0, []).append(number)
    plain = by_count.pop(0)
    counts = sorted(by_count)
    with_cache = [b"(" + _any_of(by_count[n]) + b"." * (1 + 2 * n) + b")" for n in counts]
    pattern = re.compile(b"(?s)((?:" + _any_of(plain) + b".)*)(?:" + b"|".join(with_cache) + b")?")
    units = Units(bytes(general), pattern, dict(enumerate(counts, 2)))
    for example in (_units, _found, local_names):
        code = example.__code__
        adaptive: bytes = code._co_code_adaptive  # type: ignore[attr-defined]
        if units.normal(adaptive) != code.co_code:
            raise LookupError("specialised code cannot be undone")
    return units


def _any_of(numbers: list[int]) -> bytes:
    return b"[" + b"".join(b"\\x%02x" % number for number in numbers) + b"]"


def _place_of(start: int, wanted: int, length: int) -> int:
    """Return where, from ``start``, the word ``wanted`` stands.

    Raises:
        ValueError: if it stands nowhere there.

    """
    with open("/proc/self/mem", "rb") as memory:  # noqa: PTH123  # ends where our memory does
        octets = os.pread(memory.fileno(), length, start)
    return array("Q", octets[: len(octets) // WORD * WORD]).index(wanted) * WORD


def _words(start: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}Q", ctypes.string_at(start, count * WORD))


def _plain(value: object) -> object:
    """Return a constant as it stands in a digest."""
    if isinstance(value, CodeType):
        return ("code", code_digest(value))
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, frozenset):
        return unordered(map(_plain, value))
    return value
