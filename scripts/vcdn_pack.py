"""Pack recorded runs of the vCDN into one data set, with four digits of each figure.

``python -m scripts.vcdn_pack data/vcdn.tar.xz RECORDED...`` writes the same octets for the same
runs; ``RECORDED`` are folders that ``vcdn_data.py`` wrote.
"""

from __future__ import annotations

import io
import lzma
import sys
import tarfile
from collections import Counter
from math import isnan
from pathlib import Path

from phalanx.analytics.datasets import Run, read_runs


def packed(name: str, folders: list[Path]) -> dict[str, bytes]:
    """Return the files of a data set; runs of several folders are numbered on."""
    files: dict[str, bytes] = {}
    count: Counter[tuple[str, str]] = Counter()
    for folder in folders:
        for run in sorted(read_runs(folder), key=lambda run: (run.service, run.name)):
            sort = run.name.rstrip("0123456789-")
            count[run.service, sort] += 1
            number = count[run.service, sort]
            files[f"{name}/{run.service}/{sort}-{number:02d}.csv"] = _csv(run)
    return dict(sorted(files.items()))


def _csv(run: Run) -> bytes:
    table = run.table
    lines = [",".join(("time", *table.names, "label"))]
    rows = zip(table.times.tolist(), table.values.tolist(), table.labels, strict=True)
    for time, values, label in rows:
        figures = ("" if isnan(value) else f"{value:.4g}" for value in values)
        lines.append(",".join((f"{time:.7g}", *figures, label)))
    return "\n".join(lines).encode() + b"\n"


def main() -> None:
    """Write the archive."""
    out, *folders = map(Path, sys.argv[1:])
    files = packed(out.name.partition(".")[0], folders)
    with (
        lzma.open(out, "w", preset=9 | lzma.PRESET_EXTREME) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, octets in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(octets), 0o644
            archive.addfile(info, io.BytesIO(octets))
    sys.stdout.write(f"{out}: {len(files)} runs, {out.stat().st_size:,} octets\n")


if __name__ == "__main__":
    main()
