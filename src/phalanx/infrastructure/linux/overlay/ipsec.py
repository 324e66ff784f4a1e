"""One IKE daemon (strongSwan's charon) in each PoP's namespace, and the ESP that it drives."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import vici
from vici.exception import CommandException

from phalanx.infrastructure.linux.kernel.namespaces import prefix
from phalanx.infrastructure.linux.overlay.errors import OverlayError

DAEMONS = (Path("/usr/lib/ipsec/charon"), Path("/usr/libexec/ipsec/charon"))
"""Where distributions put the daemon."""

_START_S = 10.0
_STOP_S = 2.0
_CONFIGURATION = Path("/etc/strongswan.conf")
_SOCKET = "charon.vici"

# The first of two plugins that offer the same is used. The software gcm stays out: ten times
# slower than aesni's and openssl's. Fewer threads than 16 have been seen to block each other.
_SETTINGS = """charon {{
  load = aesni openssl random nonce kdf {engine} socket-default vici
  threads = 16
  retransmit_tries = 4
  retransmit_timeout = 1.0
  retransmit_base = 1.5
  filelog {{
    log {{
      path = /run/charon.log
      default = 0
      ike_name = yes
    }}
  }}
}}
"""


class Engine(Enum):
    """What encrypts; the value says why."""

    KERNEL = "ESP of the kernel (XFRM)"
    USER_SPACE = "ESP of strongSwan in user space (kernel-libipsec): the kernel has none"


_PLUGINS = {Engine.KERNEL: "kernel-netlink", Engine.USER_SPACE: "kernel-libipsec kernel-netlink"}


def missing() -> str | None:
    """Return one line on what has to be installed before IPsec can work here, if anything."""
    if _daemon() is None:
        return "charon is missing: install strongSwan (Debian: strongswan-charon)"
    tools = [tool for tool in ("ip", "nsenter", "unshare") if not shutil.which(tool)]
    if tools:
        return f"missing: {', '.join(tools)}"
    return None


def probe(namespace: str) -> Engine:
    """Return what can encrypt here, found by adding an association to the kernel and removing it.

    Args:
        namespace: where to try; nothing is left in it.

    """
    name = ["src", "127.0.0.1", "dst", "127.0.0.1", "proto", "esp", "spi", "0x100"]
    key = "0x" + "00" * 20  # protects nothing: the association is gone before anything is sent
    transform = ["mode", "tunnel", "aead", "rfc4106(gcm(aes))", key, "128"]
    state = [*prefix(namespace), "ip", "xfrm", "state"]
    if _run([*state, "add", *name, *transform]):
        return Engine.USER_SPACE
    _run([*state, "delete", *name])
    return Engine.KERNEL


class Daemon:
    """A charon in a namespace, with a /run and a configuration of its own. Methods block.

    Args:
        folder: for its socket and its log; readable by its owner only.
        namespace: where it runs.
        run: the mark of this run, which stands in its environment.

    """

    def __init__(self, folder: Path, namespace: str, run: str) -> None:
        self._folder = folder
        self._namespace = namespace
        self._run = run
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process; None while it does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    def start(self, engine: Engine) -> int:
        """Start the process, wait until it answers, and return its id.

        Raises:
            OverlayError: if it is not installed, or dies, or does not answer within 10 s.

        """
        if lack := missing():
            raise OverlayError(lack)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings = self._folder / "strongswan.conf"
        settings.write_text(_SETTINGS.format(engine=_PLUGINS[engine]), encoding="utf-8")
        for left in (_SOCKET, "charon.pid"):
            (self._folder / left).unlink(missing_ok=True)
        # charon's paths are compiled in: it finds its own files at them in a private view.
        view = f'mount --bind "$1" {_CONFIGURATION} && mount --bind "$2" /run && exec {_daemon()}'
        self._process = subprocess.Popen(  # noqa: S603
            [*prefix(self._namespace), *_PRIVATE, view, "charon", settings, self._folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PHALANX_RUN": self._run},
            start_new_session=True,
        )
        self._await()
        return self._process.pid

    @contextmanager
    def session(self, patience_s: float = 10.0) -> Iterator[Any]:
        """Speak with the daemon over a connection of its own, so that no one waits for another.

        Args:
            patience_s: how long to wait for each answer.

        Raises:
            OverlayError: if it does not answer or refuses a command.

        """
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(patience_s)
            try:
                self._connect(channel, patience_s)
                yield vici.Session(channel)
            except OSError as error:
                raise OverlayError(f"charon in {self._namespace} does not answer") from error
            except CommandException as error:
                raise OverlayError(f"charon in {self._namespace}: {error}") from error

    def stop(self) -> None:
        """End the process, by force if it has to be; idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _connect(self, channel: socket.socket, patience_s: float) -> None:
        """Connect; where many do at once, a Unix socket refuses instead of letting wait."""
        end = time.monotonic() + patience_s
        while True:
            try:
                channel.connect(str(self._folder / _SOCKET))
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.005)
            else:
                return

    def _await(self) -> None:
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            if self.pid is None:
                raise OverlayError(
                    f"charon in {self._namespace} ended at once; {self._folder}/charon.log says why"
                )
            try:
                with self.session() as session:
                    session.version()
            except OverlayError:
                time.sleep(0.01)
            else:
                return
        self.stop()
        raise OverlayError(f"charon in {self._namespace} does not answer within {_START_S:.0f} s")


_PRIVATE = ["unshare", "--mount", "--propagation", "slave", "sh", "-c"]


def _daemon() -> Path | None:
    return next((path for path in DAEMONS if path.exists()), None)


def _run(command: list[str]) -> int:
    return subprocess.run(command, capture_output=True, check=False).returncode  # noqa: S603
