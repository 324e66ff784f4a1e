"""What ``phalanx detect`` says of captures of each kind of attack, and how fast it reads them.

Each capture has one attack from second 3.2 on, beside honest users (``attack_captures.py``), over
IPv4 and over IPv6. Counted are the attackers that are named with the right kind, those that are
missed, and honest addresses that are named; of forged sources, whose names say nothing, whether
the target is told to be attacked by forged sources of that kind. Delay is from the first packet
of the attack to the end of the window in which it is found. Time is the processor's.

Run it with ``python benchmarks/bench_captures.py [--quick]``.
"""

from __future__ import annotations

import tempfile
import time
from ipaddress import ip_address, ip_network
from pathlib import Path

from msgspec import Struct

from attack_captures import KINDS, Made, make
from phalanx.analytics.capture import CaptureFindings, analyse
from tables import QUICK, console, show

SEED = 1


class Score(Struct):
    """How right the verdicts on one capture are."""

    attackers: int
    """Named ones, or 1 for all forged ones together."""
    named: int
    """Of them, with the right kind."""
    others: frozenset[str]
    """Honest addresses that are named as sources, or told to be attacked though they are not."""
    delay_s: float | None
    """From the first packet of the attack to the first right verdict, in seconds."""
    wrong: frozenset[str]
    """Kinds that are wrong, of attackers and targets."""


def score(made: Made, found: CaptureFindings, kind: str) -> Score:
    """Hold verdicts against what is true."""
    right = [f for f in found.flows if f.finding.source in made.attackers]
    named = {f.finding.source for f in right if f.finding.kind == kind}
    forged = bool(kind) and not made.attackers
    hits = [
        f for f in found.targets
        if forged and f.finding.spoofed and f.finding.kind == kind
        and _attacked(f.finding.target, made)
    ]  # fmt: skip
    others = {str(f.finding.source) for f in found.flows} - made.attackers
    others |= {f.finding.target for f in found.targets if not _attacked(f.finding.target, made)}
    since = [f.told_s for f in (hits if forged else right) if f.finding.kind == kind]
    delay = min(since) - made.first_s if since and made.first_s is not None else None
    everything = [*right, *found.targets]
    return Score(
        1 if forged else len(made.attackers),
        bool(hits) if forged else len(named),
        frozenset(others),
        delay,
        frozenset(f.finding.kind for f in everything) - {kind},
    )


def _attacked(target: str, made: Made) -> bool:
    """Whether what is told to be attacked is: an address, or a prefix of which several are."""
    if "/" not in target:
        return target in made.targets
    network = ip_network(target)
    return sum(ip_address(each) in network for each in made.targets) > 1


def main() -> None:
    """Make, judge and show all captures."""
    rows, packets, seconds = [], 0, 0.0
    wrong, told = 0, set()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "some.pcap"
        for name, (kind, _) in KINDS.items():
            for family in (4, 6):
                made = make(name, family, SEED, 0.5 if QUICK else 1.0)
                made.write(file)
                began = time.process_time()
                found = analyse(str(file))
                took = time.process_time() - began
                seen = score(made, found, kind)
                packets, seconds = packets + found.packets, seconds + took
                missed = seen.attackers - seen.named
                wrong += missed + len(seen.others)
                told |= {f"{name}: {each}" for each in seen.others}
                rows.append(
                    (
                        f"{name}, IPv{family}",
                        f"{seen.attackers}" if made.attackers or not kind else "forged",
                        f"{seen.named:d}",
                        f"{missed}",
                        f"{len(seen.others)} of {len(made.honest)}",
                        "-" if seen.delay_s is None else f"{seen.delay_s:.1f}",
                        ", ".join(sorted(seen.wrong)),
                        f"{found.packets / took:,.0f}",
                    )
                )
    columns = (
        "capture", "attackers", "named", "missed", "honest named", "delay, s", "other kinds",
        "packets/s",
    )  # fmt: skip
    show("Verdicts on captures", columns, rows)
    console.print(f"{packets:,} packets in {seconds:.1f} s: {packets / seconds:,.0f} packets/s.")
    console.print(f"Attackers missed or honest addresses named: {wrong}.")
    for line in sorted(told)[:20]:
        console.print(f"Named and honest: {line}")


if __name__ == "__main__":
    main()
