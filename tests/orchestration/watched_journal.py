"""A journal that tells of each step when it is written down, so that a test can end it there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from phalanx.orchestration.journal import Claim, ServiceJournal, StepStage
from phalanx.store.database import Database

Hook = Callable[[str, str], None]
"""Called with ``before`` and ``begun`` around the intention of a step, with ``within`` and
``after`` around its result; of a step that is taken back the name begins with ``undo``."""


class WatchedJournal(ServiceJournal):
    def __init__(self, database: Database, hook: Hook) -> None:
        super().__init__(database)
        self.hook = hook

    def claim(self, name: str) -> Claim:
        claim, hook = super().claim(name), self.hook
        write = claim.step

        def step(
            revision: int, name: str, stage: StepStage, result: Any = None, note: Any = None
        ) -> None:
            begins = stage in (StepStage.INTENDED, StepStage.UNDOING)
            first, last = ("before", "begun") if begins else ("within", "after")
            undo = "undo " if stage in (StepStage.UNDOING, StepStage.UNDONE) else ""
            hook(first, f"{undo}{name}")
            write(revision, name, stage, result, note)
            hook(last, f"{undo}{name}")

        vars(claim).update(step=step)
        return claim
