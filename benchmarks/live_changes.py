"""One-change compromises of a live Python process, made by another one that writes its memory.

The process tells, through a hole of its own, where its functions, classes and dictionaries stand;
all else is done from outside, word by word, as a debugger does it. What takes new objects goes
through the hole. Every change can be undone, and changes one thing alone.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from msgspec import Struct

from live_targets import Agent
from phalanx.trust.processes import ProcessFiles
from phalanx.trust.python_layout import layout

TARGET = """
import select, sys
import phalanx.cli.agent, phalanx.runtime.processes.agent
from phalanx.trust.processes import ProgressCounter

def run():
    counter, space = ProgressCounter(), {}
    print("ready", flush=True)
    while True:
        counter.turn()
        if select.select([sys.stdin], [], [], 0.02)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            exec(line, space)
            print("done", flush=True)

run()
"""
"""Imports what an agent imports, waits, and does what the one that holds its hole says."""

PLACES = r'''
import builtins, dis, functools, json, sys, types

def told(path):
    """Write where everything stands that is going to be changed."""
    used = ("__main__", "phalanx.trust.processes", "codecs", "encodings", "io", "abc", "threading",
            "importlib", "_frozen", "os", "posixpath", "types", "typing", "functools", "signal",
            "weakref", "_weakrefset", "gc", "json", "dis", "opcode", "collections", "site",
            "zipimport")
    kept = pool = [987654321987, "not what it was", 2.718281, (1, 2, 3, "x"), {"z": 1}]
    sys.kept_pool = kept
    functions, classes, modules, others = [], [], [], []

    def function(module, owner, key, f, at):
        c = f.__code__
        functions.append({
            "module": module, "name": f"{module}.{f.__qualname__}", "function": id(f),
            "code": id(c), "consts": [id(c.co_consts), len(c.co_consts)],
            "names": [id(c.co_names), len(c.co_names)], "free": len(c.co_freevars),
            "defaults": [id(f.__defaults__), len(f.__defaults__)] if f.__defaults__ else None,
            "keywords": [[id(f.__kwdefaults__), id(k)] for k in f.__kwdefaults__ or ()],
            "cells": [id(x) for x in f.__closure__ or () if filled(x)],
            "units": [i.offset for i in dis.get_instructions(c)],
            "slot": [at, id(owner), id(key)], "same": c.co_code.hex()[:64]})

    def filled(cell):
        try:
            return isinstance(cell.cell_contents, types.FunctionType)
        except ValueError:
            return False

    for name, module in sorted(sys.modules.items()):
        if not isinstance(module, types.ModuleType) or name.startswith(used):
            continue
        if getattr(module, "__name__", "") != name:
            continue
        modules.append({"name": name, "module": id(module), "key": id(next(
            k for k in sys.modules if k == name))})
        for key, value in list(vars(module).items()):
            if isinstance(value, types.FunctionType) and value.__module__ == name:
                function(name, vars(module), key, value, "dict")
            elif isinstance(value, functools._lru_cache_wrapper):
                others.append(["wrapper", name, key, id(value), "lru"])
            elif isinstance(value, functools.partial):
                others.append(["wrapper", name, key, id(value), "partial"])
            elif isinstance(value, types.BuiltinFunctionType) and value.__module__ == name:
                others.append(["native", name, key, id(value), ""])
            if isinstance(value, type) and value.__module__ == name and value.__flags__ & 512:
                classes.append({"module": name, "name": f"{name}.{key}", "class": id(value),
                    "mro": [id(value.__mro__), len(value.__mro__)]})
                for inner, member in list(vars(value).items()):
                    where = f"{key}.{inner}"
                    if isinstance(member, types.FunctionType) and member.__module__ == name:
                        function(name, value, inner, member, "class")
                    elif isinstance(member, property) and member.fget:
                        others.append(["property", name, where, id(member), ""])
                    elif isinstance(member, (staticmethod, classmethod)):
                        others.append(["method", name, where, id(member), ""])
    spare = [[id(vars(builtins)), id(k)] for k in vars(builtins)
             if k in ("hash", "divmod", "oct", "ascii", "chr", "bin", "hex", "vars", "sum", "pow")]
    with open(path, "w") as file:
        json.dump({"functions": functions, "classes": classes, "modules": modules,
            "others": others, "builtins": spare, "listed": id(sys.modules),
            "pool": [id(x) for x in pool], "space": id(vars(json)),
            "native": [id(f) for f in (len, ord, abs, any)]}, file)
'''

CODE, DEFAULTS, KEYWORDS, SPACE, BUILTINS = 48, 56, 64, 16, 24
"""Where a function holds what it is made of: what the walk of a measurer reads, too."""


class Change(Struct):
    """One compromise: what it changes, and how it is made and undone."""

    kind: str
    where: str
    """Name in the process, or of a file or mapping."""
    make: Callable[[], None]
    undo: Callable[[], None]
    by: str = "memory"


class PythonChanges:
    """Draws compromises of one live process, and makes them."""

    def __init__(self, agent: Agent, folder: Path, random: Random) -> None:
        self.agent, self._random = agent, random
        self._files = ProcessFiles(agent.process.pid)
        self._memory = os.open(f"/proc/{agent.process.pid}/mem", os.O_RDWR)
        self._layout = layout()
        agent.exploit(f"exec({PLACES!r})")
        agent.exploit(f"told({str(folder / 'places.json')!r})")
        self._places: dict[str, Any] = json.loads((folder / "places.json").read_text())
        self._functions: list[dict[str, Any]] = self._places["functions"]
        self.kinds: dict[str, Callable[[], Change | None]] = {
            "code exchanged": self._code,
            "instruction": self._instruction,
            "constant": self._constant,
            "name used by code": self._name,
            "default": self._default,
            "keyword default": self._keyword,
            "cell of a closure": self._cell,
            "binding": self._binding,
            "binding removed": self._removed,
            "binding added": self._added,
            "builtin": self._builtin,
            "builtins of a function": self._of_builtins,
            "globals of a function": self._globals,
            "native function": self._native,
            "entry of a function": self._entry,
            "property": lambda: self._inner("property", 16),
            "static or class method": lambda: self._inner("method", 16),
            "cache or partial": self._wrapper,
            "base class": self._base,
            "module exchanged": self._module,
            "module added": self._injected,
        }

    def close(self) -> None:
        """Close the memory of the process."""
        os.close(self._memory)
        self._files.close()

    def draw(self, kind: str) -> Change:
        """Return a compromise of a kind, at a random place."""
        for _ in range(10_000):
            change = self.kinds[kind]()
            if change is not None:
                return change
        raise LookupError(kind)

    # -- memory --------------------------------------------------------------------------

    def _read(self, address: int) -> int:
        return int.from_bytes(os.pread(self._memory, 8, address), "little")

    def _write(self, address: int, word: int) -> None:
        os.pwrite(self._memory, word.to_bytes(8, "little"), address)

    def _pointer(self, kind: str, where: str, slot: int, new: int) -> Change | None:
        """Return the exchange of a pointer to one object for one to another; 0 for none."""
        old = self._read(slot)
        if new == old or (not old and new == 0):
            return None

        def put(to: int) -> None:
            if to == new and new:
                self._write(new, self._read(new) + 1)  # it is held once more
            self._write(slot, to)
            if to == old and new:
                self._write(new, self._read(new) - 1)

        return Change(kind, where, lambda: put(new), lambda: put(old))

    def _slot(self, dictionary: int, key: int) -> int | None:
        """Return where a dictionary holds the value of a key; None: it holds it otherwise."""
        keys, values = self._read(dictionary + 32), self._read(dictionary + 40)
        if values:
            return None
        size, octets = os.pread(self._memory, 2, keys + 8)
        octets_of_all = os.pread(self._memory, (1 << size) * 24, keys + 32 + (1 << octets))
        at = octets_of_all.find(struct.pack("<Q", key))
        return None if at < 0 or at % 8 else keys + 32 + (1 << octets) + at + 8

    def _dictionary(self, at: str, owner: int) -> int:
        return self._read(owner + self._layout.type_dict) if at == "class" else owner

    def _function(self) -> dict[str, Any]:
        return self._random.choice(self._functions)

    def _other(self, than: dict[str, Any]) -> dict[str, Any]:
        while True:
            other = self._function()
            if other["same"] != than["same"] and other["name"] != than["name"]:
                return other

    # -- kinds ---------------------------------------------------------------------------

    def _code(self) -> Change | None:
        f = self._function()
        new = self._other(f)["code"]
        return self._pointer("code exchanged", f["name"], f["function"] + CODE, new)

    def _instruction(self) -> Change | None:
        f = self._function()
        at = f["code"] + self._layout.instructions + self._random.choice(f["units"])
        at += self._random.random() < 0.5  # the operation, or its argument
        old = os.pread(self._memory, 1, at)
        new = bytes([self._random.choice([n for n in (9, 83, 100, 124, 1) if n != old[0]])])
        return Change(
            "instruction",
            f["name"],
            lambda: void(os.pwrite(self._memory, new, at)),
            lambda: void(os.pwrite(self._memory, old, at)),
        )

    def _item(
        self, kind: str, where: str, place: list[int] | None, first: int = 0
    ) -> Change | None:
        if place is None or place[1] <= first:
            return None
        at = place[0] + self._layout.tuple_items + 8 * self._random.randrange(first, place[1])
        return self._pointer(kind, where, at, self._random.choice(self._places["pool"][:4]))

    def _constant(self) -> Change | None:
        f = self._function()
        return self._item("constant", f["name"], f["consts"])

    def _name(self) -> Change | None:
        f = self._function()
        if not f["names"][1]:
            return None
        at = f["names"][0] + self._layout.tuple_items + 8 * self._random.randrange(f["names"][1])
        return self._pointer("name used by code", f["name"], at, self._places["pool"][1])

    def _default(self) -> Change | None:
        f = self._function()
        if f["defaults"] is None or self._random.random() < 0.3:
            new = self._places["pool"][3]
            return self._pointer("default", f["name"], f["function"] + DEFAULTS, new)
        return self._item("default", f["name"], f["defaults"])

    def _keyword(self) -> Change | None:
        f = self._function()
        if not f["keywords"]:
            return None
        slot = self._slot(*self._random.choice(f["keywords"]))
        new = self._random.choice(self._places["pool"][:4])
        return None if slot is None else self._pointer("keyword default", f["name"], slot, new)

    def _cell(self) -> Change | None:
        f = self._function()
        if not f["cells"]:
            return None
        at = self._random.choice(f["cells"]) + 16
        return self._pointer("cell of a closure", f["name"], at, self._other(f)["function"])

    def _bound(self, kind: str, new: Callable[[dict[str, Any]], int]) -> Change | None:
        f = self._function()
        at, owner, key = f["slot"]
        slot = self._slot(self._dictionary(at, owner), key)
        return None if slot is None else self._pointer(kind, f["name"], slot, new(f))

    def _binding(self) -> Change | None:
        return self._bound("binding", lambda f: int(self._other(f)["function"]))

    def _removed(self) -> Change | None:
        return self._bound("binding removed", lambda _: 0)

    def _ordered(self, kind: str, where: str, make: str, undo: str) -> Change:
        return Change(
            kind,
            where,
            lambda: self.agent.exploit(make),
            lambda: self.agent.exploit(undo),
            "its own code",
        )

    def _added(self) -> Change | None:
        name = self._random.choice(self._places["modules"])["name"]
        module, added = (
            f"__import__('sys').modules[{name!r}]",
            self._random.choice(
                ["lambda *a, **k: None", "type('Other', (), {'f': lambda s: 1})", "print", "len"]
            ),
        )
        make, undo = f"{module}.{ADDED} = {added}", f"del {module}.{ADDED}"
        return self._ordered("binding added", f"{name}.{ADDED}", make, undo)

    def _builtin(self) -> Change | None:
        slot = self._slot(*self._random.choice(self._places["builtins"]))
        native, f = self._random.choice(self._places["native"]), self._function()["function"]
        new = native if self._random.random() < 0.5 else f
        return None if slot is None else self._pointer("builtin", "builtins.", slot, new)

    def _of_builtins(self) -> Change | None:
        f = self._function()
        new = self._places["space"]
        return self._pointer("builtins of a function", f["name"], f["function"] + BUILTINS, new)

    def _globals(self) -> Change | None:
        f = self._function()
        new = self._places["space"]
        return self._pointer("globals of a function", f["name"], f["function"] + SPACE, new)

    def _native(self) -> Change | None:
        natives = [o for o in self._places["others"] if o[0] == "native"]
        one, other = self._random.sample(natives, 2)
        old, new = self._read(one[3] + 16), self._read(other[3] + 16)
        if old == new:
            return None
        slot = one[3] + 16
        return Change(
            "native function",
            f"{one[1]}.{one[2]}",
            lambda: self._write(slot, new),
            lambda: self._write(slot, old),
        )

    def _entry(self) -> Change | None:
        f = self._function()
        slot = f["function"] + self._layout.vectorcall
        old, new = self._read(slot), self._read(self._read(self._places["native"][0] + 16) + 8)
        return Change(
            "entry of a function",
            f["name"],
            lambda: self._write(slot, new),
            lambda: self._write(slot, old),
        )

    def _inner(self, kind: str, offset: int) -> Change | None:
        of = "property" if kind == "property" else "method"
        one = self._random.choice([o for o in self._places["others"] if o[0] == of])
        told = "property" if kind == "property" else "static or class method"
        new = self._function()["function"]
        return self._pointer(told, f"{one[1]}.{one[2]}", one[3] + offset, new)

    def _wrapper(self) -> Change | None:
        one = self._random.choice([o for o in self._places["others"] if o[0] == "wrapper"])
        offset = self._layout.lru_function if one[4] == "lru" else 16
        new = self._function()["function"]
        return self._pointer("cache or partial", f"{one[1]}.{one[2]}", one[3] + offset, new)

    def _base(self) -> Change | None:
        one, other = self._random.sample(self._places["classes"], 2)
        count = one["mro"][1]
        at = one["mro"][0] + self._layout.tuple_items + 8 * self._random.randrange(1, count)
        return self._pointer("base class", one["name"], at, other["class"])

    def _module(self) -> Change | None:
        one, other = self._random.sample(self._places["modules"], 2)
        slot = self._slot(self._places["listed"], one["key"])
        if slot is None:
            return None
        return self._pointer("module exchanged", one["name"], slot, other["module"])

    def _injected(self) -> Change | None:
        name = f"{self._random.choice(self._places['modules'])['name']}.{ADDED}"
        listed = "__import__('sys').modules"
        make = f"{listed}[{name!r}] = type(__import__('sys'))({name!r})"
        return self._ordered("module added", name, make, f"del {listed}[{name!r}]")


ADDED = "another_one"


def void(_: object) -> None:
    """Return nothing."""
