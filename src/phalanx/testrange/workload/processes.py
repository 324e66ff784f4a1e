"""Processes that carry the mark of a run, each with all that it starts in a session of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from phalanx.infrastructure.linux.kernel import runs
from phalanx.infrastructure.linux.kernel.namespaces import prefix

_END_S = 2.0
"""What was asked to end is killed after this long, in seconds."""
_POLL_S = 0.01


class Process:
    """A program in a namespace.

    Args:
        words: the program's path and its arguments.
        run: mark of the run; ``PHALANX_RUN`` in its environment.
        namespace: network namespace that it lives in.
        complaints: file for what it writes to standard error.
        piped: whether its standard input and output are pipes to the caller; otherwise
            they are ``/dev/null``.

    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        run: str,
        namespace: str,
        complaints: Path,
        piped: bool = False,
    ) -> None:
        self.words = tuple(words)
        self._complaints = complaints
        stream = subprocess.PIPE if piped else subprocess.DEVNULL
        with complaints.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603
                [*prefix(namespace), *words],
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


def end(processes: Iterable[Process]) -> None:
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
