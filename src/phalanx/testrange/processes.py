"""Programs in namespaces, and the one that is protected: nginx, as small as a small server.

Each process carries the mark of its run, and has all that it starts in a session of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import string
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO

from phalanx.infrastructure.linux import image_server
from phalanx.infrastructure.linux.kernel import KernelError, runs
from phalanx.infrastructure.linux.kernel.namespaces import entered, prefix
from phalanx.infrastructure.linux.repository import PORT
from phalanx.testrange.exporter import LOG_FORMAT

_END_S = 2.0
"""What was asked to end is killed after this long, in seconds."""
_POLL_S = 0.01
PAGE_OCTETS = 2048
"""Size of the page that HTTP users read."""

_STREAM_OCTETS = 64_000_000
_START_S = 5.0

_NGINX = Path(__file__).with_name("nginx")
_BURST_S = 0.1
"""Requests of so many seconds may come at once."""


class NamespaceProcess:
    """A program in a namespace.

    Args:
        words: the program's path and its arguments.
        run: mark of the run; ``PHALANX_RUN`` in its environment.
        namespace: network namespace that it lives in; None: that of the caller.
        complaints: file for what it writes to standard error.
        piped: whether its standard input and output are pipes to the caller; otherwise
            they are ``/dev/null``.

    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        run: str,
        namespace: str | None,
        complaints: Path,
        piped: bool = False,
    ) -> None:
        self.words = tuple(words)
        self._complaints = complaints
        stream = subprocess.PIPE if piped else subprocess.DEVNULL
        with complaints.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603
                [*(prefix(namespace) if namespace else ()), *words],
                stdin=stream,
                stdout=stream,
                stderr=errors,
                env={"PATH": os.environ.get("PATH", os.defpath), runs.VARIABLE: run},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id; also that of its session."""
        return self._process.pid

    @property
    def input(self) -> IO[bytes]:
        """Its standard input, if that is a pipe."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def output(self) -> IO[bytes]:
        """Its standard output, if that is a pipe."""
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None

    def complaint(self) -> str:
        """Return the last line that it wrote to standard error, or how it ended."""
        lines = self._complaints.read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return last or f"it ended with status {self._process.poll()}"

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to it and to all that it started."""
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def close(self) -> None:
        """Close the pipes."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def end(processes: Iterable[NamespaceProcess]) -> None:
    """End all of them: politely, and after two seconds with force. Blocks until they are gone."""
    left = list(processes)
    for process in left:
        process.signal()
        process.close()
    deadline = time.monotonic() + _END_S
    while left := [process for process in left if not process.ended]:
        if time.monotonic() > deadline:
            for process in left:
                process.signal(signal.SIGKILL)
        time.sleep(_POLL_S)


def serve_images(run: str, namespace: str, address: str, folder: Path) -> NamespaceProcess:
    """Start the VNF repository: a web server for the images in ``folder``.

    Raises:
        KernelError: if it does not start.

    """
    words = [sys.executable, "-m", image_server.__name__, address, str(PORT), str(folder)]
    complaints = folder.with_suffix(".stderr")
    server = NamespaceProcess(
        words, run=run, namespace=namespace, complaints=complaints, piped=True
    )
    if server.output.readline() != b"ready\n":
        end([server])
        raise KernelError(f"the VNF repository does not start: {server.complaint()}")
    return server


class _Template(string.Template):
    delimiter = "@"


def filled(template: Path, **values: object) -> str:
    """Return the text of a file in which ``@name`` stands for a value."""
    return _Template(template.read_text(encoding="utf-8").rstrip()).substitute(values)


def configuration(address: str, ports: Iterable[int], requests_s: float | None = None) -> str:
    """Return nginx's configuration for a server that listens at ``address``.

    ``/`` is a page of ``PAGE_OCTETS``; ``/stream?rate=N`` brings N octets a second. Of more than
    ``requests_s`` the rest is answered with 503, at once, and all are logged; None: any number.
    """
    listen = "\n".join(f"        listen {address}:{port};" for port in sorted(set(ports)))
    metrics = "    access_log off;"
    if requests_s is not None:
        rate, burst = max(1, round(requests_s)), max(1, round(requests_s * _BURST_S))
        metrics = filled(_NGINX / "measured.conf", log=LOG_FORMAT, rate=rate, burst=burst)
    return filled(_NGINX / "server.conf", listen=listen, metrics=metrics)


def start_nginx(
    run: str, namespace: str | None, configuration: str, folder: Path
) -> NamespaceProcess:
    """Start nginx with a configuration, whose paths are relative to ``folder``.

    Raises:
        KernelError: if there is no nginx on this machine.

    """
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None:
        raise KernelError("no nginx here: install it (Debian: apt install nginx-light)")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nginx.conf").write_text(configuration)
    words = [program, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"]
    return NamespaceProcess(words, run=run, namespace=namespace, complaints=folder / "stderr")


class NginxServer:
    """One nginx in the namespace of a host, or of a PoP; ``requests_s`` as ``configuration`` says.

    Raises:
        KernelError: if there is no nginx on this machine.

    """

    def __init__(
        self,
        run: str,
        namespace: str,
        address: str,
        ports: Iterable[int],
        folder: Path,
        requests_s: float | None = None,
    ) -> None:
        self._namespace = namespace
        self._address = address
        self._ports = sorted(set(ports))
        pages = folder / "pages"
        pages.mkdir(parents=True)
        line = "All is well; this line is repeated until the page is full.\n"
        (pages / "index.html").write_text((line * PAGE_OCTETS)[:PAGE_OCTETS])
        with (pages / "stream").open("wb") as stream:
            stream.truncate(_STREAM_OCTETS)
        text = configuration(address, self._ports, requests_s)
        self.process = start_nginx(run, namespace, text, folder)

    def wait(self) -> None:
        """Wait until it answers on every port.

        Raises:
            KernelError: if it does not within five seconds.

        """
        for port in self._ports:
            wait_for_page(self.process, self._namespace, self._address, port, "/")


def wait_for_page(
    process: NamespaceProcess, namespace: str | None, address: str, port: int, path: str
) -> None:
    """Wait until a server brings a page; blocking.

    Raises:
        KernelError: if it does not within five seconds.

    """
    deadline = time.monotonic() + _START_S
    with contextlib.nullcontext() if namespace is None else entered(namespace):
        while (wrong := _missing(address, port, path)) != "":
            if process.ended:
                raise KernelError(f"nginx does not start: {process.complaint()}")
            if time.monotonic() > deadline:
                raise KernelError(f"nginx at {address}:{port}: {wrong}")
            time.sleep(_POLL_S)


def _missing(address: str, port: int, path: str) -> str:
    """Return what is wrong with a page, nothing if it is right."""
    connection = HTTPConnection(address, port, timeout=1)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
    except (OSError, HTTPException) as error:
        return str(error)
    finally:
        connection.close()
    return "" if answer.status == 200 else f"status {answer.status}"
