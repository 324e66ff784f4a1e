"""A guard that puts blocks in force: ``SITE TARGET SOURCE:SECONDS …``; told of in lines of JSON."""

from __future__ import annotations

import json
import sys
import time
from functools import partial

from phalanx.domain.actions import Enforce
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.infrastructure.linux.driver import LinuxNetwork
from phalanx.runtime.guarding import GuardEnvironment, load_site
from phalanx.runtime.system import System


def main() -> None:
    site = load_site(sys.argv[1])
    environment = GuardEnvironment(site)
    environment.open_state()
    system = System(
        site.to_scenario(60), environment=environment, incarnation=environment.incarnation
    )
    network = system.infrastructure
    assert isinstance(network, LinuxNetwork)
    vnfd = system.catalogue.vnfds["rate-limiter"]

    def told(source: str, seconds: float, outcome: object) -> None:
        line = {"source": source, "until": time.monotonic() + seconds, "outcome": repr(outcome)}
        print(json.dumps(line), flush=True)

    for word in sys.argv[3:]:
        source, _, seconds = word.partition(":")
        ttl_s = float(seconds)
        network.install(site.pop, source, vnfd, units=1, ttl_s=ttl_s, cause=system.cause)
        match = TrafficMatch(source=source, target=sys.argv[2])
        rule = TrafficRule(match, TrafficVerdict.DROP)
        block = Enforce(f"block {source}", source, rule, f"flowRateLimited({source})")
        answer = partial(told, source, ttl_s)
        work = partial(network.perform, site.pop, block, system.cause, answer)
        environment.clock.call_at(0.1, work)
    system.run()


main()
