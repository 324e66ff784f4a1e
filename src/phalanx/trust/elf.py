"""ELF files: the digest of their program text, and the rewriting of a program to be hardened.

The rewriting runs as a process of its own, ``python -m phalanx.trust.elf``: it parses files that
may be broken, with native code.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
from hashlib import sha256
from typing import Any

from phalanx.trust.measurement import MeasurementError

PAGE = os.sysconf("SC_PAGE_SIZE")
SECTION = ".phalanx"
_MOST_OCTETS, _MOST_S = 1 << 30, 60


def text_digest(path: str) -> str:
    """Return the digest that the executable segments of an ELF file will have in memory.

    Raises:
        MeasurementError: if it cannot be read, or is no ELF file of 64 bits.

    """
    digest, octets = sha256(), _elf(path)
    for offset, size, permissions in _segments(octets):
        begin = offset - offset % PAGE
        end = -(-(offset + size) // PAGE) * PAGE
        digest.update(place(begin, end - begin, permissions))
        digest.update(octets[begin:end].ljust(end - begin, b"\0"))
    return digest.hexdigest()


def program_text(path: str) -> bytes:
    """Return the executable segments of an ELF file, wherever in the file they stand.

    Raises:
        MeasurementError: as ``text_digest``.

    """
    octets = _elf(path)
    return b"".join(octets[offset : offset + size] for offset, size, _ in _segments(octets))


def place(offset: int, length: int, permissions: str) -> bytes:
    """Return what stands before an executable segment in a digest."""
    return f"{offset:x} {length:x} {permissions}\n".encode()


def rewrite(source: str, program: str, library: str, named: str) -> list[tuple[str, bool, str]]:
    """Write a program with the flags that can be set afterwards, a library and a section.

    Args:
        source: the program.
        program: file to write.
        library: that it will load, from its own folder; empty: none.
        named: what the section will hold.

    Returns:
        What was looked for, whether it was there, and what was or can be done otherwise.

    """
    import lief  # noqa: PLC0415  # an extra

    lief.logging.disable()
    elf: Any = lief.ELF
    binary, tags, flags = elf.parse(source), elf.DynamicEntry.TAG, elf.DynamicEntryFlags
    if binary is None or not binary.has(elf.Segment.TYPE.INTERP):
        raise ValueError
    names = {symbol.name for symbol in binary.imported_symbols}
    now = binary.get(tags.FLAGS_1)
    found = [
        ("PIE", binary.is_pie, "needs a compiler"),
        ("NX stack", binary.has_nx, "set"),
        ("RELRO", binary.has(elf.Segment.TYPE.GNU_RELRO), "needs a linker"),
        ("BIND_NOW", now is not None and now.has(flags.FLAG.NOW), "set"),
        ("stack canary", "__stack_chk_fail" in names, "needs a compiler"),
        ("fortify", any(name.endswith("_chk") for name in names), "needs a compiler"),
    ]
    if now is not None:
        now.add(flags.FLAG.NOW)
    else:
        binary.add(elf.DynamicEntry(tags.FLAGS_1, 1))  # DF_1_NOW
    for segment in binary.segments:
        if segment.type == elf.Segment.TYPE.GNU_STACK:
            segment.flags = elf.Segment.FLAGS.R | elf.Segment.FLAGS.W
    if library:
        binary.add_library(library)
        binary.add(elf.DynamicEntryRunPath("$ORIGIN"))
    section = elf.Section(SECTION)
    section.content = list(named.encode())
    binary.add(section, loaded=False)
    config = elf.Builder.config_t()
    config.notes = True  # else its build ID is lost
    builder = elf.Builder(binary, config)
    builder.build()
    builder.write(program)
    return found


def _elf(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # a path as maps has it
            return file.read()
    except (OSError, ValueError) as error:
        raise MeasurementError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _segments(octets: bytes) -> list[tuple[int, int, str]]:
    """Return offset, length and permissions of the executable segments of an ELF file."""
    found = []
    try:
        if octets[:6] != b"\x7fELF\x02\x01":
            raise ValueError
        (table,) = struct.unpack_from("<Q", octets, 32)
        size, count = struct.unpack_from("<HH", octets, 54)
        for number in range(count):
            kind, flags, offset = struct.unpack_from("<IIQ", octets, table + number * size)
            (length,) = struct.unpack_from("<Q", octets, table + number * size + 32)
            if kind == 1 and flags & 1:
                bits = zip("rwx", (4, 2, 1), strict=True)
                letters = "".join(letter if flags & bit else "-" for letter, bit in bits)
                found.append((offset, min(length, len(octets)), f"{letters}p"))
    except (struct.error, ValueError, OverflowError):
        raise MeasurementError("not a sound ELF file of 64 bits, little endian") from None
    return sorted(found)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_OCTETS, _MOST_OCTETS))
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_S, _MOST_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps(rewrite(*sys.argv[1:])))
