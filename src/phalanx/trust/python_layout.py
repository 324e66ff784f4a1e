"""How this build of CPython lays its objects out in memory, found by looking at our own.

A measurer is the same build as its target (``same_build``), so where a field stands in its own
objects it stands in the target's. Pointers are found by searching an object for the address of
what it is known to point to; sizes and kinds come from objects made for it. What was found is
tried on our own memory before it is used on another's: a build that is laid out otherwise is
refused, in one line.
"""

from __future__ import annotations

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
from collections.abc import Iterable
from hashlib import sha256
from types import CodeType
from typing import Any, NamedTuple

from phalanx.trust.measurement import MeasurementError, short
from phalanx.trust.processes import Mapping, ProcessFiles

WORD = 8
_SEARCHED = 1 << 19
"""Octets of the interpreter's state that are searched for a pointer."""
_TYPE = int(type.__dict__["__basicsize__"].__get__(type))
_HEADER = CodeType.__basicsize__
"""Octets of a code object before its instructions."""
_CACHED_LOCAL, _CACHED_CELL, _CACHED_FREE = 0x20, 0x40, 0x80


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
    """In ``_PyRuntime``: the main interpreter's state."""
    modules: int
    builtins: int
    module_dict: int
    type_dict: int
    type_mro: int
    type_name: int
    type_qualname: int
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
    return short(
        repr(
            code_fields(
                code.co_code,
                tuple(map(_plain, code.co_consts)),
                code.co_names,
                (code.co_varnames, code.co_cellvars, code.co_freevars),
                (code.co_name, code.co_qualname, code.co_exceptiontable, code.co_linetable),
                (
                    code.co_flags,
                    code.co_argcount,
                    code.co_posonlyargcount,
                    code.co_kwonlyargcount,
                    code.co_stacksize,
                    code.co_firstlineno,
                ),
            )
        ).encode()
    )


def code_fields(
    instructions: bytes,
    consts: tuple[object, ...],
    names: tuple[str, ...],
    variables: tuple[tuple[str, ...], ...],
    texts: tuple[object, ...],
    numbers: tuple[int, ...],
) -> tuple[object, ...]:
    """Return what a digest of code is made of; its file's name is left out: a package may move."""
    return instructions, consts, names, variables, texts, numbers


def local_names(names: Iterable[str], kinds: bytes) -> tuple[tuple[str, ...], ...]:
    """Return the names of local, cell and free variables, from those of all and their kinds."""
    pairs = list(zip(names, kinds, strict=True))
    return tuple(
        tuple(name for name, kind in pairs if kind & bit)
        for bit in (_CACHED_LOCAL, _CACHED_CELL, _CACHED_FREE)
    )


def unordered(values: Iterable[object]) -> tuple[object, ...]:
    """Return a frozen set as it stands in a digest."""
    return ("frozenset", *sorted(map(repr, values)))


def runtime_of(maps: tuple[Mapping, ...], own: tuple[Mapping, ...]) -> tuple[int, Mapping, Mapping]:
    """Return where ``_PyRuntime`` of a target is, and the first mappings of the two libraries.

    Args:
        maps: mappings of the target.
        own: of this process.

    Raises:
        MeasurementError: if the target has no library or program of that name.

    """
    address = runtime_address()
    here = next(m for m in own if m.start <= address < m.end or _before(m, own, address))
    mine = next(m for m in own if m.path == here.path)
    name = mine.path.rpartition("/")[2]
    for mapping in maps:
        if mapping.path.rpartition("/")[2] == name and mapping.offset == 0:
            return mapping.start + address - mine.start, mapping, mine
    raise MeasurementError(f"its CPython is another than ours: it maps no {name}")


def same_build(files: ProcessFiles, theirs: Mapping, own: Mapping) -> bool:
    """Whether the target's CPython is the same file as ours, or has the same program text."""
    if (theirs.inode, theirs.path) == (own.inode, own.path):
        return True
    digests = []
    for seen in (files, ProcessFiles(os.getpid())):
        digest, path = sha256(), (theirs if seen is files else own).path
        for mapping in seen.mappings():
            if mapping.path == path and "x" in mapping.permissions:
                digest.update(seen.read("mem", mapping.start, mapping.end - mapping.start))
        digests.append(digest.digest())
    return digests[0] == digests[1]


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
    runtime = runtime_address()

    def outer(a: Any, b: Any = 1, /, *c: Any, d: Any = 2) -> Any:
        return lambda: (a, b, c, d)

    code, lru = outer.__code__, functools.lru_cache(outer)
    made = type("Made", (), {"__qualname__": f"made {id(code)}"})
    main = ctypes.pythonapi.PyInterpreterState_Main
    main.restype = ctypes.c_void_p
    state = main()
    tables: list[Any] = [
        code.co_consts, code.co_names, None, None,
        code.co_name, code.co_qualname, code.co_exceptiontable, code.co_linetable,
    ]  # fmt: skip
    # The tuple of local names is no attribute of its own; kinds and file name follow it.
    file_name = _place_of(id(code), id(code.co_filename), _HEADER)
    offsets = [_place_of(id(code), id(t), _HEADER) if t is not None else 0 for t in tables]
    offsets[2], offsets[3] = file_name - 2 * WORD, file_name - WORD
    return Layout(
        types={id(t) - runtime: str(t.__name__) for t in _KINDS},
        singletons={id(v) - runtime: repr(v) for v in (None, True, False, ...)},
        interpreter=_place_of(runtime, state, _SEARCHED),
        modules=_place_of(state, id(sys.modules), _SEARCHED),
        builtins=_place_of(state, id(vars(__import__("builtins"))), _SEARCHED),
        module_dict=_place_of(id(sys), id(vars(sys)), 64),
        type_dict=_place_of(id(made), id(gc.get_referents(made.__dict__)[0]), _TYPE),
        type_mro=_place_of(id(made), id(made.__mro__), _TYPE),
        type_name=24,
        type_qualname=_place_of(id(made), id(made.__qualname__), _TYPE),
        type_flags=_place_of(id(made), made.__flags__, _TYPE),
        code=tuple(offsets),
        numbers=_number_places(code),
        instructions=_HEADER,
        vectorcall=_vectorcall(outer, _only),
        lru_function=_place_of(id(lru), id(outer), type(lru).__basicsize__),
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


def _number_places(code: CodeType) -> tuple[int, ...]:
    """Return where numbers stand, from a code object with numbers that are found nowhere else."""
    marked = code.replace(co_stacksize=1237, co_firstlineno=77_777, co_flags=code.co_flags)
    header = ctypes.string_at(id(marked), _HEADER)
    first = _only(header, struct.pack("<i", 77_777))
    stack = _only(header, struct.pack("<i", 1237))
    flags = _only(header, struct.pack("<i", code.co_flags), below=stack)
    counts = struct.pack("<iii", code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
    argument = _only(header, counts, below=stack)
    return flags, argument, argument + 4, argument + 8, stack, first


def _only(octets: bytes, wanted: bytes, below: int | None = None) -> int:
    place = octets.find(wanted, 24, below)
    if place < 0:
        raise LookupError("a code object does not have its numbers")
    return place


def _vectorcall(function: object, another: object) -> int:
    """Return where a function keeps the address of what calls it: all functions have the same."""
    mine = _words(id(function), types.FunctionType.__basicsize__ // WORD)
    other = _words(id(another), len(mine))
    plausible = {m for m in range(10, len(mine)) if mine[m] == other[m] and mine[m] > 1 << 32}
    return WORD * max(plausible, default=0)


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
    for example in (_units, _only, _found, local_names):
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
        LookupError: if it stands nowhere there.

    """
    files = ProcessFiles(os.getpid())
    try:
        for begin in range(0, length, 4096):
            size = min(4096, length - begin) // WORD * WORD
            try:
                octets = files.read("mem", start + begin, size)
            except MeasurementError:
                break
            words = struct.unpack(f"<{size // WORD}Q", octets)
            if wanted in words:
                return begin + words.index(wanted) * WORD
    finally:
        files.close()
    raise LookupError("an object does not point where it should")


def _words(start: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}Q", ctypes.string_at(start, count * WORD))


def _before(mapping: Mapping, maps: tuple[Mapping, ...], address: int) -> bool:
    """Whether an address is in the zeroed data (bss) that follows a library's last mapping."""
    following = maps[maps.index(mapping) + 1 :][:1]
    return bool(
        mapping.path
        and following
        and not following[0].path
        and mapping.end == following[0].start <= address < following[0].end
    )


def _plain(value: object) -> object:
    """Return a constant as it stands in a digest."""
    if isinstance(value, CodeType):
        return ("code", code_digest(value))
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, frozenset):
        return unordered(map(_plain, value))
    return value
