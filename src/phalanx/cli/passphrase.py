"""The passphrase of a domain's authority: from a file, or asked where nobody sees it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from getpass import getpass
from pathlib import Path

from phalanx.domain.errors import PhalanxError

VARIABLE = "PHALANX_PASSPHRASE_FILE"
"""As ``identity.credentials``, which takes time to import."""


def asking(file: Path | None) -> Callable[[], bytes]:
    """Return what asks for the passphrase of the authority's key.

    Args:
        file: holds it; None: the terminal is asked.

    """
    return lambda: _read(file) if file is not None else _ask("passphrase of the authority's key: ")


def new_passphrase(file: Path | None) -> bytes:
    """Return a new passphrase: that of ``file``, or what was typed twice.

    Raises:
        PhalanxError: if the file is not usable, there is no terminal, what was typed differs, or
            it is too short.

    """
    from phalanx.identity.credentials import check_passphrase  # noqa: PLC0415

    if file is not None:
        return _read(file)
    passphrase = _ask("new passphrase of the authority's key: ")
    check_passphrase(passphrase)
    if _ask("once more: ") != passphrase:
        raise PhalanxError("the two passphrases differ")
    return passphrase


def _read(file: Path) -> bytes:
    from phalanx.identity.credentials import read_passphrase  # noqa: PLC0415

    return read_passphrase(file)


def _ask(what: str) -> bytes:
    if not sys.stdin.isatty():
        raise PhalanxError(
            "the passphrase of the authority's key is asked on a terminal, and there is none; "
            f"name a file that holds it: --passphrase-file or {VARIABLE}"
        )
    try:
        return getpass(what).encode()
    except (EOFError, KeyboardInterrupt):
        raise PhalanxError("no passphrase was given") from None
