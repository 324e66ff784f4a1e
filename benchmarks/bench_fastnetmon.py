"""FastNetMon with a script that acts beside Phalanx: the same gateway, users and floods.

One after the other, in each scene: nobody guards the gateway; FastNetMon Community does, and its
script blackholes the target, or blocks the sources that it finds in FastNetMon's list (the recipes
are in ``defenders.py``); ``phalanx guard`` does, with its defaults. Scenes are floods, a crowd and
a day of honest traffic (``gateway_scenes.py``). Counted are the goodput of the users, the time from
the first attack packet to what is done, honest sources that are blocked, memory, and processor
time: of the defender's own processes, and of the whole machine, less what it is where nobody
guards. The latter has the kernel's work in it, and all else that the machine had to do meanwhile:
the idle share says how much that was.

Run it with ``python benchmarks/bench_fastnetmon.py [--quick]``, as root.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from math import inf

from msgspec import Struct

from tables import QUICK, console, show

ROUNDS = 1 if QUICK else 3
"""How often a flood is played; what is honest is played once."""
CORES = os.cpu_count() or 1
POLL_S = 0.5
WIDTH = 98
SETTLE_S = 0.3
"""Users have so long to get ready."""


def lack() -> str | None:
    """Return one line on what is missing to run this, if anything."""
    if os.geteuid() != 0:
        return "needs root: network namespaces"
    for name, package in (
        ("fastnetmon", "fastnetmon"),
        ("nginx", "nginx-light"),
        ("nft", "nftables"),
        ("hping3", "hping3"),
        ("cc", "gcc"),
    ):
        if shutil.which(name) is None:
            return f"{name} is missing: install it (Debian: {package})"
    return None


LACK = lack()
if LACK is not None:
    console.print(f"skipped: {LACK}", style="yellow", soft_wrap=True)
    sys.exit(0)

from defenders import (  # noqa: E402
    BAN_S,
    LEAST_SHARE,
    THRESHOLD_PPS,
    Defender,
    FastNetMon,
    Nobody,
    Phalanx,
    Told,
    fastnetmon_version,
    use,
)
from gateway import LINK_MBIT_S, SERVER, UPLINK, FirstPacket, Gateway, HonestTraffic  # noqa: E402
from gateway_scenes import ATTACKERS, Scene, crowd, day, feed, floods  # noqa: E402
from phalanx.testrange.users import Received  # noqa: E402

DEFENDERS: dict[str, Callable[[Gateway], Defender]] = {
    "nobody": Nobody,
    "FastNetMon\nblackhole": partial(FastNetMon, recipe="rtbh"),
    "FastNetMon\nsources": partial(FastNetMon, recipe="sources"),
    "Phalanx": Phalanx,
}


class Figures(Struct):
    """What came of one scene."""

    told: Told
    start: float
    """When the first attack packet came, or the scene began, by ``time.time``."""
    goodput: dict[str, tuple[float, float]]
    """By span: share of the requests that were answered, and kB/s that users received."""
    failed: int
    """Requests that were not answered."""
    asked: int
    own_s: float
    busy_s: float
    kernel_s: float
    idle_share: float
    memory_mb: float
    arrived: list[tuple[float, float]]
    """Mbit/s and packets/s that came from the street, twice a second."""


def measure(make: Callable[[Gateway], Defender], scene: Scene) -> Figures:
    """Return what came of a scene that a new defender saw at a new gateway."""
    with ExitStack() as ends:
        gateway = Gateway(scene.sources)
        ends.callback(gateway.close)
        users = HonestTraffic(gateway, scene.honest)
        defender = make(gateway)
        ends.callback(defender.close)
        with ExitStack() as running:
            running.callback(users.close)
            honest = {socket.inet_aton(source.address) for source in scene.honest}
            honest |= {socket.inet_aton(SERVER), socket.inet_aton("10.8.1.2")}
            first = FirstPacket(gateway.name("gate"), UPLINK, lambda who: who not in honest)
            running.callback(first.close)
            time.sleep(SETTLE_S)
            zero, began = time.monotonic(), time.time()
            users.begin(zero)
            uses = [use(defender.pid)]
            arrived = [(0.0, *gateway.arrived())]
            attack = running.enter_context(ExitStack())
            begins, over = scene.attack or (scene.seconds, scene.seconds)
            attacking = False
            while (now := time.monotonic() - zero) < scene.seconds:
                if not attacking and begins <= now < over:
                    attack.enter_context(gateway.attack())
                    attacking = True
                elif now >= over:
                    attack.close()
                arrived.append((now, *gateway.arrived()))
                uses.append(use(defender.pid))
                edges = (begins, over, scene.seconds)
                next_edge = min(edge for edge in edges if edge > now)
                time.sleep(min(POLL_S, max(0.0, zero + next_edge - time.monotonic())))
        told = defender.told()
        if scene.attack is not None:
            assert first.time is not None, "no attack packet came"
        total = users.received(0.0, scene.seconds)
        return Figures(
            told,
            first.time or began,
            {
                name: _goodput(users.received(*span), span[1] - span[0])
                for name, span in scene.spans.items()
            },
            total.failed,
            total.ok + total.failed,
            uses[-1].own_s - uses[0].own_s,
            uses[-1].busy_s - uses[0].busy_s,
            uses[-1].kernel_s - uses[0].kernel_s,
            (uses[-1].idle_s - uses[0].idle_s) / scene.seconds / CORES,
            max(each.memory_mb for each in uses),
            [
                ((o1 - o0) * 8e-6 / (t1 - t0), (p1 - p0) / (t1 - t0))
                for (t0, o0, p0), (t1, o1, p1) in pairwise(arrived)
                if t1 - t0 > POLL_S / 2
            ],
        )


def _goodput(received: Received, seconds: float) -> tuple[float, float]:
    return received.ok / max(1, received.ok + received.failed), received.octets / 1e3 / seconds


class Sheet:
    """A table of medians: a column a defender, Phalanx last.

    Args:
        found: figures of each defender, a round each.
        honest: addresses of the honest sources.

    """

    def __init__(self, found: dict[str, list[Figures]], honest: frozenset[str]) -> None:
        self.found, self.honest = found, honest
        self.rows: list[list[str]] = []
        self.worse: list[str] = []
        """Rows in which Phalanx is worse than the better one of the others that act."""

    def row(self, what: str, of: Callable[[Figures], float | None], words: str = "{:.2f}") -> None:
        """Add medians of what should be little; None in most rounds: it did not happen."""
        self._add(what, [middle(map(of, one)) for one in self.found.values()], words)

    def beyond_nobody(self, what: str, of: Callable[[Figures], float]) -> None:
        """Add medians of what a defender has more than nobody in the same round."""
        nobody, *others = self.found.values()
        more = [
            statistics.median(of(f) - of(n) for f, n in zip(one, nobody, strict=True))
            for one in others
        ]
        self._add(what, [None, *more], "{:+.1f}")

    def counts(self, what: str, of: Callable[[Figures], str]) -> None:
        """Add what came of the last round, in words."""
        self.rows.append([what, *(of(one[-1]) for one in self.found.values())])

    def goodput(self) -> None:
        """Add what users got."""
        for span in self.found["nobody"][0].goodput:
            got = [
                tuple(statistics.median(f.goodput[span][n] for f in one) for n in (0, 1))
                for one in self.found.values()
            ]
            self.rows.append([span, *(f"{share:.0%}, {kb_s:.0f} kB/s" for share, kb_s in got)])
            if got[-1][0] < max(share for share, _ in got[1:-1]) - 0.01:
                self.worse.append(f"answered {span}")
        self.row("not answered", lambda f: f.failed, "{:.0f}")

    def times(self) -> None:
        """Add when what was done after the first packet of an attack."""
        self.row("first packet to alarm, s", lambda f: _after(f, f.told.alarm))
        self.row("… to first action, s", lambda f: _after(f, f.told.action))
        self.row("… to last block, s", lambda f: _after(f, f.told.last_block))

    def false_alarms(self) -> None:
        """Add what was done where nobody attacks."""
        self.row("false alarms", lambda f: f.told.alarms, "{:.0f}")
        self.row("false actions", lambda f: f.told.actions, "{:.0f}")

    def blocks(self) -> None:
        """Add whom it hit, and whom without need."""
        self.counts("blocked", self._blocked)
        self.row("honest blocked", lambda f: len(self._hit(f)), "{:.0f}")
        self.counts("honest in its list", self._listed)

    def costs(self) -> None:
        """Add what it took."""
        self.row("machine's processor, s", lambda f: f.busy_s, "{:.1f}")
        self.beyond_nobody("… beyond nobody's, s", lambda f: f.busy_s)
        self.beyond_nobody("… in the kernel, s", lambda f: f.kernel_s)
        self.row("its own processes, s", lambda f: f.own_s, "{:.1f}")
        self.row("their memory, MB", lambda f: f.memory_mb, "{:.0f}")
        self.counts("idle share of the cores", lambda f: f"{f.idle_share:.0%}")

    def _add(self, what: str, values: Sequence[float | None], words: str) -> None:
        self.rows.append([what, *("-" if v is None else words.format(v) for v in values)])
        *others, own = (inf if value is None else value for value in values[1:])
        if own > 1.05 * min(others) + 0.05:
            self.worse.append(what.removeprefix("… ").removesuffix(", s"))

    def _blocked(self, figures: Figures) -> str:
        told = figures.told
        if told.target:
            return "the target"
        parts = {
            f"of {len(ATTACKERS)}": told.blocked & set(ATTACKERS),
            "honest": told.blocked & self.honest,
            "others": told.blocked - set(ATTACKERS) - self.honest,
        }
        words = [f"{len(those)} {what}" for what, those in parts.items() if those]
        return ", ".join([*words, *(["proxy"] if told.proxied else [])]) or "nobody"

    def _hit(self, figures: Figures) -> frozenset[str]:
        return self.honest if figures.told.target else figures.told.blocked & self.honest

    def _listed(self, figures: Figures) -> str:
        listed = figures.told.listed
        return "-" if listed is None else f"{len(listed & self.honest)} of {len(self.honest)}"


def _after(figures: Figures, moment: float | None) -> float | None:
    return None if moment is None else moment - figures.start


def middle(values: Iterable[float | None]) -> float | None:
    """Return the median; None if something did not happen in most rounds."""
    happened = sorted(float("inf") if value is None else value for value in values)
    found = statistics.median_low(happened)
    return None if found == float("inf") else found


def report(scene: Scene, found: dict[str, list[Figures]]) -> None:
    """Print what came of a scene."""
    rounds = len(found["nobody"])
    sheet = Sheet(found, frozenset(source.address for source in scene.honest))
    sheet.goodput()
    if scene.attack is None:
        sheet.false_alarms()
    else:
        sheet.times()
    sheet.blocks()
    sheet.costs()
    every = [f for one in found.values() for f in one]
    mbit = statistics.median(max(rate for rate, _ in f.arrived) for f in every)
    packets = statistics.median(max(rate for _, rate in f.arrived) for f in every)
    runs = f"medians of {rounds}" if rounds > 1 else "one run"
    note = (
        f"{scene.seconds:g} s, {runs}. At most {mbit:.1f} Mbit/s and {packets:,.0f} "
        f"packets/s came; FastNetMon bans at {LINK_MBIT_S} Mbit/s or {THRESHOLD_PPS:,} packets/s. "
        f"Phalanx is worse in: {', '.join(sheet.worse) or 'nothing'}."
    )
    show(scene.title, ("", *found), sheet.rows, textwrap.fill(note, WIDTH))


CAPTION = f"""
FastNetMon {{version}}. At the top of each table: which share of their requests users had answered,
and what they received. "blackhole" drops all that goes to the target. "sources" drops what comes
from those with {LEAST_SHARE:.0%} of the packets that FastNetMon lists, which is right for eight
attackers and these users; a script that drops all that are listed would drop the "honest in its
list". Both do it until unban: {BAN_S} s later, as FastNetMon comes, so beyond the scene.

The machine's processor time is that of /proc/stat, the kernel's included, less that of processes
that have nothing to do with this; that of users and attackers is in it. What is not answered costs
nothing, so "beyond nobody's" may be negative. Where no core was idle, all that is here waited for
others: times are late, users may fail whoever guards, and the kernel's part is rough.
"""


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started ends with it
    scenes = [*floods(2.0, 5.0 if QUICK else 6.0)]
    if QUICK:
        scenes = [scenes[0], crowd(2.0, 6.0)]
    else:
        scenes += [crowd(4.0, 12.0), feed(4.0, 8.0), day()]
    for scene in scenes:
        found: dict[str, list[Figures]] = {name: [] for name in DEFENDERS}
        for _ in range(1 if scene.attack is None else ROUNDS):
            for name, make in DEFENDERS.items():
                found[name].append(measure(make, scene))
        report(scene, found)
    for paragraph in CAPTION.format(version=fastnetmon_version()).split("\n\n"):
        console.print(textwrap.fill(paragraph.strip(), WIDTH))


if __name__ == "__main__":
    main()
