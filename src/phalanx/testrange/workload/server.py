"""The service that is protected: nginx, as small as a small server."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from phalanx.infrastructure.linux.kernel import KernelError
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.testrange.workload.processes import Process

PAGE_OCTETS = 2048
"""Size of the page that HTTP users read."""

_STREAM_OCTETS = 64_000_000
_START_S = 5.0
_POLL_S = 0.02

# client_header_timeout stays at 60 s: that is what makes slow HTTP hurt. A stream goes out in
# small pieces, since nginx spreads nothing but whole pieces over time.
_CONFIGURATION = """\
user root;
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 808; }}
http {{
    access_log off;
    server_tokens off;
    default_type application/octet-stream;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    sendfile on;
    tcp_nodelay on;
    server {{
{listen}
        root pages;
        location = /stream {{
            limit_rate $arg_rate;
            sendfile_max_chunk 1k;
        }}
    }}
}}
"""


def configuration(address: str, ports: Iterable[int]) -> str:
    """Return nginx's configuration for a server that listens at ``address``.

    ``/`` is a page of ``PAGE_OCTETS``; ``/stream?rate=N`` brings N octets a second.
    """
    listen = "\n".join(f"        listen {address}:{port};" for port in sorted(set(ports)))
    return _CONFIGURATION.format(listen=listen)


class Server:
    """One nginx in the namespace of a host.

    Raises:
        KernelError: if there is no nginx on this machine.

    """

    def __init__(
        self, run: str, namespace: str, address: str, ports: Iterable[int], folder: Path
    ) -> None:
        program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if program is None:
            raise KernelError("no nginx here: install it (Debian: apt install nginx-light)")
        self._namespace = namespace
        self._address = address
        self._ports = sorted(set(ports))
        pages = folder / "pages"
        pages.mkdir(parents=True)
        (folder / "nginx.conf").write_text(configuration(address, self._ports))
        line = "All is well; this line is repeated until the page is full.\n"
        (pages / "index.html").write_text((line * PAGE_OCTETS)[:PAGE_OCTETS])
        with (pages / "stream").open("wb") as stream:
            stream.truncate(_STREAM_OCTETS)
        self.process = Process(
            [program, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"],
            run=run,
            namespace=namespace,
            complaints=folder / "stderr",
        )

    def wait(self) -> None:
        """Wait until it answers on every port.

        Raises:
            KernelError: if it does not within five seconds.

        """
        deadline = time.monotonic() + _START_S
        with Inside(self._namespace) as inside:
            for port in self._ports:
                while (answer := inside.call(self._answer, port)) != "":
                    if self.process.ended:
                        raise KernelError(f"nginx does not start: {self.process.complaint()}")
                    if time.monotonic() > deadline:
                        raise KernelError(f"nginx at {self._address}:{port}: {answer}")
                    time.sleep(_POLL_S)

    def _answer(self, port: int) -> str:
        """Return what is wrong with the page, nothing if it is right."""
        connection = HTTPConnection(self._address, port, timeout=1)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            got = len(answer.read())
        except (OSError, HTTPException) as error:
            return str(error)
        finally:
            connection.close()
        return "" if answer.status == 200 and got == PAGE_OCTETS else f"status {answer.status}"
