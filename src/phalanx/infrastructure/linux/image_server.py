"""A web server for one directory: ``python -m …linux.image_server ADDRESS PORT DIRECTORY``."""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer


class ImageServer(ThreadingHTTPServer):
    """Serves without asking for the name of its address, which takes seconds without a resolver."""

    request_queue_size = 128

    def server_bind(self) -> None:
        """Bind the socket and nothing else."""
        TCPServer.server_bind(self)


def main() -> None:
    """Serve until ended."""
    address, port, directory = sys.argv[1:]
    with ImageServer(
        (address, int(port)), partial(SimpleHTTPRequestHandler, directory=directory)
    ) as server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main()
