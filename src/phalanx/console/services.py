"""Deploys, reconfigures and removes the services of a domain from what the page sends."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from phalanx.console.api import ProblemError
from phalanx.console.controls import Name
from phalanx.domain.errors import PhalanxError
from phalanx.orchestration.workflow.machine import cost_of
from phalanx.orchestration.workflow.model import Asked, Deployment, difference
from phalanx.runtime.services import changed_asked, opened, read_asked

FileName = Annotated[str, Meta(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*\.yaml$")]
FileText = Annotated[str, Meta(max_length=60_000)]


class ServiceAction(Struct, frozen=True):
    """Deploy, reconfigure or remove a service."""

    change: Literal["deploy", "reconfigure", "remove"]
    name: Annotated[str, Meta(max_length=200)] = ""
    """Of the service; not needed to deploy."""
    files: Annotated[dict[FileName, FileText], Meta(max_length=40)] = {}
    """Text by name: NSD, VNFDs, ``sites.yaml`` and ``request.yaml``."""
    without: Annotated[tuple[Name, ...], Meta(max_length=100)] = ()
    """Sites that shall host no agent."""


class DomainServices:
    """The services of a domain; one change at a time.

    Args:
        domain: its directory.

    """

    request = ServiceAction

    def __init__(self, domain: Path) -> None:
        self._domain = domain
        self._changing = threading.Lock()

    def change(self, request: ServiceAction) -> str:
        """Make a change; return what runs then."""
        if not self._changing.acquire(blocking=False):
            raise ProblemError(409, "another change of a service is under way")
        try:
            with opened(self._domain) as orchestrator:
                if request.change == "remove":
                    orchestrator.remove(request.name)
                    return f"{request.name} is removed; its events stay in the history"
                if request.change == "deploy":
                    done = orchestrator.deploy(_asked(request))
                else:
                    asked = _asked(request, orchestrator.asked(request.name))
                    done = orchestrator.reconfigure(request.name, asked)
            where = ", ".join(f"{member.name} at {member.site}" for member in done.agents)
            return f"{done.service} runs: {where}"
        except PhalanxError as error:
            raise ProblemError(409, str(error)) from None
        finally:
            self._changing.release()

    def foresee(self, request: ServiceAction) -> tuple[str, ...]:
        """Return what a change would change, in sentences: also where agents would stand then.

        The placement is computed as the change itself would, from what is in force now.

        Raises:
            ProblemError: if it would be refused; of a placement, why there is none.

        """
        try:
            with opened(self._domain) as orchestrator:
                if request.change == "deploy":
                    asked = _asked(request)
                    return (*_described(asked), *_placed(*orchestrator.foresee(asked)))
                view = orchestrator.show(request.name)
                agents = view.deployment.agents if view.deployment is not None else ()
                if request.change == "remove":
                    names = ", ".join(f"{m.name} at {m.site}" for m in agents) or "no agent"
                    return (
                        f"These agents leave, with their identities and files: {names}.",
                        "Their measures end with them; their events stay in the history.",
                    )
                before = orchestrator.asked(request.name)
                asked = _asked(request, before)
                placed = _placed(*orchestrator.foresee(asked, request.name))
            return (*_differences(before, asked), *placed)
        except PhalanxError as error:
            raise ProblemError(409, str(error)) from None


@contextmanager
def _folder(files: Mapping[str, str]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="phalanx-console-") as name:
        for file, text in files.items():
            (Path(name) / file).write_text(text, encoding="utf-8")
        yield Path(name)


def _asked(request: ServiceAction, before: Asked | None = None) -> Asked:
    """Return what the files of a request ask for, checked whole."""
    if before is None:
        if not request.files:
            raise PhalanxError(
                "give the files of the service: NSD, VNFDs, sites.yaml, request.yaml"
            )
        with _folder(request.files) as folder:
            asked = read_asked(folder, None, None, request.without)
    else:
        with _folder(request.files) as folder:
            sites, wish = folder / "sites.yaml", folder / "request.yaml"
            descriptors = any("nsd" in name or "vnfd" in name for name in request.files)
            asked = changed_asked(
                before,
                folder if descriptors else None,
                sites if sites.exists() else None,
                wish if wish.exists() else None,
                request.without,
            )
            if descriptors:  # a VNFD alone is added to those that are there
                asked = replace(asked, descriptors={**before.descriptors, **asked.descriptors})
    asked.service()
    return asked


def _described(asked: Asked) -> Iterator[str]:
    service = asked.service()
    yield f"Service {service.nsd.id} is deployed from {', '.join(sorted(asked.descriptors))}."
    if asked.without:
        yield f"No agent may stand at {', '.join(asked.without)}."


def _placed(current: Deployment | None, target: Deployment) -> Iterator[str]:
    """Yield where each agent would stand, why there, and what becomes of it."""
    before = {member.name: member for member in (() if current is None else current.all_agents)}
    restarted = {new.name for _, new in difference(current, target).altered}
    for member in target.all_agents:
        old = before.pop(member.name, None)
        becomes = "stays as it is"
        if old is None:
            becomes = "is new: a process of its own, with an identity of this domain"
        elif old.site != member.site:
            becomes = f"moves from {old.site} with what it knows"
        elif member.name in restarted:
            becomes = "is started anew with what it knows"
        serves = "It serves" if member.serves else "It stands"
        yield f"Agent {member.key} at {member.site} {becomes}. {serves} {'; '.join(member.why)}."
    for member in before.values():
        yield f"Agent {member.key} leaves {member.site}, and its measures end."
    yield f"The placement: {cost_of(target)}."


def _differences(before: Asked, after: Asked) -> Iterator[str]:
    for name in sorted({*before.descriptors, *after.descriptors}):
        old, new = before.descriptors.get(name), after.descriptors.get(name)
        if old != new:
            what = "added" if old is None else "removed" if new is None else "changed"
            yield f"{name} is {what}."
    if before.sites != after.sites:
        yield f"The sites are those of {after.sites[0]}, which differ."
    if before.request != after.request:
        yield f"The request is that of {after.request[0]}, which differs."
    if before.without != after.without:
        yield f"No agent stands at {', '.join(after.without) or 'a site of your choice'} any more."
    if before == after:
        yield "Nothing differs from what runs."
