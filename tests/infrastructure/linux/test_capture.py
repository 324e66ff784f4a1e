"""The commands that mirror traffic are commands that nftables takes."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
from linux_needs import requires_root

from phalanx.domain.actions import Observe
from phalanx.infrastructure.linux.capture import Tap, mirror
from phalanx.infrastructure.linux.kernel.links import ip
from phalanx.infrastructure.linux.kernel.namespaces import Inside
from phalanx.infrastructure.linux.vnf.nft import Nft


@pytest.mark.linux
@requires_root
@pytest.mark.parametrize(
    "action",
    [
        Observe("i", 0.5, link="pop1>h"),
        Observe("i", 0.5, ip="10.0.0.1"),
        Observe("i", 60, ip="10.0.0.1", part=3, parts=4),
    ],
)
@pytest.mark.parametrize("limit_mb_s", [0.001, 2.0, inf])
def test_nftables_takes_the_mirror(
    netns: Callable[[str], str], action: Observe, limit_mb_s: float
) -> None:
    tap = Tap("pop1", ("lo",), "lo", action.ip)

    def work() -> dict[str, object]:
        nft = Nft()
        nft.run(mirror("phx_00000000", tap, "lo", action, limit_mb_s))
        return nft.json("list counters table netdev phx_00000000")

    with Inside(netns("a")) as inside:
        inside.call(ip, "link set dev lo up")
        listed = inside.call(work)
    assert str(listed).count("'name': 'offered'") == 1
