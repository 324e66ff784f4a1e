"""The list of all certificates that an authority has issued."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from phalanx.identity import files
from phalanx.identity.errors import IdentityError
from phalanx.identity.names import Role

ISSUED_FILE = "issued.json"


class IssuedRecord(Struct, frozen=True):
    """One certificate that was issued."""

    serial: str
    """Hexadecimal: JSON has no numbers that long."""
    name: str
    role: Role
    until: datetime
    key: str = ""
    """``certificates.fingerprint``; unknown where an earlier version issued it."""


def read_issued(folder: Path) -> tuple[IssuedRecord, ...]:
    """Return all certificates that the authority in ``folder`` issued; its key is not needed.

    Raises:
        IdentityError: if the list cannot be read or is damaged.

    """
    path = folder / ISSUED_FILE
    try:
        return msgspec.json.decode(files.read(path), type=tuple[IssuedRecord, ...])
    except msgspec.MsgspecError as error:
        raise IdentityError(f"{path}: is damaged: {error}") from None


def write_issued(folder: Path, records: Iterable[IssuedRecord]) -> None:
    """Write the list of the authority in ``folder``.

    Raises:
        IdentityError: if it cannot be written.

    """
    octets = msgspec.json.format(msgspec.json.encode(tuple(records)), indent=1)
    files.write(folder / ISSUED_FILE, octets + b"\n")
