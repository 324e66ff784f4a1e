"""Analytics as a service of its own, which loops of several slices share over the fabric.

Source: seed 002, II.A: the functions of a closed loop (MS, AE, DE, ES) may be instantiated for one
loop, or shared by several. What a loop has examined it sends along, so the service holds nothing of
any slice, and no answer depends on what another loop has asked. Who does not serve the slice that
it asks for is refused. A loop that gets no answer in time examines by itself.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from phalanx.analytics.detectors import Finding, load_detector
from phalanx.bdi import Agent, Capability, Perceive, Steps
from phalanx.coordination.contacts import LoopContacts
from phalanx.domain.actions import Invoke, Invoked
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError
from phalanx.domain.series import TrafficWindow
from phalanx.fabric.operations import Operation


class ExamineRequest(Struct, frozen=True):
    """Asks what a detector finds in what was seen of one slice."""

    slice: str
    detector: str
    """Name of one that is installed; of one that reads a file none can be named."""
    window: TrafficWindow


class ExamineAnswer(Struct, frozen=True):
    """What a detector found."""

    findings: tuple[Finding, ...]


EXAMINE = Operation(
    "examine", ExamineRequest, ExamineAnswer, False, "what a detector finds in a window"
)


class WindowExamined(Struct, frozen=True):
    """Percept: what was found in what this agent has seen of a slice."""

    slice: str
    window: TrafficWindow
    findings: tuple[Finding, ...]
    by: AgentId = ""
    """The service; empty: the agent itself."""


class AnalyticsEngine(Capability):
    """Examines what loops have seen; of an agent that stands for no slice, or for theirs."""

    name = "analytics-engine"

    def objection(self, me: Agent, caller: AgentId, request: ExamineRequest) -> str:
        """Return why a caller is refused; empty: it is not."""
        contacts = me.capability(LoopContacts)
        loop = contacts.settings.loops.get(caller)
        if loop is None or request.slice not in loop.slices:
            return f"{caller} is no loop of slice {request.slice}"
        return "" if contacts.trusts(caller) else f"{caller} is not trusted enough"

    def examine(self, request: ExamineRequest) -> ExamineAnswer:
        """Return what the detector finds.

        Raises:
            PhalanxError: with one line, if the request cannot be used.

        """
        series = request.window.series
        if any(len(one.times) != len(one.values) or not one.times for one in series):
            raise PhalanxError("window.series: each needs as many times as values, at least one")
        if ":" in request.detector:
            raise PhalanxError(f"detector: {request.detector!r} reads a file; name another")
        detector = load_detector(request.detector)
        try:
            return ExamineAnswer(tuple(detector.examine(request.window)))
        except Exception as fault:  # whatever it makes of figures that it does not expect
            why = f"{type(fault).__name__}: {fault}"
            raise PhalanxError(f"{request.detector} cannot examine it: {why}") from fault


class SharedAnalytics(Capability):
    """Has what its loop has seen examined by a service, and by itself if none answers."""

    name = "shared-analytics"

    def examine(self, me: Agent, request: ExamineRequest) -> None:
        """Ask the best service that may know of the slice; ``WindowExamined`` is perceived then."""

        def answered(outcome: Any) -> Steps:
            served = isinstance(outcome, Invoked) and me.capability(LoopContacts).trusts(outcome.by)
            by = outcome.by if served else ""
            answer = outcome.answer if served else AnalyticsEngine().examine(request)
            yield Perceive(WindowExamined(request.slice, request.window, answer.findings, by))

        me.perform(Invoke(AnalyticsEngine.name, EXAMINE, request, request.slice), answered)
