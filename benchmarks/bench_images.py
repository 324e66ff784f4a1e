"""Seconds to protection where every entry needs one image, and the repository's link is thin.

Run it as ``python benchmarks/bench_images.py [entries] [image in MB] [thin link in MB/s] [start of
the attack in s]``. A star of entries, each with users and attackers, who flood one server behind
the hub. Printed is when the filters of all entries stand, in seconds after the first packet of the
attack, and what users get meanwhile.
"""

from __future__ import annotations

import sys

from phalanx.runtime.loading import parse_scenario
from phalanx.runtime.scenario import Scenario
from phalanx.runtime.system import System

DEFAULTS = (12.0, 30.0, 1.0, 60.0)


def flash(entries: int, image_mb: float, thin_mb_s: float, attack_s: float) -> Scenario:
    """Return the scenario: ``entries`` PoPs around a hub, a server's PoP and the repository's."""
    names = [f"e{i:02d}" for i in range(1, entries + 1)]
    pop = "cores: 8, memory_gb: 16, disk_gb: 50"
    pops = "".join(f"    - {{name: {n}, {pop}}}\n" for n in (*names, "hub", "site", "depot"))
    links = "".join(
        f"    - {{between: [{n}, hub], bandwidth_mb_s: {mb_s:g}, latency_ms: 3}}\n"
        for n, mb_s in ((*((n, 20) for n in names), ("site", 60), ("depot", thin_mb_s)))
    )
    at = ", ".join(names)
    return parse_scenario(
        f"""
name: flash
duration_s: 600
network:
  repository: depot
  pops:
{pops}  links:
{links}hosts:
  - {{name: shop, at: site, address: 10.0.0.10, bandwidth_mb_s: 10}}
traffic:
  - {{name: users, profile: http, count: {4 * entries}, at: [{at}], target: shop, port: 443,
     demand_mb_s: 0.05}}
  - {{name: bots, profile: syn-flood, count: {2 * entries}, at: [{at}], target: shop, port: 443,
     demand_mb_s: 1, start_s: {attack_s:g}}}
monitors:
  - {{link: site>shop, at: site, threshold_mb_s: 5}}
functions:
  edge-filter: {{image_mb: {image_mb}, disk_gb: 1}}
""",
        "flash",
    )


def main() -> None:
    """Print the figures."""
    given = [float(word) for word in sys.argv[1:]]
    entries, image_mb, thin_mb_s, attack_s = [*given, *DEFAULTS[len(given) :]]
    system = System(flash(int(entries), image_mb, thin_mb_s, attack_s), 1)
    system.run()
    events = system.log.events
    applied = [e for e in events if e.kind == "measure.applied" and e.data.get("sources")]
    first: dict[str, float] = {}
    for event in applied:
        first.setdefault(str(event.data["entry"]), event.time - attack_s)
    served = [
        event.data["hosts"]["shop"]["legitimate_mb_s"]
        for event in events
        if event.kind == "network.sample" and attack_s < event.time <= 600
    ]
    usual = 0.05 * 4 * entries
    sys.stdout.write(
        f"{len(first)} of {entries:g} entries filtered; first after {min(first.values()):.1f} s, "
        f"last after {max(first.values()):.1f} s; users got "
        f"{100 * sum(served) / len(served) / usual:.1f} % of what they ask for\n"
    )


if __name__ == "__main__":
    main()
