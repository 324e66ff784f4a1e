"""What a ledger costs: entries per second, the time until an entry is confirmed, and gas.

Each kind of ledger records the results of rounds in a group of agents; on virtual time the seconds
are those of the processor, of everything together: signing, the contracts, reading by all agents.
Gas is measured on anvil where it is installed (``out/anvil``, see ``.ci/run``), else on the
embedded chain. Run it with ``python benchmarks/bench_ledger.py [--quick]``.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from phalanx.clock.virtual import VirtualClock
from phalanx.clock.wall import WallClock
from phalanx.domain.trust import AttestationResult, Deviation, TrustTier
from phalanx.ledger import Confirmed, Ledger, RecordedEntry, Refused, open_ledger
from phalanx.ledger.chain import EmbeddedChain
from phalanx.ledger.election import assigned, commitment
from phalanx.ledger.entries import (
    Associated,
    Attested,
    Drawn,
    Enrolled,
    Entry,
    KeyHandedOut,
    Planned,
    Revealed,
    Revoked,
    RoundOpened,
)
from phalanx.ledger.node import EmbeddedCarrier, EthereumNode
from phalanx.ledger.rpc import ChainServer
from phalanx.trust.register import TrustRegister
from tables import QUICK, console, milliseconds, show

AGENTS = 6 if QUICK else 20
ROUNDS = 1 if QUICK else 4
LONG = 3_000 if QUICK else 100_000
SIZES = (10,) if QUICK else (10, 100, 1000)
VERIFIERS = 3
ANVIL = shutil.which("anvil") or Path("out/anvil/node_modules/.bin/anvil")


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


class Bench:
    """A group on a ledger, as the tests have it, that only looks at the time."""

    def __init__(self, url: str, clock: VirtualClock | WallClock, agents: int, period_s: float):
        self.clock, self.period_s = clock, period_s
        self.node = open_ledger(url, clock)
        self.salt = str(time.time())
        self.names = [f"a{n}" for n in range(agents)]
        self.node.found(self.secret("secaas"), "secaas")
        self.ledgers: dict[str, Ledger] = {
            name: self.node.join(self.secret(name)) for name in ["secaas", *self.names]
        }
        self.seen: list[RecordedEntry] = []
        self.ledgers["secaas"].follow(self.seen.append)

    def secret(self, name: str) -> bytes:
        """Return the private key of an agent's account; another one in each run."""
        return sha256((name + self.salt).encode()).digest()

    def record(self, entries: list[tuple[str, Entry]]) -> list[float]:
        """Record entries at once; return how long each took, in seconds of the clock."""
        begin = self.clock.now()
        took: list[float] = []
        refused: list[str] = []

        def answer(said: Confirmed | Refused) -> None:
            if isinstance(said, Refused):
                refused.append(said.reason)
            took.append(self.clock.now() - begin)

        for author, entry in entries:
            self.ledgers[author].submit(entry, answer)
        self.clock.run(begin + 300.0, stop=lambda: len(took) == len(entries))
        assert not refused, refused[0]
        assert len(took) == len(entries), self.ledgers["secaas"].status()
        return took

    def begin(self) -> None:
        """Enrol all, verify them, set the plan."""
        made = [(name, self.ledgers[name].account) for name in self.names]
        self.record(
            [
                ("secaas", Enrolled(name, account, "agent", "agent 1.0", digest(name), digest("k")))
                for name, account in made
            ]
        )
        roots = ["secaas", *self.names]
        chain = zip(self.names, roots, strict=False)
        self.record([("secaas", self.result(name, "secaas", 0, root)) for name, root in chain])
        self.record([("secaas", Planned(self.period_s, VERIFIERS))])

    def result(self, attester: str, verifier: str, number: int, root: str = "") -> Attested:
        """Return a verifier's result."""
        return Attested(
            AttestationResult(
                attester, verifier, TrustTier.AFFIRMING, number, 1.5, digest(attester), root
            )
        )

    def open(self, number: int) -> list[tuple[str, Entry]]:
        """Open a round; return all results that are due in it."""
        self.clock.run(self.clock.now() + self.period_s + 1.0)
        self.record([("secaas", RoundOpened(number))])
        seeds = [it.entry.seed for it in self.seen if isinstance(it.entry, RoundOpened)]
        chosen = partial(assigned, seeds[-1], members=self.names, verifiers=VERIFIERS)
        return [
            (verifier, self.result(attester, verifier, number))
            for attester in self.names
            for verifier in chosen(attester)
        ]


def rate(kind: str, url: str, clock: VirtualClock | WallClock, period_s: float) -> list[str]:
    """Return a row: entries per second, and seconds until an entry is confirmed."""
    bench = Bench(url, clock, AGENTS, period_s)
    bench.begin()
    spent, count, waited = 0.0, 0, []
    for number in range(1, ROUNDS + 1):
        due = bench.open(number)
        begin = time.perf_counter()
        waited += bench.record(due)
        spent += time.perf_counter() - begin
        count += len(due)
    single = bench.record([("a0", Associated("a0", "a1", 20.0, 0.01))])
    bench.node.close()
    virtual = isinstance(clock, VirtualClock)
    return [
        kind,
        f"{count / spent:,.0f}",
        f"{milliseconds(single):,.0f} ms" + (" (modelled)" if virtual else ""),
        f"{max(waited):.2f} s" + (" (modelled)" if virtual else ""),
    ]


@contextmanager
def served() -> Iterator[tuple[str, WallClock]]:
    clock = WallClock(going=True)
    chain = EmbeddedChain(clock, interval_s=0.05)
    server = ChainServer(chain, clock, 0)
    yield server.url + "?poll=0.02", clock
    server.close()
    chain.close()


@contextmanager
def anvil() -> Iterator[str]:
    """Run anvil and give its URL, or that of the embedded chain where it is not installed."""
    if not Path(ANVIL).exists():
        console.print("anvil is not installed: gas is the embedded chain's", style="yellow")
        yield "memory:"
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    node = subprocess.Popen(  # noqa: S603
        [ANVIL, "--port", str(port), "--silent", "--base-fee", "0", "--gas-price", "0"]
    )
    time.sleep(1.0)
    try:
        yield f"http://127.0.0.1:{port}?gas_price=0&poll=0.02"
    finally:
        node.terminate()
        node.wait()


def rates() -> None:
    rows = [rate("memory: (virtual time)", "memory:", VirtualClock(), 10.0)]
    with TemporaryDirectory() as folder:
        path = f"{folder}/chain.db"
        rows.append(rate("evm: (virtual time)", f"evm:{path}", VirtualClock(), 10.0))
        begin = time.perf_counter()
        chain = EmbeddedChain(VirtualClock(), path)
        again = time.perf_counter() - begin
        count = sum(block.entries for block in chain._blocks)
        chain.close()
    rows.append(rate("witness: (virtual time)", "witness:?witnesses=2", VirtualClock(), 10.0))
    with served() as (url, clock):
        rows.append(rate("http: to the embedded chain", url, clock, 1.0))
    if Path(ANVIL).exists():
        with anvil() as url:
            rows.append(rate("http: to anvil", url, WallClock(going=True), 1.0))
    show(
        f"A round of {AGENTS} agents with {VERIFIERS} verifiers each, all results at once",
        ["ledger", "entries/s", "one entry alone", "the last of a round"],
        rows,
        f"The file of the embedded chain opens again at {count / again:,.0f} entries/s. "
        "Modelled: blocks come 1 s after the first entry that waits, messages of witnesses "
        "take 1 ms.",
    )


def starts() -> None:
    """Print what it costs an agent to start on a long ledger, which a node has at hand."""
    clock = VirtualClock()
    bench, register = Bench("memory:", clock, AGENTS, 10.0), TrustRegister()

    def apply(recorded: RecordedEntry) -> None:
        register.apply(recorded)

    bench.ledgers["a0"].follow(apply)
    bench.begin()
    number = 0
    while len(bench.seen) < LONG:
        number += 1
        bench.record(bench.open(number))
        if len(bench.seen) < LONG - 100:
            since, before = bench.ledgers["a0"].checkpoint(), register.copied()
    assert isinstance(bench.node, EthereumNode)
    rows = []
    for what, checkpoint in (("from the beginning", None), ("from a checkpoint", since)):
        begin = time.process_time()
        carrier = EmbeddedCarrier(bench.node.carrier.chain, clock)  # type: ignore[attr-defined]
        operator = {"operator": bench.ledgers["secaas"].account}
        node = EthereumNode("memory:", clock, carrier, operator)
        read: list[RecordedEntry] = []
        reached = TrustRegister()
        if checkpoint is not None:
            node.resume(checkpoint)
            reached = before.copied()
        node.join(bench.secret("a0")).follow(read.append, since=checkpoint)
        clock.run(clock.now() + 60.0, stop=lambda: node.head == bench.node.head)  # type: ignore[attr-defined]  # noqa: B023
        for recorded in read:
            reached.apply(recorded)
        assert reached == register
        rows.append([what, f"{len(read):,}", f"{time.process_time() - begin:.2f} s"])
    show(
        f"An agent starts on a ledger of {len(bench.seen):,} entries, {AGENTS} agents",
        ["reads", "entries", "processor"],
        rows,
        "Both end in the same register.",
    )


# -- gas --------------------------------------------------------------------------------------


def gas_of(bench: Bench, author: str, entry: Entry) -> int:
    """Record an entry, and return what its transaction used."""
    found: list[int] = []
    node = bench.node
    assert isinstance(node, EthereumNode)
    before = set(node.awaited)
    hashes: list[str] = []
    bench.ledgers[author].submit(entry, lambda _: found.append(1))

    def watch() -> bool:
        hashes.extend(set(node.awaited) - before)
        return bool(found)

    bench.clock.run(bench.clock.now() + 60.0, stop=watch)
    answers: list[dict[str, str]] = []
    node.carrier.ask("eth_getTransactionReceipt", [hashes[0]], answers.append)
    bench.clock.run(bench.clock.now() + 60.0, stop=lambda: bool(answers))
    assert answers[0]["status"] == "0x1", entry
    return int(answers[0]["gasUsed"], 16)


def gas_table(url: str, clock: VirtualClock | WallClock, kind: str) -> None:
    bench = Bench(url, clock, 10, 4.0)
    bench.begin()
    share = digest("share")
    rows: list[tuple[str, int]] = []

    def add(name: str, author: str, entry: Entry) -> None:
        rows.append((name, gas_of(bench, author, entry)))

    stranger = "0x" + "77" * 20
    add("Enrolled", "secaas", Enrolled("b0", stranger, "agent", "agent 1.0", share, share))
    bench.open(1)
    add("Drawn", "a0", Drawn(2, "a0", commitment("a0", 2, share)))
    clock.run(clock.now() + 2.5)
    add("Revealed", "a0", Revealed(2, "a0", share))
    clock.run(clock.now() + 4.0)
    add("RoundOpened", "a0", RoundOpened(2))
    seed = bench.seen[-1].entry
    assert isinstance(seed, RoundOpened)
    one, two, _ = assigned(seed.seed, "a1", bench.names, 3)
    add("Attested, the first of an attester", one, bench.result("a1", one, 2))
    found = bench.result("a1", two, 2)
    lines = tuple(Deviation("text-altered", f"agent.so page {n}", "other octets") for n in range(3))
    result = found.result
    worse = AttestationResult(
        "a1", two, TrustTier.CONTRAINDICATED, 2, 1.5, result.evidence, "", lines
    )
    add("Attested, with three deviations", two, Attested(worse))
    add("Associated", "a0", Associated("a0", "a2", 20.0, 0.01))
    add("KeyHandedOut, 96 octets", "secaas", KeyHandedOut("a2", 1, bytes(range(96)), "secaas"))
    add("Revoked", "secaas", Revoked("a1", "infected"))
    bench.node.close()
    table = [[name, f"{gas:,}"] for name, gas in rows]
    show(f"Gas of an entry, 10 agents, on {kind}", ["entry", "gas"], table)


def gas_by_size(url: str, size: int) -> list[str]:
    clock = WallClock(going=True) if url.startswith("http") else VirtualClock()
    bench = Bench(url, clock, size, 2.0)
    bench.begin()
    author, entry = bench.open(1)[0]
    return [f"{size:,}", f"{gas_of(bench, author, entry):,}"]


def main() -> None:
    rates()
    starts()
    with anvil() as url:
        clock = WallClock(going=True) if url.startswith("http") else VirtualClock()
        kind = "anvil" if url.startswith("http") else "the embedded chain"
        gas_table(url, clock, kind)
    rows = []
    for size in SIZES:
        with anvil() as url:
            rows.append(gas_by_size(url, size))
    show(
        f"Gas of a result by the number of agents, on {kind}",
        ["agents", "gas"],
        rows,
        "An election looks at every agent. The limit of a transaction is 5,000,000.",
    )


if __name__ == "__main__":
    main()
