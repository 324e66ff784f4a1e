"""Fixed rules that tell a signalling storm from a crowd of devices.

A device that is not answered waits for its timers before it asks again (3GPP TS 24.501, T3510 and
T3511: 25 s in all), so a crowd, such as after an outage, is many devices that ask once each. Those
of a storm ask again and again. One place of many sees that, too, whenever a few devices there are
busy; a storm is what shows in the sum of all places, and beyond the most that was ever usual there.
"""

from __future__ import annotations

from collections.abc import Iterable

from phalanx.analytics.detectors import SIGNALLING_STORM, Finding
from phalanx.domain.actions import FlowStats
from phalanx.domain.series import TimeSeries, TrafficWindow

NGAP = 38412
"""Port of the signalling between gNBs and AMFs (TS 38.412, clause 7)."""
REQUESTS, AGAIN = "signalling-requests", "signalling-again"
"""Series, in requests/s: all, and those of devices that asked just before."""
LEARNED_S = 60.0
"""What is usual is known after so long."""
SPIKE = 1.5
"""A storm is so many times the most that was usual, and"""
REPEATS = 0.25
"""so much more of it than usual is of devices that asked just before."""
AT_ONCE, STEADY_S = 3.0, 0.5
"""A device asks for so many things at once, and so often a second beside, at most: to register, and
for some sessions. What two timers of 25 s allow is far less."""


def asked(flows: Iterable[FlowStats]) -> dict[tuple[str, str], int]:
    """Return how many requests each device made of each AMF, by (device, address)."""
    found: dict[tuple[str, str], int] = {}
    for flow in flows:
        if flow.port == NGAP and flow.syn:
            key = flow.source, flow.target
            found[key] = found.get(key, 0) + flow.syn
    return found


class SignallingRules:
    """Implements ``Detector``: names devices by their flows, and finds storms by series."""

    def examine(self, window: TrafficWindow) -> list[Finding]:
        """Return devices that ask more often than their timers allow, then storms.

        A storm's target is the subject of the two series ``REQUESTS`` and ``AGAIN``.
        """
        found = []
        most = AT_ONCE + STEADY_S * window.seconds
        for (source, target), count in sorted(asked(window.flows).items()):
            if count > most:
                rate = count / window.seconds
                evidence = {"requests_s": round(rate, 3), "devices_at_most": round(most, 3)}
                reason = (
                    f"asked {count} times in {window.seconds:.3g} s, its timers allow {most:.3g}"
                )
                found.append(Finding(SIGNALLING_STORM, target, source, 0.977, reason, evidence))
        series = {(one.subject, one.name): one for one in window.series}
        for (subject, name), one in series.items():
            again = series.get((subject, AGAIN))
            storm = _storm(one, again) if name == REQUESTS and again is not None else None
            found += [] if storm is None else [storm]
        return found


def _storm(requests: TimeSeries, again: TimeSeries) -> Finding | None:
    *before, last = requests.values
    if requests.times[-1] - requests.times[0] < LEARNED_S or last <= (most := max(before)) * SPIKE:
        return None
    usual = sum(again.values[:-1]) / max(sum(before), 1e-9)
    share = again.values[-1] / last
    if share < usual + REPEATS:
        return None
    reason = (
        f"{last:.3g} requests/s, usually {most:.3g} at most, and {share:.0%} of devices that asked "
        f"just before, usually {usual:.0%}"
    )
    evidence = {"requests_s": round(last, 3), "usual_s": round(most, 3), "again": round(share, 6)}
    return Finding(
        SIGNALLING_STORM, requests.subject, None, 1.0, reason, evidence | {"usual": round(usual, 6)}
    )
