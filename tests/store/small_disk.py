"""A disk that is full when a test wants it to be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, octets: int) -> Iterator[Path]:
    """Give a folder on a file system of its own with so much room; skip if that cannot be had."""
    disk = folder / "small-disk"
    disk.mkdir()
    made = os.geteuid() == 0 and (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={octets}", "tmpfs", disk],  # noqa: S607
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )
    if not made:
        pytest.skip("a small file system needs root and mount")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)  # noqa: S607


def fill(disk: Path) -> Path:
    """Take all the room that is left, and return the file that holds it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 4_096, 512, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler
