"""Suricata in the process of a VNF: it looks into copies of packets and tells which rules match.

Mirrors send copies into one end of a pair of devices, and Suricata reads the other. Its EVE log
comes as datagrams, of which the latest alerts are kept; nothing is written on disk. If it ends, the
VNF does, and the other way round. The standard library alone: see ``Capability.program``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pkgutil
import signal
import socket
import subprocess
import threading
from collections import deque
from pathlib import Path
from typing import Any

KEPT = 256
"""Alerts that are kept at a time; the number of each tells how many were lost."""
STARTS_S = 4.0
"""It has failed if it does not run after this long, in seconds."""
_LARGEST = 1 << 16
_PR_SET_PDEATHSIG = 1
# Connections that were open before it began are passed over: their handshakes were not seen. Copies
# have no checksums yet, as the kernel leaves these to the device.
_CONFIGURATION = """\
%YAML 1.1
---
vars: {{address-groups: {{HOME_NET: any, EXTERNAL_NET: any}}, port-groups: {{}}}}
classification-file: /etc/suricata/classification.config
unix-command: {{enabled: no}}
stats: {{enabled: no}}
af-packet: [{{interface: {device}, threads: 1, tpacket-v3: yes, checksum-checks: no}}]
outputs: [{{eve-log: {{enabled: yes, filetype: unix_dgram, filename: {eve}, types: [alert]}}}}]
logging: {{default-log-level: notice, outputs: [{{console: {{enabled: yes}}}}]}}
app-layer: {{protocols: {{http: {{enabled: yes}}, tls: {{enabled: yes}}}}}}
flow: {{memcap: 16mb, hash-size: 4096, prealloc: 100}}
stream: {{memcap: 16mb, checksum-validation: no, reassembly: {{memcap: 64mb, depth: 64kb}}}}
host: {{memcap: 8mb}}
"""


def start(table: str) -> Suricata:
    """Start it for the VNF with these tables, and wait until it looks at packets.

    Raises:
        OSError: if it is not installed, or does not start.

    """
    return Suricata(table)


class Suricata:
    """The process; to call it ends it."""

    def __init__(self, table: str) -> None:
        digits, folder = table.removeprefix("phx_"), Path.cwd() / f"{table}.ids"
        near, far, eve = f"phi{digits}", f"phj{digits}", folder / "eve"
        folder.mkdir(exist_ok=True)
        eve.unlink(missing_ok=True)
        rules, settings = folder / "rules", folder / "settings.yaml"
        rules.write_bytes(pkgutil.get_data(__name__, "suricata.rules") or b"")
        settings.write_text(_CONFIGURATION.format(device=far, eve=eve))
        _ip(f"link del {near}")  # an earlier process was killed
        _ip(f"link add {near} type veth peer name {far}")
        _ip(f"link set {near} up arp off", f"link set {far} up arp off")
        self._near = near
        self._alerts: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._count = 0
        self._ended = False
        self._said = "it said nothing"
        self._runs = threading.Event()
        self._log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._log.bind(str(eve))
        files = "-c", str(settings), "-S", str(rules), "-l", str(folder)
        try:
            self._process = subprocess.Popen(  # noqa: S603
                ["suricata", "--init-errors-fatal", f"--af-packet={far}", *files],  # noqa: S607
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  # no thread was started yet
            )
        except FileNotFoundError:
            _ip(f"link del {near}")
            raise OSError("suricata is not installed") from None
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._read, daemon=True).start()
        if not self._runs.wait(STARTS_S) or self._process.poll() is not None:
            self()
            raise OSError(f"suricata does not start: {self._said}")

    def __call__(self) -> None:
        """End it, and remove its devices."""
        self._ended = True
        self._process.kill()
        self._process.wait()
        _ip(f"link del {self._near}")

    def report(self) -> dict[str, Any]:
        """Return the latest alerts, as what a reading of a mirror holds beside its counters."""
        return {"alerts": [*self._alerts]}

    def _read(self) -> None:
        """Keep what it finds."""
        while True:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # cut off, or no alert
                found = json.loads(self._log.recv(_LARGEST))
                alert = {
                    "number": self._count + 1,
                    "source": found["src_ip"],
                    "target": found["dest_ip"],
                    "protocol": found["proto"].lower(),
                    "rule": found["alert"]["signature_id"],
                    "signature": found["alert"]["signature"],
                }
                self._count += 1
                self._alerts.append(alert)

    def _listen(self) -> None:
        """Read what it says of itself until it ends; end the VNF if that was not asked for."""
        for line in self._process.stdout or ():
            if "Engine started" in line:
                self._runs.set()
            elif line.startswith("E"):
                self._said = line.strip()
        was_running = self._runs.is_set()
        self._runs.set()
        if was_running and not self._ended:
            os.kill(os.getpid(), signal.SIGTERM)


def _ip(*lines: str) -> None:
    """Carry out lines of ``ip -batch``; what is gone already need not be deleted.

    Raises:
        OSError: if another one is refused.

    """
    done = subprocess.run(
        ["ip", "-batch", "-"],  # noqa: S607
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and not lines[0].startswith("link del"):
        raise OSError(f"ip: {done.stderr.strip()}")


def _end_with_parent() -> None:
    """Have the kernel kill this process when the VNF's ends, whatever ends that."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
