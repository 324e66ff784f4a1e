"""``phalanx ledger``: shows a ledger, and serves one to the processes of this machine."""

from __future__ import annotations

import secrets
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.terminal import AsJson, StopSignal, emit_json, group, out, say, table_of
from phalanx.clock.wall import WallClock
from phalanx.ledger import Ledger, LedgerError, RecordedEntry, open_ledger

WAIT_S = 5.0
"""For which a ledger may be silent."""
LOOK_S = 0.2

app = group("Show a ledger, or serve one to the processes of this machine.")


@contextmanager
def reading(
    url: str, secret: bytes | None = None
) -> Iterator[tuple[Ledger, list[RecordedEntry], Iterator[float]]]:
    """Open a ledger, and read it to its head, or for ``WAIT_S``.

    Args:
        url: of the ledger; a file has to be there.
        secret: of the account that signs; None: one that signs nothing, as anybody can read.

    Yields:
        the ledger, its entries, and an iterator that lets time pass and yields how much has, in
        seconds.

    Raises:
        LedgerError: if there is none.

    """
    kept = url.removeprefix("evm:").partition("?")[0]
    if url.startswith("evm:") and kept and not Path(kept).is_file():
        raise LedgerError(f"there is no ledger {kept}")
    clock = WallClock(begin=time.time())
    try:
        node = open_ledger(url, clock)
        try:
            ledger = node.join(secrets.token_bytes(32) if secret is None else secret)
            seen: list[RecordedEntry] = []
            ledger.follow(seen.append, gone=seen.remove)
            before = ledger.status().head
            for waited_s in _passing(clock):
                head = ledger.status().head
                if waited_s > WAIT_S or (head is not None and head == before):
                    break  # all of it is read
                before = head
            yield ledger, seen, _passing(clock)
        finally:
            node.close()
    finally:
        clock.close()


def _passing(clock: WallClock) -> Iterator[float]:
    begun = clock.now()
    while True:
        clock.run(clock.now() + LOOK_S)
        yield clock.now() - begun


@app.command()
def status(
    url: Annotated[
        str, typer.Argument(help="Such as http://127.0.0.1:8545?operator=0x…, or evm:FILE?….")
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Show how far a ledger is and what it holds; the exit code is 1 if something is wrong."""
    with reading(url) as (ledger, seen, _):
        found = ledger.status()
    kinds = Counter(type(recorded.entry).__name__ for recorded in seen)
    if as_json:
        emit_json({"status": found, "kinds": kinds})
    else:
        table = table_of("ledger", "height", "hash", "entries", "wrong")
        place = ["-", "-"] if found.head is None else [f"{found.head.height:,}", found.head.hash]
        table.add_row(found.url, place[0], place[1][:18], f"{found.entries:,}", found.reason or "-")
        out.print(table)
        for kind, count in sorted(kinds.items()):
            say(out, f"{count:>8,} {kind}")
    if found.reason or found.head is None:
        raise typer.Exit(1)


@app.command()
def serve(
    file: Annotated[
        Path | None, typer.Argument(help="SQLite file that keeps the chain; without it, nothing.")
    ] = None,
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any.")] = 8545,
    host: Annotated[
        str, typer.Option(help="Address to listen on; whoever reaches it may read and submit.")
    ] = "127.0.0.1",
    interval: Annotated[
        float, typer.Option(min=0.01, help="How long a block waits for entries, in seconds.")
    ] = 1.0,
) -> None:
    """Run an Ethereum chain that answers JSON-RPC, until stopped."""
    # Its libraries are of no use to the other verbs.
    from phalanx.ledger.chain import EmbeddedChain  # noqa: PLC0415
    from phalanx.ledger.rpc import ChainServer  # noqa: PLC0415

    clock = WallClock(begin=time.time())
    chain = EmbeddedChain(clock, str(file or ""), interval)
    server = ChainServer(chain, clock, port, host)
    say(out, f"the ledger is at {server.url}, block {chain.height}; Ctrl-C ends it")
    with StopSignal(signal.SIGTERM) as stop:
        while not stop.wanted:
            clock.run(clock.now() + LOOK_S)
    server.close()
    chain.close()
    clock.close()
