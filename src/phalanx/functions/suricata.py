"""Suricata in the process of a VNF: it looks into copies of packets and tells which rules match.

Mirrors send copies into one end of a pair of devices, and Suricata reads the other. Its EVE log
comes through a pipe, and the latest alerts are kept; nothing is written on disk. If it ends, the
VNF does, and the other way round. The standard library alone: see ``Capability.program``.
"""

from __future__ import annotations

import ctypes
import json
import os
import pkgutil
import signal
import subprocess
import threading
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

KEPT = 256
"""Alerts that are kept at a time; the number of each tells how many were lost."""
STARTS_S = 4.0
"""It has failed if it does not run after this long, in seconds."""
_PR_SET_PDEATHSIG = 1


class Suricata:
    """The process; to call it ends it."""

    def __init__(self, table: str) -> None:
        """Start it for the VNF with these tables, and wait until it looks at packets.

        Raises:
            OSError: if it is not installed, or does not start.

        """
        digits, folder = table.removeprefix("phx_"), Path(f"{table}.ids")
        self._near, far = f"phi{digits}", f"phj{digits}"
        folder.mkdir(exist_ok=True)
        for name in ("rules", "yaml"):
            (folder / name).write_bytes(pkgutil.get_data(__name__, f"suricata.{name}") or b"")
        pair = f"link add {self._near} type veth peer name {far}"
        ups = (f"link set {device} up arp off" for device in (self._near, far))
        _ip(f"link del {self._near}", pair, *ups)  # an earlier process may have been killed
        self._alerts: deque[tuple[Any, ...]] = deque(maxlen=KEPT)
        self._said = "it says nothing"
        self._told = threading.Event()
        options = f"--init-errors-fatal --af-packet={far} -c yaml -S rules -l .".split()
        end_with_parent = partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGKILL)
        self._process = subprocess.Popen(  # noqa: S603
            ["suricata", *options],  # noqa: S607
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509  # no thread was started yet
        )
        threading.Thread(target=self._listen, daemon=True).start()
        if not self._told.wait(STARTS_S) or self._process.poll() is not None:
            self()
            raise OSError(f"suricata does not start: {self._said}")

    def __call__(self) -> None:
        """End it, and remove its devices."""
        self._process.kill()
        self._process.wait()
        _ip(f"link del {self._near}")

    def report(self) -> dict[str, Any]:
        """Return the latest alerts, a row each; readings of mirrors hold them beside counters."""
        return {"alerts": [*self._alerts]}

    def _listen(self) -> None:
        """Read what it finds, and what it says of itself, until it ends; then end the VNF."""
        count, runs = 0, False
        for line in self._process.stdout or ():
            if line.startswith("{"):
                found = json.loads(line)
                count += 1
                alert, ends = found["alert"], (found["src_ip"], found["dest_ip"])
                rule = alert["signature_id"], alert["signature"]
                self._alerts.append((count, *ends, found["proto"].lower(), *rule))
            elif "Engine started" in line:
                runs = True
                self._told.set()
            elif line.startswith("E"):
                self._said = line.strip()
        self._process.wait()
        self._told.set()
        if runs:
            os.kill(os.getpid(), signal.SIGTERM)


start = Suricata
"""What the VNF's process calls with the name of its tables."""


def _ip(*lines: str) -> None:
    """Carry out lines of ``ip -batch``; without its devices Suricata says what it lacks."""
    command = ["ip", "-force", "-batch", "-"]
    subprocess.run(command, input="\n".join(lines), text=True, check=False, capture_output=True)  # noqa: S603
