"""Python code and bindings of a live CPython process, measured from outside through its memory.

No code runs in the target, so nothing there can lie about itself. From ``sys.modules`` the walk
goes through the dictionaries of modules and classes to functions, methods, descriptors, wrappers
and closures. What a name leads to is measured where it is at home (``module.name``); elsewhere it
is measured as a reference to that home.

The target is not stopped. What a walk has read and relied on is remembered; if all of that is
the same when read once more, the walk saw one state. Later looks compare it again and walk only
if something differs, which costs a fraction; where code and strings do not, as when a module was
loaded, that walk takes their digests from the one before.

Data is not measured: values that are no code, nor the contents of instances, lists and
dictionaries. An attack on data alone is not found here.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection
from functools import partial

import numpy as np
from numpy.typing import NDArray

from phalanx.trust.elf import PAGE
from phalanx.trust.measurement import (
    UNREADY,
    MeasurementError,
    PythonDetail,
    PythonModule,
    ReferenceValues,
    short,
)
from phalanx.trust.processes import Mapping, MemoryRun, ProcessFiles
from phalanx.trust.python_layout import (
    WORD,
    Layout,
    fields_digest,
    layout,
    local_names,
    runtime_of,
    unordered,
)

ATTEMPTS = 4
"""Walks of a process that keeps changing under the walk, before the look has failed."""
WALKS_EVERY = 50
"""A walk that takes nothing from earlier ones at the latest after so many looks."""
_SHIFT = 16
_WINDOW = 1 << _SHIFT
_GAP = 4
"""Pages that are read in vain rather than with one more call."""
_DEEPEST = 12
_MOST_ITEMS, _MOST_OCTETS, _MOST_READS, _MOST_WINDOWS = 1 << 20, 1 << 24, 1 << 25, 1 << 15
_ONE = struct.Struct("<Q")
_SUBCLASS_OF_TYPE, _HEAP_TYPE = 1 << 31, 1 << 9


class _Garbage(Exception):  # noqa: N818  # no error: the target has changed under the walk
    """What was read is no object of the kind expected."""


UNREADABLE = (
    _Garbage, struct.error, ValueError, LookupError, OverflowError, RecursionError,
    MeasurementError,
)  # fmt: skip


class _Lasting:
    """Code and strings of the target, which a process that nobody writes into keeps as they are."""

    def __init__(self) -> None:
        self.codes: dict[int, str] = {}
        """Digests, by address."""
        self.strings: dict[int, str] = {}
        self.relied = array("Q"), array("Q")
        """What these depend on; see ``_Memory.relied_words`` and ``_Memory.relied``."""
        self.instructions: list[tuple[int, bytes]] = []
        """Address of code, and its instructions as they were compiled."""


class _Memory:
    """Memory of the target, read once in windows; remembers what was relied on."""

    def __init__(
        self, files: ProcessFiles, maps: tuple[Mapping, ...], lasting: _Lasting | None = None
    ) -> None:
        self._files = files
        self.lasting = lasting or _Lasting()
        self._maps = [m for m in maps if m.permissions.startswith("r") and m.path != "[vvar]"]
        self._starts = [m.start for m in self._maps]
        self._windows: dict[int, bytes] = {}
        self.relied_words = array("Q")
        """Addresses of words that a result depends on."""
        self.relied = array("Q")
        """Address and octets, one after the other, of what else it depends on."""
        self.data = array("Q")
        """Addresses of words that point to data: another pointer to data changes nothing."""

    def lastingly(self, read: Callable[[], str]) -> str:
        """Return what ``read`` does, which relies on what lasts."""
        loose = self.relied_words, self.relied
        self.relied_words, self.relied = self.lasting.relied
        try:
            return read()
        finally:
            self.relied_words, self.relied = loose

    def rely(self, address: int, length: int) -> None:
        """Remember that a result depends on these octets."""
        self.relied.append(address)
        self.relied.append(length)

    def word(self, address: int) -> int:
        """Return a word that is relied on."""
        found = self.peek(address)  # what cannot be read is not relied on
        self.relied_words.append(address)
        return found

    def peek(self, address: int) -> int:
        """Return a word that is not relied on."""
        window, begin = self._windows.get(address >> _SHIFT), address & (_WINDOW - 1)
        if begin & 7:  # no field of any object stands there
            raise _Garbage
        if window is None:
            window, begin = self.octets(address, 8), 0
        return int(_ONE.unpack_from(window, begin)[0])

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """Return words that are not relied on."""
        if count > _MOST_ITEMS or address & 7:
            raise _Garbage
        return struct.unpack(f"<{count}Q", self.octets(address, 8 * count))

    def take(self, address: int, count: int) -> tuple[int, ...]:
        """Return words that are relied on."""
        found = self.words(address, count)
        self.rely(address, 8 * count)
        return found

    def kept(self, address: int, length: int) -> bytes:
        """Return octets that are relied on."""
        found = self.octets(address, length)
        self.rely(address, length)
        return found

    def octets(self, address: int, length: int) -> bytes:
        """Return octets that are not relied on."""
        number, begin = address >> _SHIFT, address & (_WINDOW - 1)
        window = self._windows.get(number) or self._window(number)
        if 0 <= length <= _WINDOW - begin:
            return window[begin : begin + length]
        if not 0 < length <= _MOST_OCTETS or len(self.relied) > _MOST_READS:
            raise _Garbage
        first = window[begin:]
        return first + self.octets((number + 1) << _SHIFT, length - len(first))

    def text(self, address: int) -> str:
        """Return a C string of at most 256 octets."""
        octets = self.octets(address, 256).partition(b"\0")[0]
        self.rely(address, len(octets) + 1)
        return octets.decode("utf-8", "replace")

    def place(self, address: int) -> str:
        """Return file and offset of a function in native code; what no file has is nowhere."""
        number = bisect_right(self._starts, address) - 1
        if number >= 0 and address < self._maps[number].end and self._maps[number].inode:
            mapping = self._maps[number]
            offset = address - mapping.start + mapping.offset
            return f"{mapping.path.rpartition('/')[2]}+{offset:x}"
        return "nowhere"

    def _window(self, number: int) -> bytes:
        begin, end = number << _SHIFT, (number + 1) << _SHIFT
        octets = bytearray(_WINDOW)
        at = max(bisect_right(self._starts, begin) - 1, 0)
        found = False
        for mapping in self._maps[at:]:
            if mapping.start >= end:
                break
            first, last = max(mapping.start, begin), min(mapping.end, end)
            if first < last:
                octets[first - begin : last - begin] = self._files.read("mem", first, last - first)
                found = True
        if not found or len(self._windows) > _MOST_WINDOWS:
            raise _Garbage
        self._windows[number] = bytes(octets)
        return self._windows[number]


class _Snapshot:
    """What a walk relied on, in a form that is compared quickly."""

    def __init__(self, memory: _Memory, known: Layout) -> None:
        lasting = self.lasting = memory.lasting
        loose, kept = (_relied(*r) for r in ((memory.relied_words, memory.relied), lasting.relied))
        codes = np.array([(a, len(o)) for a, o in lasting.instructions], np.int64).reshape(-1, 2)
        data = _integers(memory.data)
        first = codes[:, 0] // 8
        units = _ranges(first, (codes.sum(axis=1) + 7) // 8 - first)
        smalls = (small[:, 0] // 8 for _, small in (loose, kept))
        page = np.concatenate((loose[0], kept[0], units, data // 8, *smalls)) // (PAGE // 8)
        page = np.unique(page[np.flatnonzero(np.diff(page, prepend=-1))])
        breaks = np.flatnonzero(np.diff(page) > _GAP) + 1
        self._begins = page[np.concatenate(([0], breaks))] * PAGE
        lengths = (page[np.concatenate((breaks - 1, [-1]))] + 1) * PAGE - self._begins
        self._bases = np.concatenate(([0], np.cumsum(lengths)))
        runs = zip(self._begins.tolist(), lengths.tolist(), strict=True)
        self._runs = (MemoryRun * len(lengths))(*(MemoryRun(*run) for run in runs))
        self._buffer = np.zeros(int(self._bases[-1]), np.uint8)
        mask = np.zeros(len(self._buffer) // 8, np.uint64)
        for words, small in (kept, loose):
            mask[self._index(words * 8) // 8] = np.uint64(0xFFFFFFFFFFFFFFFF)
            mask.view(np.uint8)[_ranges(self._index(small[:, 0]), small[:, 1])] = 0xFF
            if words is kept[0]:
                self._lasting, self._lasting_mask = np.flatnonzero(mask), mask[mask != 0]
        expected = np.frombuffer(self._read(memory), np.uint64)
        self._lasting_expected = expected[self._lasting] & self._lasting_mask
        self._checked = np.flatnonzero(mask)
        self._mask = mask[self._checked]
        self._expected = expected[self._checked] & self._mask
        self._found = np.empty_like(self._expected)
        self._data = self._index(data) // 8
        self._values = expected[self._data]
        whole = np.frombuffer(b"".join(octets for _, octets in lasting.instructions), np.uint16)
        places = _ranges(self._index(codes[:, 0]) // 2, codes[:, 1] // 2)
        real = (whole & 0xFF) != 0  # the rest are caches, which change while code runs
        self._units, self._places = whole[real], places[real]
        self._specialised, self._undone = np.empty_like(self._units), np.empty_like(self._units)
        general = np.frombuffer(known.units.general, np.uint8).astype(np.uint16)
        every = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
        self._general = general[every & 0xFF] | (every & 0xFF00)

    def unchanged(self, files: ProcessFiles, is_data: Callable[[int], bool]) -> bool:
        """Whether all that was relied on reads the same now.

        Args:
            files: of the process.
            is_data: asked whether the object at an address is data.

        """
        words = self._buffer.view(np.uint64)
        if not files.read_runs(self._buffer.ctypes.data, self._runs):
            try:
                for run, base in zip(self._runs, self._bases, strict=False):
                    files.read_into(self._buffer.data[base : base + run.length], run.start)
            except MeasurementError:
                return False
        found = np.take(words, self._checked, out=self._found, mode="clip")
        found &= self._mask
        if not np.array_equal(found, self._expected):
            return False
        if not self._same_code(self._buffer.view(np.uint16)):
            return False
        values = words[self._data]
        for place in np.flatnonzero(values != self._values):
            if not is_data(int(values[place])):
                return False
            self._values[place] = values[place]
        return True

    def lasts(self, memory: _Memory) -> bool:
        """Whether code and strings are the same in what a later walk has read."""
        octets = self._read(memory)
        found = np.frombuffer(octets, np.uint64)[self._lasting] & self._lasting_mask
        same = np.array_equal(found, self._lasting_expected)
        return same and self._same_code(np.frombuffer(octets, np.uint16))

    def _read(self, memory: _Memory) -> bytes:
        return b"".join(memory.octets(run.start, run.length) for run in self._runs)

    def _same_code(self, units: NDArray[np.uint16]) -> bool:
        np.take(units, self._places, out=self._specialised, mode="clip")
        np.take(self._general, self._specialised, out=self._undone, mode="clip")
        return np.array_equal(self._undone, self._units)

    def _index(self, addresses: NDArray[np.int64]) -> NDArray[np.int64]:
        run = np.searchsorted(self._begins, addresses, side="right") - 1
        return np.asarray(self._bases[run] + addresses - self._begins[run], np.int64)


def _relied(
    addresses: array[int], pairs: array[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of all words that are relied on, and what is smaller: address, octets."""
    found = _integers(pairs).reshape(-1, 2)
    # Whole words: what else is in them belongs to the same object and does not change.
    large = found[found[:, 1] >= 8]
    first = large[:, 0] // 8
    words = _ranges(first, (large.sum(axis=1) + 7) // 8 - first)
    return np.concatenate((_integers(addresses) // 8, words)), found[found[:, 1] < 8]


def _integers(words: array[int]) -> NDArray[np.int64]:
    return np.frombuffer(words, np.uint64).astype(np.int64)


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers from each start, as many as its count, one range after the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)


class _Walk:
    """One walk through the objects of a process; small memories keep it linear in their number."""

    def __init__(self, memory: _Memory, known: Layout, runtime: int) -> None:
        self._memory = memory
        self._known = known
        self._kinds = {runtime + distance: kind for distance, kind in known.types.items()}
        self._bases = {a: k for a, k in self._kinds.items() if k in _INHERITED}
        self._singletons = {runtime + distance: v for distance, v in known.singletons.items()}
        self._runtime = runtime
        self._builtins = 0
        self._items: dict[int, list[tuple[str, int, str]]] = {}
        self._strings, self._codes = memory.lasting.strings, memory.lasting.codes
        self._functions: dict[int, PythonDetail] = {}
        self._classes: dict[int, str] = {}
        self._class_names: dict[int, str] = {}
        self._names: dict[int, str] = {}
        """Of modules, by address of the module and of its dictionary."""
        self._stack: list[int] = []

    def modules(self) -> dict[str, PythonDetail]:
        """Return what stands in each module of ``sys.modules``."""
        newest, interpreter = self._memory.take(self._runtime + self._known.interpreter, 2)
        self._builtins = self._memory.word(interpreter + self._known.builtins)
        listed = self.items(self._memory.word(interpreter + self._known.modules))
        places: dict[int, list[str]] = {}
        for name, address, kind in listed:
            if kind == "module":
                places.setdefault(address, []).append(name)
        found: dict[str, PythonDetail] = {}
        if newest != interpreter:  # its modules are not looked at, and no agent has one
            found["a second interpreter"] = PythonDetail({}, {})
        for address, names in places.items():
            contents = self._memory.word(address + self._known.module_dict)
            own = next((a for n, a, k in self.items(contents) if n == "__name__" and k == "str"), 0)
            name = self.string(own) if own else ""
            self._names[address] = self._names[contents] = name if name in names else min(names)
        for name, address, kind in listed:
            detail = found[name] = PythonDetail({}, {})
            if kind != "module":
                self._enter(detail, "", address, kind)
            elif self._names[address] != name:
                detail.bindings[""] = f"alias of {self._names[address]}"
            else:
                contents = self._memory.word(address + self._known.module_dict)
                for key, value, value_kind in self.items(contents):
                    try:
                        self._name(detail, name, key, value, value_kind)
                    except UNREADABLE:  # read while it changed; else a deviation
                        detail.bindings[key] = "unreadable"
                        self._stack = []
        return found

    def kind(self, address: int) -> str:
        """Return what an object is; empty: data."""
        of = self._memory.peek(address + 8)
        found = self._kinds.get(of)
        if found is None:
            found = self._kinds[of] = self._kind_of_type(of)
        if found not in _DATA:
            self._memory.relied_words.append(address + 8)
        return found

    def items(self, address: int, *, all_count: bool = False) -> list[tuple[str, int, str]]:
        """Return name, address and kind of the values of a dictionary; of none: no dictionary.

        Which data a name leads to matters where ``all_count`` says so, as in defaults of keywords.
        """
        found = self._items.get(address)
        if found is not None:
            return found
        memory = self._memory
        keys, values = memory.take(address + 32, 2)
        if values or not keys:
            raise _Garbage
        size, octets, unicode = memory.kept(keys + 8, 3)
        count = memory.word(keys + 24)
        if size > 20 or octets > 23 or unicode > 1 or count > 1 << size:
            raise _Garbage
        start, width = keys + 32 + (1 << octets), 2 if unicode else 3
        words = memory.words(start, count * width)
        found = self._items[address] = []
        for number in range(count):
            key, value = words[number * width + width - 2 : number * width + width]
            slot = start + 8 * (number * width + width - 1)
            kind = self.kind(value) if value else ""
            if value and kind in _DATA and value not in self._singletons and not all_count:
                memory.relied_words.append(slot - 8)
                memory.data.append(slot)
            else:
                memory.rely(slot - 8, 16)
            if value and self.kind(key) == "str":
                name = self.string(key)
                found.append((name, value, kind))
                if name == "__builtins__":  # a dictionary that matters
                    memory.relied_words.append(slot)
        return found

    def string(self, address: int) -> str:
        """Return a string."""
        found = self._strings.get(address)
        if found is None:
            read = partial(self._read_string, address)
            found = self._strings[address] = self._memory.lastingly(read)
        return found

    def _read_string(self, address: int) -> str:
        memory = self._memory
        length, state = memory.word(address + 16), memory.octets(address + 32, 1)[0]
        place = self._known.strings.get(state & self._known.string_mask)
        if place is None:
            raise _Garbage
        head, width = place
        octets = memory.kept(address + head, length * width)
        coding = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}[width]
        return octets.decode(coding, "surrogatepass")

    def constant(self, address: int, depth: int = 0) -> object:
        """Return an immutable value as it stands in a digest; of another object its kind."""
        if address in self._singletons:
            return _SINGLETONS[self._singletons[address]]
        kind = self.kind(address)
        if kind in _DATA and kind:
            self._memory.relied_words.append(address + 8)
        if depth > _DEEPEST:
            raise _Garbage
        match kind:
            case "str":
                return self.string(address)
            case "bytes":
                return self._memory.kept(address + 32, self._memory.word(address + 16))
            case "int":
                return self._integer(address)
            case "float":
                return struct.unpack("<d", self._memory.kept(address + 16, 8))[0]
            case "complex":
                return complex(*struct.unpack("<dd", self._memory.kept(address + 16, 16)))
            case "tuple":
                return tuple(self.constant(item, depth + 1) for item in self._tuple(address))
            case "frozenset":
                mask, table = self._memory.take(address + 32, 2)
                words = self._memory.take(table, 2 * (mask + 1))
                return unordered(self.constant(k, depth + 1) for k in words[::2] if k)
            case "code":
                return "code", self.code(address, depth + 1)
            case _:
                return "other", kind

    def code(self, address: int, depth: int = 0) -> str:
        """Return the digest of a code object: ``python_layout.code_digest`` of one out there."""
        found = self._codes.get(address)
        if found is None:
            read = partial(self._read_code, address, depth)
            found = self._codes[address] = self._memory.lastingly(read)
        return found

    def _read_code(self, address: int, depth: int) -> str:
        memory, known = self._memory, self._known
        if self.kind(address) != "code" or depth > _DEEPEST:
            raise _Garbage
        memory.relied_words.append(address + 8)
        consts, names, variables, kinds, *texts = (memory.word(address + o) for o in known.code)
        octets = memory.octets(address + known.instructions, 2 * memory.word(address + 16))
        normal = known.units.normal(octets)
        memory.lasting.instructions.append((address + known.instructions, normal))
        return fields_digest(
            normal,
            tuple(self.constant(item, depth + 1) for item in self._tuple(consts)),
            self._texts(names),
            local_names(self._texts(variables), self._bytes(kinds)),
            tuple(self.constant(text) for text in texts),
            tuple(int.from_bytes(memory.kept(address + o, 4), "little") for o in known.numbers),
        )

    def _name(self, detail: PythonDetail, module: str, key: str, address: int, kind: str) -> None:
        """Measure what a name of a module leads to."""
        if key == "__builtins__":
            genuine = address == self._builtins or self._names.get(address) == "builtins"
            detail.bindings[key] = "genuine" if genuine else "other"
        elif kind == "type" and self._module_of(address) == module:
            self._class(detail, key, address)
        elif kind == "module" and self._names.get(address) == f"{module}.{key}":
            pass  # a submodule stands in its package once it was imported
        elif kind not in _DATA:
            self._enter(detail, key, address, kind)

    def _enter(self, detail: PythonDetail, path: str, address: int, kind: str) -> None:
        """Measure what ``path`` leads to."""
        memory = self._memory
        while path in detail.bindings:  # a name that a genuine dictionary has once
            path += "'"
        if len(self._stack) > _DEEPEST:
            raise _Garbage
        detail.bindings[path] = kind
        if kind == "function":
            inner = self._function(address)
            for below, digest in inner.code.items():
                detail.code[path + below] = digest
            for below, digest in inner.bindings.items():
                detail.bindings[path + below] = digest
        elif kind == "type":
            detail.bindings[path] = self._class_digest(address)
        elif kind == "module":
            detail.bindings[path] = f"module {self._names.get(address, '?')}"
        elif kind in _NATIVE:
            pointers = (self._follow(address, offsets) for offsets in _NATIVE[kind])
            detail.bindings[path] = " ".join(map(memory.place, pointers))
        elif kind == "partial":
            detail.bindings[path] = self._described(memory.word(address + 24))
        for name, offset in _INNER.get(kind, ()):
            self._inner(detail, f"{path}.{name}", address + (offset or self._known.lru_function))

    def _follow(self, address: int, offsets: tuple[int, ...]) -> int:
        for offset in offsets:
            address = self._memory.word(address + offset)
        return address

    def _inner(self, detail: PythonDetail, path: str, slot: int) -> None:
        address = self._memory.peek(slot)
        kind = self.kind(address) if address else ""
        if kind in _DATA:
            if address:
                self._memory.data.append(slot)
            return
        self._memory.relied_words.append(slot)
        if kind == "type":  # most often the class of a method that calls super()
            detail.bindings[path] = f"class {self._class_name(address)}"
        else:
            self._enter(detail, path, address, kind)

    def _function(self, address: int) -> PythonDetail:
        """Return code and bindings of a function, by what follows its name."""
        found = self._functions.get(address)
        if found is not None:
            return found
        if address in self._stack:
            return PythonDetail({}, {"": "itself"})
        memory = self._memory
        found = PythonDetail({}, {})
        space, builtins, _, _, code, defaults, keywords, closure = memory.take(address + 16, 8)
        found.code[""] = self.code(code)
        call = memory.word(address + self._known.vectorcall)
        facts = [
            self._names.get(space, "none"),
            str(builtins == self._builtins),
            memory.place(call),
        ]
        if defaults:
            facts += map(self._described, self._tuple(defaults))
        for name, value, _ in self.items(keywords, all_count=True) if keywords else ():
            facts.append(f"{name}={self._described(value)}")
        self._stack.append(address)
        for number, cell in enumerate(self._tuple(closure) if closure else ()):
            self._inner(found, f".<cell {number}>", cell + 16)
        self._stack.pop()
        found.bindings[""] = short("\n".join(facts).encode("utf-8", "surrogatepass"))
        if not self._stack:  # inside another, a part may have been cut as "itself"
            self._functions[address] = found
        return found

    def _described(self, address: int) -> str:
        """Return a value that a call uses: constants by value, code by digest, data as such."""
        kind = self.kind(address)
        if kind == "function":
            return f"function {self.code(self._memory.word(address + 48))}"
        if kind == "type":
            return f"class {self._class_name(address)}"
        return repr(self.constant(address)) if kind in _DATA else kind

    def _class(self, detail: PythonDetail, path: str, address: int) -> None:
        """Measure a class with its members, where it is at home."""
        while path in detail.bindings:
            path += "'"
        detail.bindings[path] = self._line_of(address)
        for name, value, kind in self._members(address):
            if kind not in _DATA:
                self._enter(detail, f"{path}.{name}", value, kind)

    def _class_digest(self, address: int) -> str:
        """Return the digest of a class elsewhere; of classes among its members the name."""
        found = self._classes.get(address)
        if not self._memory.word(address + self._known.type_mro):
            return UNREADY
        if found is None:
            detail, stack = PythonDetail({}, {}), self._stack
            self._stack = []  # the same digest, whatever leads here
            for name, value, kind in self._members(address):
                if kind == "type":
                    detail.bindings[name] = self._class_name(value)
                elif kind not in _DATA:
                    self._enter(detail, name, value, kind)
            self._stack = stack
            whole = detail.digests()
            line = f"{self._line_of(address)} {whole.code} {whole.bindings}"
            found = self._classes[address] = short(line.encode())
        return found

    def _members(self, address: int) -> list[tuple[str, int, str]]:
        contents = self._memory.word(address + self._known.type_dict)
        return self.items(contents) if contents else []

    def _line_of(self, address: int) -> str:
        """Return the digest of how members of a class are found: metaclass and resolution order."""
        order = self._tuple(self._memory.word(address + self._known.type_mro))
        names = [self._class_name(self._memory.word(address + 8)), *map(self._class_name, order)]
        return short("\n".join(names).encode("utf-8", "surrogatepass"))

    def _class_name(self, address: int) -> str:
        if address not in self._class_names:
            named = self._memory.text(self._memory.word(address + self._known.type_name))
            self._class_names[address] = f"{self._module_of(address)}:{named}"
        return self._class_names[address]

    def _module_of(self, address: int) -> str:
        for name, value, kind in self._members(address):
            if name == "__module__" and kind == "str":
                return self.string(value)
        return ""

    def _kind_of_type(self, of: int) -> str:
        flags = self._memory.peek(of + self._known.type_flags)
        if flags & _SUBCLASS_OF_TYPE:
            return "type"
        order = self._memory.peek(of + self._known.type_mro)
        if not order:
            return ""
        kinds = [self._bases[base] for base in self._tuple(order) if base in self._bases]
        if kinds:
            return kinds[0]
        name = self._memory.text(self._memory.peek(of + self._known.type_name))
        return _BY_NAME.get(name, "")

    def _tuple(self, address: int) -> tuple[int, ...]:
        if self._kinds.get(self._memory.word(address + 8)) != "tuple":
            raise _Garbage
        count = self._memory.word(address + 16)
        if count > _MOST_ITEMS:
            raise _Garbage
        return self._memory.take(address + self._known.tuple_items, count)

    def _texts(self, address: int) -> tuple[str, ...]:
        return tuple(self.string(item) for item in self._tuple(address))

    def _bytes(self, address: int) -> bytes:
        return self._memory.kept(address + 32, self._memory.word(address + 16))

    def _integer(self, address: int) -> int:
        size = self._memory.word(address + 16)
        if self._known.tagged:
            count, negative = size >> 3, size & 3 == 2
        else:
            negative = bool(size >> 63)
            count = (1 << 64) - size if negative else size
        if count > 1 << 12:
            raise _Garbage
        digits = struct.unpack(f"<{count}I", self._memory.kept(address + 24, 4 * count))
        value: int = sum(digit << (30 * number) for number, digit in enumerate(digits))
        return -value if negative else value


class CodeReader:
    """Reads code objects of one live process by their addresses."""

    def __init__(self, files: ProcessFiles, runtime: int) -> None:
        self._files, self._known, self._runtime = files, layout(), runtime

    def read(self, address: int) -> tuple[str, str]:
        """Return digest and name of code; empty: no code is there, or it went while it was read.

        Raises:
            Exception: one of ``UNREADABLE``, if what is there is no object.

        """
        before = self._files.read("mem", address, self._known.instructions)
        memory = _Memory(self._files, self._files.mappings())
        walk = _Walk(memory, self._known, self._runtime)
        if walk.kind(address) != "code":
            return "", ""
        digest, places = walk.code(address), self._known.code
        file, name = (memory.word(address + o) for o in (places[3] + WORD, places[5]))
        line = int.from_bytes(memory.octets(address + self._known.numbers[5], 4), "little")
        named = f"{walk.string(file)[-60:]}:{walk.string(name)[:60]}:{line}"
        again = self._files.read("mem", address, self._known.instructions)
        same = all(before[o : o + WORD] == again[o : o + WORD] for o in (WORD, 16, *places))
        # Memory that was given back begins with a pointer, where an object counts its references.
        alive = 0 < _ONE.unpack_from(again)[0] < 1 << 32
        return (digest, ascii(named)[1:-1]) if same and alive else ("", "")


_INHERITED = ("module", "property", "staticmethod", "classmethod", "builtin_function_or_method")
_NATIVE = {
    "builtin_function_or_method": ((16, 8),),
    "method_descriptor": ((40, 8),),
    "classmethod_descriptor": ((40, 8),),
    "wrapper_descriptor": ((48,),),
    "getset_descriptor": ((40, 8), (40, 16)),
}
"""By kind: offsets of pointers that lead to native functions."""
_INNER = {
    "method": (("__func__", 16),),
    "staticmethod": (("__func__", 16),),
    "classmethod": (("__func__", 16),),
    "property": (("fget", 16), ("fset", 24), ("fdel", 32)),
    "partial": (("func", 16),),
    "lru": (("__wrapped__", 0),),
}
"""By kind: names and offsets of what it calls; 0: as the layout says."""
_BY_NAME = {"functools.partial": "partial", "functools._lru_cache_wrapper": "lru"}
_SINGLETONS = {"None": None, "True": True, "False": False, "Ellipsis": ...}
_DATA = frozenset(
    {"", "dict", "tuple", "str", "bytes", "int", "float", "complex", "frozenset", "code", "cell"}
)
"""Kinds of objects that are not measured where a name leads to them."""


class PythonObjects:
    """Measures the Python part of one live process, look after look."""

    def __init__(self, files: ProcessFiles, maps: tuple[Mapping, ...]) -> None:
        """Find the interpreter of a process.

        Args:
            files: of the process.
            maps: its mappings.

        Raises:
            MeasurementError: if it is another build of CPython than ours, or one that is not
                understood.

        """
        self._runtime = runtime_of(maps)
        self._files = files
        self._layout = layout()
        self._snapshot: _Snapshot | None = None
        self.details: dict[str, PythonDetail] = {}
        """Parts of all modules, as of the last look."""
        self._modules: dict[str, PythonModule] = {}
        self._first: dict[str, PythonModule] | None = None
        self._looks = 0

    def look(
        self, wanted: Collection[str] = (), reference: ReferenceValues | None = None
    ) -> tuple[dict[str, PythonModule], dict[str, PythonDetail]]:
        """Measure all modules.

        Args:
            wanted: modules whose parts are returned whatever they hold.
            reference: what should be found; None: what the first look found.

        Returns:
            Digests by module, and the parts of the modules that are not as they should be.

        Raises:
            MeasurementError: if the memory cannot be read, or changes faster than it is walked.

        """
        self._looks += 1
        if self._looks >= WALKS_EVERY:
            self._snapshot, self._looks = None, 0
        if self._snapshot is None or not self._unchanged():
            self._walk()
        if self._first is None:
            self._first = self._modules
        named = {
            n for n, m in self._modules.items() if n in wanted or self._differs(n, m, reference)
        }
        return self._modules, {name: self.details[name] for name in named}

    def _differs(self, name: str, module: PythonModule, reference: ReferenceValues | None) -> bool:
        if reference is not None:
            known = (reference.modules or {}).get(name)
            return known is None or module not in known.seen
        return self._first is not None and self._first.get(name) != module

    def _walk(self) -> None:
        for _ in range(ATTEMPTS):
            before, self._snapshot = self._snapshot, None
            lasting = None if before is None else before.lasting
            memory = _Memory(self._files, self._files.mappings(), lasting)
            try:
                details = _Walk(memory, self._layout, self._runtime).modules()
                if before is not None and not before.lasts(memory):
                    continue
                self._snapshot = _Snapshot(memory, self._layout)
            except UNREADABLE:
                continue
            if self._unchanged():
                self.details = details
                self._modules = {name: detail.digests() for name, detail in details.items()}
                return
        self._snapshot = None
        raise MeasurementError(f"its Python objects changed during {ATTEMPTS} walks in a row")

    def _unchanged(self) -> bool:
        assert self._snapshot is not None
        return self._snapshot.unchanged(self._files, self._is_data)

    def _is_data(self, address: int) -> bool:
        fresh = _Memory(self._files, self._files.mappings())
        try:
            return _Walk(fresh, self._layout, self._runtime).kind(address) in _DATA
        except UNREADABLE:
            return False
