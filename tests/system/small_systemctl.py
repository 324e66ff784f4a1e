"""As much of ``systemctl`` as docs/sites.md needs, for machines without systemd; a program.

It reads the units of /etc/systemd/system as systemd does: what they run, the signals that stop
and restart it, how long that may take. It does not confine, nor start again what has failed.
"""

from __future__ import annotations

import fnmatch
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

UNITS = Path("/etc/systemd/system")
WANTED = UNITS / "multi-user.target.wants"
RUNNING = Path("/run/units")
LOGS = Path("/var/log")


class Unit:
    def __init__(self, name: str) -> None:
        self.name = name.removesuffix(".service")
        template, at, self.instance = self.name.partition("@")
        file = UNITS / f"{template}{at}.service"
        if not file.is_file():
            sys.exit(f"Unit {name}.service could not be found.")
        self.says = dict(
            line.split("=", 1) for line in file.read_text().splitlines() if line[:1].isupper()
        )
        self._pid = RUNNING / self.name

    def words(self, field: str) -> list[str]:
        return shlex.split(self.says[field].replace("%i", self.instance))

    @property
    def pid(self) -> int | None:
        try:
            pid = int(self._pid.read_text())
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return None
        return None if state == "Z" else pid

    def start(self) -> None:
        if self.pid is not None:
            return
        state = Path("/var/lib", self.words("StateDirectory")[0])
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (LOGS / f"{self.name}.log").open("ab") as said:
            process = subprocess.Popen(
                self.words("ExecStart"),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                cwd="/",
            )
        RUNNING.mkdir(exist_ok=True)
        self._pid.write_text(str(process.pid))

    def stop(self, field: str = "KillSignal") -> None:
        pid = self.pid
        if pid is None:
            return
        os.kill(pid, signal.Signals[self.says.get(field) or self.says.get("KillSignal", "SIGTERM")])
        end = time.monotonic() + float(self.says["TimeoutStopSec"])
        while self.pid is not None:
            if time.monotonic() > end:
                sys.exit(f"{self.name} does not end within TimeoutStopSec")
            time.sleep(0.02)

    def restart(self) -> None:
        self.stop("RestartKillSignal")
        self.start()

    def reload(self) -> None:
        subprocess.run(self.words("ExecReload"), check=True)

    def enable(self) -> None:
        WANTED.mkdir(exist_ok=True)
        (WANTED / self.name).touch()

    def disable(self) -> None:
        (WANTED / self.name).unlink(missing_ok=True)


def _named(pattern: str) -> Iterable[str]:
    if "*" not in pattern:
        return (pattern,)
    return sorted(p.name for p in RUNNING.iterdir() if fnmatch.fnmatch(p.name, pattern))


def main(verb: str, *words: str) -> None:
    options = [word for word in words if word.startswith("--")]
    if verb == "boot":
        words = tuple(sorted(path.name for path in WANTED.glob("phalanx-*")))
        verb = "start"
    elif verb == "daemon-reload":
        return
    units = [Unit(n) for w in words if w not in options for n in _named(w)]
    if verb == "is-active":
        active = all(unit.pid is not None for unit in units)
        if "--quiet" not in options:
            print("active" if active else "inactive")
        sys.exit(0 if active else 3)
    for unit in units:
        getattr(unit, verb)()
        if "--now" in options:
            {"enable": unit.start, "disable": unit.stop}[verb]()


if __name__ == "__main__":
    main(*sys.argv[1:])
