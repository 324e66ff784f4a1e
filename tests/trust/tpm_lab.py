"""A software TPM for tests, as a process on a Unix socket."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import pytest

from phalanx.trust.roots import TpmRoot

NEEDS_TPM = pytest.mark.skipif(
    shutil.which("swtpm") is None or shutil.which("tpm2_quote") is None,
    reason="needs swtpm and tpm2-tools",
)
PCRS = range(8)


class SoftwareTpm:
    """A TPM with a state of its own, until closed by ``with``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.state.mkdir()
        self.tcti = f"swtpm:path={folder / 'socket'}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def boot(self) -> None:
        """Start it, as a machine that is switched on does: its registers are empty."""
        path = self.folder / "socket"
        listen = (("--server", path), ("--ctrl", self.folder / "socket.ctrl"))
        words = [word for name, file in listen for word in (name, f"type=unixio,path={file}")]
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.state}", *words]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--flags", "startup-clear"], stdout=log, stderr=log
            )
        end = time.monotonic() + 20.0
        while not _answers(path):
            assert time.monotonic() < end
            assert self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.01)

    def end(self) -> None:
        """Switch it off."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
            self._process = None
        for name in ("socket", "socket.ctrl"):
            (self.folder / name).unlink(missing_ok=True)

    def ask(self, tool: str, *words: object) -> subprocess.CompletedProcess[str]:
        """Run a tool of tpm2-tools in its folder."""
        return subprocess.run(
            [f"tpm2_{tool}", "-T", self.tcti, *map(str, words)],
            check=False, capture_output=True, text=True, cwd=self.folder,
        )  # fmt: skip

    def extend(self, pcr: int) -> None:
        """Add to a register what was not booted when it was enrolled."""
        assert self.ask("pcrextend", f"{pcr}:sha256={'5a' * 32}").returncode == 0

    def root(self, pcrs: range = PCRS) -> TpmRoot:
        """Return the root of trust that it is."""
        return TpmRoot(self.tcti, self.folder / "tpm.handle", pcrs)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as peer:
        try:
            peer.connect(str(path))
        except OSError:
            return False
        return True


@contextmanager
def software_tpm() -> Iterator[SoftwareTpm]:
    """Run a new TPM; its folder has a short path, as sockets need it."""
    with TemporaryDirectory(prefix="phalanx-tpm-") as folder, SoftwareTpm(Path(folder)) as tpm:
        yield tpm
