"""The first commands of docs/testbed.md and docs/sites.md, literally, as on a bare machine.

CI does it (``PHALANX_BARE=1``): packages are installed, and Phalanx into ``/opt/phalanx`` from a
copy of the checkout. In a mount namespace of its own, that folder ends with the test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from phalanx.reporting.summary import summarise
from phalanx.store.jsonl import read_jsonl

ROOT = Path(__file__).parents[2]
OPT = Path("/opt/phalanx")
NOT_OF_A_CHECKOUT = (".git", *(ROOT / ".gitignore").read_text(encoding="utf-8").split())

pytestmark = [
    pytest.mark.linux,
    pytest.mark.skipif(
        "PHALANX_BARE" not in os.environ, reason="installs packages: PHALANX_BARE=1 asks for it"
    ),
]


def commands(page: str, mark: str) -> str:
    """Return the block of commands behind a mark of a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (found,) = re.findall(rf"^<!-- {mark} -->\n```sh\n(.*?)^```$", text, re.S | re.M)
    return str(found)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that holds the checkout, as the pages say."""
    left_out = shutil.ignore_patterns(*(name.rstrip("/") for name in NOT_OF_A_CHECKOUT))
    shutil.copytree(ROOT, tmp_path / "phalanx", ignore=left_out)
    made = not OPT.exists()
    OPT.mkdir(exist_ok=True)
    yield tmp_path
    if made:
        OPT.rmdir()


def follow(folder: Path, script: str) -> str:
    """Carry out commands as a newcomer at a terminal would, up to the first that fails."""
    apt = folder / "apt.conf"
    apt.write_text('APT::Get::Assume-Yes "true";\n')
    words = {"APT_CONFIG": str(apt), "DEBIAN_FRONTEND": "noninteractive", "PYTHONPATH": ""}
    done = subprocess.run(
        ["unshare", "--mount", "/bin/sh", "-exc", f"mount -t tmpfs tmpfs {OPT}\n{script}"],  # noqa: S607
        cwd=folder,
        env={**os.environ, **words},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout


def test_the_page_of_the_testbed_leads_to_a_run_on_real_packets(folder: Path) -> None:
    said = follow(folder, commands("testbed.md", "run on a bare machine"))
    assert "A run with --on linux is possible." in said
    response = summarise(read_jsonl(folder / "run.jsonl")).response
    assert (response.attackers_limited, response.users_limited) == (8, 0)
    assert (folder / "run.html").read_bytes().startswith(b"<!doctype html>")


def test_the_page_of_the_testbed_brings_what_looks_into_packets(folder: Path) -> None:
    mark = "run on a bare machine, for the IDS"
    said = follow(folder, f"{commands('testbed.md', mark)}\nsuricata -V")
    assert "This is Suricata version" in said


def test_the_page_of_the_sites_installs_what_it_uses(folder: Path) -> None:
    install = commands("sites.md", "not run: tests/system/test_bare_machine.py does")
    said = follow(
        folder, f"{install}\ncommand -v nats-server\nphalanx run quickstart-ring --until 5"
    )
    assert "/opt/phalanx/bin/nats-server" in said
    assert "finished at 5.0 s" in said
