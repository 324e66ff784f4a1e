"""Reading links: rates that the Link Monitor's process has counted.

To ask it ten times a second is most of what a quiet site costs, so it holds back an answer that
tells nothing new.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from phalanx.domain.actions import Failed, LinkSample, ReadLink
from phalanx.domain.network import LinkId, PopId, link_ends
from phalanx.infrastructure import Answer
from phalanx.infrastructure.linux.ground import Ground
from phalanx.infrastructure.linux.jobs import JobError, Jobs
from phalanx.infrastructure.linux.programs import Programs
from phalanx.infrastructure.linux.vnf.links import LARGEST_RATE, LONGEST_S, SHORTEST_S

ROLE = "link-monitor"
TOLD_EVERY_S = 0.5
"""Who reads more often than this is answered so often as long as the rate stays the same."""
SAME = 0.1
"""Share of a link's bandwidth by which a rate may change and be the same."""


@dataclass(slots=True, eq=False)
class _Meter:
    instance: str
    resource: str
    told: float | None = None
    """The last answer, octets per second; None: there was none."""


class LinkMeters:
    """Carries out ``ReadLink`` at PoPs where a Link Monitor runs."""

    def __init__(
        self,
        jobs: Jobs,
        ground: Ground,
        programs: Programs,
        bandwidth_mb_s: dict[LinkId, float],
    ) -> None:
        self._jobs = jobs
        self._ground = ground
        self._programs = programs
        self._bandwidth_mb_s = bandwidth_mb_s
        self._meters: dict[LinkId, _Meter] = {}

    def read(self, pop: PopId, action: ReadLink, answer: Answer) -> None:
        """Answer with the link's rate over the last ``seconds``, MB/s.

        The answer comes as soon as that has changed much since the last, else twice a second.
        """
        try:
            device = self._ground.device(action.link)
        except KeyError:
            answer(Failed(f"no link {action.link}"))
            return
        if link_ends(action.link)[0] != pop:
            answer(Failed(f"link {action.link} does not begin at {pop}"))
            return
        if not SHORTEST_S <= action.seconds <= LONGEST_S:
            answer(
                Failed(f"rates are of {SHORTEST_S:g} to {LONGEST_S:g} s, not {action.seconds:g} s")
            )
            return
        work = self._sample(pop, action, device)
        self._jobs.start(work, answer, lambda reason: answer(Failed(reason)))

    async def _sample(self, pop: PopId, action: ReadLink, device: str) -> LinkSample:
        instance = self._programs.runs(pop, ROLE)
        if instance is None:
            raise JobError(f"no link monitor runs at {pop}")
        meter = self._meters.get(action.link)
        if meter is None or meter.instance != instance:
            resource = f"/links/{quote(action.link, safe='')}"
            what = {"device": device, "connections": True}
            await self._programs.ask(instance, "PUT", resource, what)
            meter = self._meters[action.link] = _Meter(instance, resource)
        bandwidth = self._bandwidth_mb_s[action.link]
        body = {"seconds": action.seconds}
        if meter.told is not None:
            band = min(SAME * bandwidth * 1e6, LARGEST_RATE)
            hold_s = max(0.0, TOLD_EVERY_S - action.seconds)
            body |= {"told": meter.told, "band": band, "hold_s": hold_s}
        found = await self._programs.ask(instance, "POST", meter.resource, body)
        meter.told = found["rate"]
        return LinkSample(action.link, found["rate"] / 1e6, bandwidth, found["connections"])
