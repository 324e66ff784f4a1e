"""Analytics as a service of its own (AE), which loops of several slices share over the fabric.

What a loop has examined it sends along, so the service holds nothing of any slice, and no answer
depends on what another loop has asked. A loop that gets no answer in time examines by itself.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from phalanx.analytics.detectors import Finding, load_detector
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability
from phalanx.bdi.steps import Perceive, Steps
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError
from phalanx.domain.series import TrafficWindow
from phalanx.fabric.operations import Operation
from phalanx.slices.services import LoopService, SliceRequest


class ExamineRequest(SliceRequest, frozen=True):
    """Asks what a detector finds in what was seen of one slice."""

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


class AnalyticsEngine(LoopService):
    """Examines what loops have seen."""

    name = "analytics-engine"
    operation = EXAMINE

    def serve(self, request: ExamineRequest, now: float = 0.0) -> ExamineAnswer:  # noqa: ARG002
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

        def told(answer: Any, by: AgentId) -> Steps:
            findings = (answer or AnalyticsEngine().serve(request)).findings
            yield Perceive(WindowExamined(request.slice, request.window, findings, by))

        AnalyticsEngine.ask(me, request, told)
