"""Links with a delay where the kernel has no netem: the program ``wire.c``, and its driver."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from msgspec import Struct

from phalanx.infrastructure.linux.kernel import KernelError, namespaces, runs

_SOURCE = Path(__file__).with_name("wire.c")
_LEAST_OCTETS = 1 << 18
_SPARE = 3.0  # a small frame takes more of the queue than of the link: 32 octets for its head
_PATIENCE_S = 5.0


class Strand(Struct, frozen=True):
    """One link: two TAP interfaces, each in a namespace, and the time between them."""

    a: str
    """Namespace of one end."""
    device_a: str
    b: str
    device_b: str
    delay_ms: float
    rate_mb_s: float
    """What enters at most in each direction, 10^6 octets a second; sizes the queue."""


class Wire:
    """A process that carries all delayed links of a run; the interfaces live as long as it.

    It ends when ``close`` is called, or with the process that made it, however that ends.

    Args:
        run: mark of the run, in whose folder the program is compiled.
        strands: the links.

    Raises:
        KernelError: if it cannot be compiled or started.

    """

    def __init__(self, run: str, strands: Sequence[Strand]) -> None:
        folder = runs.folder(run)
        program = _in_memory(compiled(_SOURCE, folder / "wire", "links with a delay"))
        try:
            # Its life hangs on stdin: the kernel closes the pipe, however this process ends.
            self._process = subprocess.Popen(  # noqa: S603
                ["phalanx-wire", str(folder)],  # noqa: S607  names it; the program is the next
                executable=f"/proc/self/fd/{program}",
                pass_fds=[program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, runs.VARIABLE: run},
                text=True,
            )
        finally:
            os.close(program)
        self._lock = Lock()
        with contextlib.suppress(BrokenPipeError):  # it says on stderr why it ended
            self._tell("".join(map(_line, strands)) + "go\n")
        if self._hear() != "ready":
            stderr = self._process.stderr
            said = stderr.read().strip() if stderr is not None else ""
            self.close()
            raise KernelError(f"links with a delay cannot be made: {said or 'the wire ended'}")

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def shed(self) -> int:
        """Return how many frames were lost so far because a queue was full.

        Raises:
            KernelError: if the process is gone.

        """
        with self._lock:
            try:
                self._tell("?\n")
                return int(self._hear())
            except (BrokenPipeError, ValueError):
                raise KernelError(
                    "the wire process is gone, and the delayed links with it"
                ) from None

    def close(self) -> None:
        """End the process; done before is no error."""
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tell(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def compiler() -> str | None:
    """Return the path of a C compiler; None if there is none."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def compiled(source: Path, program: Path, purpose: str) -> Path:
    """Return ``program``, compiled from ``source`` unless it is there.

    Raises:
        KernelError: if there is no compiler, or it fails; it names ``purpose``.

    """
    if program.exists():
        return program
    cc = compiler()
    if cc is None:
        raise KernelError(f"{purpose} need a C compiler: apt-get install gcc libc6-dev")
    done = subprocess.run(  # noqa: S603
        [cc, "-O2", "-Wall", "-o", str(program), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise KernelError(f"{purpose}: {cc} fails: {reason[0]}")
    return program


def _in_memory(program: Path) -> int:
    """Return a descriptor to run a program from: many machines mount ``/run`` with noexec."""
    memory = os.memfd_create(program.name)
    with open(memory, "wb", closefd=False) as file:
        file.write(program.read_bytes())
    return memory


def _line(strand: Strand) -> str:
    in_flight = strand.rate_mb_s * 1e3 * strand.delay_ms
    octets = max(_LEAST_OCTETS, round(_SPARE * in_flight)) & ~7
    a, b = (namespaces.FOLDER / name for name in (strand.a, strand.b))
    delay_us = round(strand.delay_ms * 1e3)
    return f"{a} {strand.device_a} {b} {strand.device_b} {delay_us} {octets}\n"
