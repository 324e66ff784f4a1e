"""Runs the console blocks of a page and puts in what they print.

In a block ``console`` a line that begins with ``$`` is a command for the shell; what follows is
its output. ``<!-- $ command -->`` runs a command and shows nothing. All commands of a page run in
one folder with the scenarios and the examples of the checkout; a failing one is an error unless
the page shows its exit code with ``echo $?``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"^```console\n(.*?)^```$|^<!-- \$ (.*?) -->$", re.DOTALL | re.MULTILINE)
WIDTH = "100"


def with_real_consoles(text: str) -> str:
    """Return a page with the output that its commands have now."""
    if not _BLOCK.search(text):
        return text
    with TemporaryDirectory() as folder:
        where = Path(folder)
        for name in ("scenarios", "docs"):
            (where / name).symlink_to(ROOT / name)
        (where / "out").mkdir()
        (where / ".venv").symlink_to(sys.prefix)

        def run(match: re.Match[str]) -> str:
            if match[2] is not None:
                shell(match[2], where)
                return match[0]
            blocks = []
            for command in commands(match[1]):
                output = shell(command, where)
                blocks.append("$ " + command.replace("\n", "\n> ") + "\n" + output)
            return "```console\n" + "\n".join(blocks) + "```"

        return _BLOCK.sub(run, text)


def commands(block: str) -> list[str]:
    """Return the commands of a console block; a line ``> …`` continues the one before."""
    found: list[str] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(line[2:])
        elif line.startswith("> ") and found:
            found[-1] += "\n" + line[2:]
    return found


def shell(command: str, where: Path) -> str:
    """Run a command as a reader would, and return what it prints, without trailing blanks."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(where),
        "COLUMNS": WIDTH,
        "PYTHONUTF8": "1",
        "LC_ALL": "C.UTF-8",
        # What a page installs goes into its own folder, not beside this interpreter.
        "PIP_TARGET": str(where / "installed"),
        "PYTHONPATH": str(where / "installed"),
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    done = subprocess.run(  # noqa: S603  # the pages are part of this checkout
        ["bash", "-c", command],  # noqa: S607
        cwd=where,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command!r} ended with {done.returncode}: {done.stdout}")
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    while lines and not lines[0]:
        del lines[0]
    while lines and not lines[-1]:
        lines.pop()
    return "".join(line + "\n" for line in lines)
