"""Removal of what runs left behind, found by the mark that everything of ours carries."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator

from phalanx.infrastructure.linux.kernel import cgroups, sweep
from phalanx.infrastructure.linux.kernel import runs as known
from phalanx.infrastructure.linux.kernel.errors import KernelError
from phalanx.infrastructure.linux.kernel.links import Links
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.vnf.nft import Nft, NftError, owner_of

_INTERFACE = "phx"
_TABLE = "phx_"


def clean(
    runs: Collection[str] | None = None,
    dry_run: bool = False,
    all: bool = False,  # noqa: A002  the word of the command line
) -> list[str]:
    """Remove all that carries our mark and belongs to no living run.

    That is: processes, network namespaces, control groups and folders of those runs, and the
    interfaces ``phx…`` and nftables tables ``phx_…`` in this machine's own namespace. What does
    not carry the mark is never touched. What stands in this machine's own namespace and no run
    has noted stays as long as any run lives: it may be that one's.

    Args:
        runs: only these runs; None: every one of which something is found.
        dry_run: remove nothing.
        all: end runs that are alive, too.

    Returns:
        A line for each thing that was removed, or would be.

    Raises:
        KernelError: without root; or if something of a run cannot be removed, after all else
            was.

    """
    if os.geteuid() != 0:
        raise KernelError("clean needs root: it removes namespaces, interfaces and processes")
    found = sweep.marked()
    gone = {run for run in found if all or known.owner(run) is None}
    if runs is not None:
        gone &= set(runs)
    ours = _noted(gone) - _noted(found - gone)
    unclaimed = runs is None and gone == found
    lines: list[str] = []
    left: list[str] = []
    for run in sorted(gone):
        try:
            lines += _clean_run(run, dry_run=dry_run)
        except KernelError as error:
            left.append(str(error))
    with Inside(None) as machine:
        for thing, remove in machine.call(_in_machine):
            if _noted_as(thing) in ours or unclaimed:
                try:
                    if not dry_run:
                        machine.call(remove)
                    lines.append(thing)
                except KernelError as error:
                    left.append(str(error))
    if not dry_run:
        _clear_empty(everything=runs is None)
    if left:
        raise KernelError("; ".join(left))
    return lines


def living() -> dict[str, int]:
    """Return the runs whose process is alive, and its id."""
    owners = ((run, known.owner(run)) for run in known.known())
    return {run: owner.pid for run, owner in owners if owner is not None}


def _clean_run(run: str, *, dry_run: bool) -> list[str]:
    lines = []
    owner = known.owner(run)
    if owner is not None and owner.pid not in sweep.line_of_descent():
        lines.append(f"process {owner.pid}, which has run {run}")
        if not dry_run:
            sweep.end([owner.pid])
    lines += (sweep.find(run) if dry_run else sweep.sweep(run)).lines()
    if run in known.known():
        lines.append(f"folder {known.folder(run)}")
        if not dry_run:
            known.remove(known.folder(run))
    return lines


def _noted(runs: Iterable[str]) -> set[str]:
    return {thing for run in runs for thing in known.noted(run)}


def _noted_as(thing: str) -> str:
    """Return what a thing in the machine's namespace was noted as: a VNF notes one table."""
    what, _, name = thing.rpartition(" ")
    return f"{what} {owner_of(name)}" if what.startswith("table") else thing


def _in_machine() -> list[tuple[str, Callable[[], None]]]:
    """Return what carries our mark in the calling thread's namespace, with its removal."""
    return [*_interfaces(), *_tables()]


def _interfaces() -> Iterator[tuple[str, Callable[[], None]]]:
    def remover(name: str) -> Callable[[], None]:
        def remove() -> None:
            with Links() as links:
                links.delete(name)

        return remove

    for _, name in socket.if_nameindex():
        if name.startswith(_INTERFACE):
            yield f"interface {name}", remover(name)


def _tables() -> Iterator[tuple[str, Callable[[], None]]]:
    try:
        nft = Nft()
    except NftError:
        return  # without the library there never was a table of ours

    def remover(table: str) -> Callable[[], None]:
        def remove() -> None:
            with contextlib.suppress(NftError):  # its program may have removed it meanwhile
                nft.run(f"delete table {table}")

        return remove

    for entry in nft.json("list tables").get("nftables", ()):
        table = entry.get("table")
        if table is not None and table["name"].startswith(_TABLE):
            full = f"{table['family']} {table['name']}"
            yield f"table {full}", remover(full)


def _clear_empty(*, everything: bool) -> None:
    """Remove what several runs share and none uses any more."""
    if everything:
        for folder in known.unfinished():
            known.remove(folder)
    for shared in (known.ROOT, *cgroups.roots()):
        with contextlib.suppress(OSError):  # still in use
            shared.rmdir()
