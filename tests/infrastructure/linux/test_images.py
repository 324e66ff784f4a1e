"""Images: reproducible, of the exact size, and checked."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from msgspec.structs import replace
from vnf_lab import vnfd_of

from phalanx.infrastructure.linux.images import ImageError, build, verify

OCTETS = 400_001


@pytest.mark.parametrize("role", ["rate-limiter", "classifier-lite"])
def test_the_same_inputs_give_the_same_image(tmp_path: Path, role: str) -> None:
    (tmp_path / "again").mkdir()
    first = build(vnfd_of(role, image_mb=OCTETS / 1e6), tmp_path)
    again = build(vnfd_of(role, image_mb=OCTETS / 1e6), tmp_path / "again")
    assert first.path.stat().st_size == first.octets == OCTETS
    assert first.sha256 == again.sha256
    assert first.sha256 != build(vnfd_of(role, "1.1"), tmp_path).sha256
    verify(first.path, first.sha256)


def test_the_image_of_a_native_function_is_its_program(tmp_path: Path) -> None:
    image = build(vnfd_of("edge-filter", image_mb=0), tmp_path)
    assert 0 < image.octets == image.path.stat().st_size < OCTETS
    assert image.observes == ("flows",)


def test_an_image_is_hard_to_compress(tmp_path: Path) -> None:
    image = build(vnfd_of("classifier", image_mb=4), tmp_path)
    assert len(zlib.compress(image.path.read_bytes())) > 0.9 * image.octets


def test_an_image_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="octets, not 1000"):
        build(vnfd_of("classifier", image_mb=0.001), tmp_path)
    with pytest.raises(ImageError, match="no image of classifier"):
        build(replace(vnfd_of("classifier"), code=str(tmp_path / "none.py")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_image_does_not_pass(tmp_path: Path) -> None:
    image = build(vnfd_of("classifier", image_mb=OCTETS / 1e6), tmp_path)
    data = bytearray(image.path.read_bytes())
    data[OCTETS // 2] ^= 1
    image.path.write_bytes(data)
    with pytest.raises(ImageError, match="digest"):
        verify(image.path, image.sha256)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "usage"),
        ("--role rate-limiter --socket s --table phx_00000000", "not in this image"),
        ("--role classifier --socket s --table filter", "phx_"),
    ],
)
def test_an_image_runs_by_itself_and_refuses_in_one_line(
    tmp_path: Path, words: str, said: str
) -> None:
    image = build(vnfd_of("classifier", image_mb=OCTETS / 1e6), tmp_path)
    done = subprocess.run(
        [sys.executable, "-I", image.path, *words.split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
