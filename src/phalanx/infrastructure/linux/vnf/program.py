"""The program that an image starts."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

from .http import serve
from .nft import NftError
from .server import ROLES, Server

_USAGE = "--role ROLE --socket PATH --table phx_<8 hexadecimal digits>"
_OPTIONS = ("--role", "--socket", "--table")


def main(arguments: list[str], role: str | None = None, version: str = "0") -> int:
    """Serve until SIGTERM, then remove everything and exit.

    Returns:
        The exit code if it could not begin; why stands on standard error.

    Args:
        arguments: of the command line; argparse would cost 10 ms.
        role: the only role that the image has; None: any.
        version: of the image.

    """
    given = dict(zip(arguments[::2], arguments[1::2], strict=False))
    if len(arguments) != 2 * len(_OPTIONS) or set(given) != set(_OPTIONS):
        return _fail(f"usage: {_USAGE}")
    asked, table, path = given["--role"], given["--table"], Path(given["--socket"])
    if asked not in ((role,) if role else ROLES):
        return _fail(f"--role: {asked!r} is not in this image; allowed: {role or ', '.join(ROLES)}")
    digits = table.removeprefix("phx_")
    if digits == table or len(digits) != 8 or not set("0123456789abcdef").issuperset(digits):
        return _fail(f"--table: {table!r} is not phx_ and 8 hexadecimal digits")
    signal.signal(signal.SIGTERM, _stop)
    try:
        server = Server(asked, version, table)
        listener = _listen(path)
    except (NftError, OSError) as error:
        return _fail(str(error))
    try:
        with listener:
            serve(listener, server.handle)
    finally:  # SystemExit
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        path.unlink(missing_ok=True)
        server.close()


def _listen(path: Path) -> socket.socket:
    """Listen on a Unix socket that only the owner may use."""
    path.unlink(missing_ok=True)  # an earlier process was killed
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(64)
    return listener


def _stop(*_: object) -> None:
    raise SystemExit(0)


def _fail(reason: str) -> int:
    sys.stderr.write(f"{reason}\n")
    return 2
