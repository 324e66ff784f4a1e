"""Reading links: cumulative counters of the Link Monitor's process, made into rates."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from urllib.parse import quote

from phalanx.domain.actions import Failed, LinkSample, ReadLink
from phalanx.domain.network import LinkId, PopId, link_ends
from phalanx.infrastructure import Answer
from phalanx.infrastructure.linux.ground import Ground
from phalanx.infrastructure.linux.jobs import JobError, Jobs
from phalanx.infrastructure.linux.programs import Programs

ROLE = "link-monitor"
HISTORY_S = 60.0


@dataclass(slots=True, eq=False)
class _Meter:
    instance: str
    resource: str
    readings: deque[tuple[float, int]] = field(default_factory=deque)
    """(time of the kernel's counter, octets), cumulative."""


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
        """Answer with the link's rate over the last ``seconds``, MB/s."""
        try:
            device = self._ground.device(action.link)
        except KeyError:
            answer(Failed(f"no link {action.link}"))
            return
        if link_ends(action.link)[0] != pop:
            answer(Failed(f"link {action.link} does not begin at {pop}"))
            return
        if not 0 < action.seconds <= HISTORY_S:
            answer(Failed(f"counters go back {HISTORY_S:g} s, not {action.seconds:g} s"))
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
            body = {"device": device, "connections": True}
            await self._programs.ask(instance, "PUT", resource, body)
            meter = self._meters[action.link] = _Meter(instance, resource)
        counters = await self._programs.ask(instance, "GET", meter.resource)
        readings = meter.readings
        readings.append((counters["time"], counters["octets"]))
        while len(readings) > 2 and counters["time"] - readings[1][0] >= action.seconds:
            readings.popleft()
        (then, before), (now, after) = readings[0], readings[-1]
        rate = (after - before) / (now - then) / 1e6 if now > then else 0.0
        bandwidth = self._bandwidth_mb_s[action.link]
        return LinkSample(action.link, rate, bandwidth, counters["connections"])
