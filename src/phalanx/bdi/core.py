"""What every step of an agent uses: the time, the cause, the log, what goes out, what waits."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from phalanx.bdi.memory import FLEETING
from phalanx.bdi.steps import Steps
from phalanx.domain.actions import Action
from phalanx.domain.actions import Outcome as ActionOutcome
from phalanx.domain.agents import AgentId, Scope
from phalanx.domain.events import Recorder, Sink
from phalanx.domain.messages import Content, Message, Performative
from phalanx.domain.network import PopId

if TYPE_CHECKING:
    from phalanx.bdi.intention import Intention


class Perform(Struct, frozen=True):
    """Instruction to the shell: ask the infrastructure, and answer with the token."""

    token: int
    action: Action
    cause: str


Instruction = Message | Perform


class Core:
    """Does no I/O and reads no clock: others set ``now``, and fetch what is to go out."""

    __slots__ = (
        "_acts",
        "_agenda",
        "_counts",
        "_out",
        "_recorder",
        "_resumes",
        "_timers",
        "cause",
        "changes",
        "drained",
        "name",
        "now",
        "pop",
        "scope",
    )

    def __init__(
        self, name: AgentId, pop: PopId | None, scope: Scope, sink: Sink, incarnation: str
    ) -> None:
        self.name = name
        self.pop = pop
        """Where it stands; None: at no PoP, so nothing can be deployed for it there."""
        self.scope = scope
        self.changes = 0
        """Counts what may have changed in ``memory()``: while it stays, so does the memory."""
        self.drained = False
        """Whether the agent has left: its shell ends."""
        self.now = 0.0
        self.cause = ""
        """The event that the present step follows from."""
        self._recorder = Recorder(name, sink, self._read_now, incarnation)
        self._out: list[Instruction] = []
        self._agenda: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._acts: dict[int, tuple[Callable[[ActionOutcome], Steps | None], str]] = {}
        self._resumes: dict[str, Intention] = {}
        self._timers: list[tuple[float, int, str, Callable[[], Steps | None]]] = []
        self._counts = [0, 0, 0]  # timers and actions, messages, goals

    def record(self, kind: str, /, **data: Any) -> str:
        """Record an event caused by what is going on; return its id."""
        if kind not in FLEETING:
            self.changes += 1
        return self._recorder.record(kind, self.cause, **data)

    def tell(
        self, performative: Performative, receiver: AgentId, conversation: str, content: Content
    ) -> None:
        """Send a message."""
        self._counts[1] += 1
        self._out.append(
            Message(
                f"{self._recorder.prefix}:{self._counts[1]}",
                performative,
                self.name,
                receiver,
                conversation,
                content,
                self.cause,
            )
        )

    def perform(
        self,
        action: Action,
        then: Callable[[ActionOutcome], Steps | None],
        cause: str | None = None,
    ) -> None:
        """Ask the infrastructure; ``then`` gets the outcome and runs with the same cause."""
        self._counts[0] += 1
        token, cause = self._counts[0], cause or self.cause
        self._acts[token] = then, cause
        self._out.append(Perform(token, action, cause))

    def call_at(self, when: float, call: Callable[[], Steps | None]) -> None:
        """Run ``call`` at time ``when``, with the present cause."""
        self._counts[0] += 1
        heapq.heappush(self._timers, (when, self._counts[0], self.cause, call))

    def new_id(self, word: str) -> str:
        """Return a name unique to this agent in this run."""
        self._counts[2] += 1
        return f"{self._recorder.prefix}/{word}{self._counts[2]}"

    def expect(self, key: str, intention: Intention) -> None:
        """Note that ``intention`` waits for ``resume(key)``."""
        self._resumes[key] = intention

    def expect_no_more(self, key: str) -> None:
        """Note that nobody waits for ``resume(key)`` any more."""
        self._resumes.pop(key, None)

    def resume(self, key: str, value: object = None) -> None:
        """Go on with the plan that yielded ``Await(key)``; nobody may be waiting."""
        intention = self._resumes.pop(key, None)
        if intention is not None:
            self._agenda.append((intention.go_on, (value, self.cause)))

    def later(self, call: Callable[..., None], *arguments: object) -> None:
        """Run ``call`` in this cycle, after what is on the agenda."""
        self._agenda.append((call, arguments))

    def _settle(self) -> list[Instruction]:
        agenda = self._agenda
        while agenda:
            call, arguments = agenda.popleft()
            call(*arguments)
            if self.drained:
                agenda.clear()
        out = self._out
        if out:
            self._out = []
        return out

    def _read_now(self) -> float:
        return self.now
