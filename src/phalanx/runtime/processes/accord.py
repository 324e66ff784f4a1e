"""The plan of an agent's process: whether the others have the same, and reading it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from phalanx.auction.outlook import Outlook
from phalanx.domain.errors import ScenarioError
from phalanx.fabric.directory import RegistryChange, RegistryEntry
from phalanx.fabric.registration import ServiceState
from phalanx.identity.names import Role
from phalanx.runtime.catalogue import Catalogue, load_catalogue
from phalanx.runtime.composition import first_view, planned_site
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.processes.spec import AgentSpec
from phalanx.runtime.scenario import Scenario, fingerprint

if TYPE_CHECKING:
    from phalanx.runtime.processes.agent import AgentProcess

_FIXED = ("functions", "goals", "parameters", "timing", "bidding")
"""Fields of a plan that an agent takes up at its start alone."""


class Followed(Struct, frozen=True):
    """A plan as one agent follows it."""

    plan: Scenario
    """With the functions that the agent can run."""
    catalogue: Catalogue
    mark: str
    """Fingerprint of the whole plan, also of functions that only others can run."""


def read_plan(spec: AgentSpec) -> Followed:
    """Return the plan that an agent's process is started with.

    Raises:
        ScenarioError: with one line, if it is not usable, or lacks a function that is asked for.

    """
    plan = load_scenario(spec.plan)
    mark = fingerprint(plan)
    if spec.functions is not None:
        unknown = sorted({*spec.functions} - plan.functions.keys())
        if unknown:
            known = ", ".join(sorted(plan.functions))
            raise ScenarioError(f"{spec.plan}: functions: no {unknown[0]}; there are {known}")
        plan = replace(plan, functions={n: plan.functions[n] for n in spec.functions})
    return Followed(plan, load_catalogue(plan), mark)


class Accord:
    """Says by the registration which plan an agent follows, and notices who follows another.

    It only tells: whoever differs is asked for bids as before. A bid by another plan may be a
    bad one, but the infrastructure grants nothing that is not there; to bid no more would part
    the agents in two whenever a plan is handed out site by site, or one file is wrong.
    """

    def __init__(self, process: AgentProcess) -> None:
        """Notice from now on."""
        self._process = process
        self._told: dict[str, tuple[str, str]] = {}
        """Whose plan was told to differ: (its, ours), so that each difference is told once."""
        process.shell.registry.watch(self._changed)

    def reload(self) -> str:
        """Read the plan again, take up its network, and return what came of it in a few words.

        Raises:
            ScenarioError: with one line, if it is not usable or differs in more than the
                network; then nothing is changed.

        """
        process = self._process
        spec, name = process.spec, process.shell.identity.name
        found = read_plan(spec)
        changed = [f for f in _FIXED if getattr(found.plan, f) != getattr(process.plan, f)]
        if changed:
            raise ScenarioError(
                f"{spec.plan}: {', '.join(changed)}: differ from what {name} was started with; "
                "only the network can change while it runs, for more it is started again"
            )
        network = found.plan.to_network()
        if all(pop.name != name for pop in network.pops):
            raise ScenarioError(f"{spec.plan}: network.pops: there is no {name} any more")
        outlook: Outlook = process.agent.capability(Outlook)
        sites = ((pop.name, planned_site(network, pop)) for pop in network.pops)
        # What was heard of a PoP is newer than any plan, so only unknown PoPs are news.
        outlook.view = outlook.view.apply_all(first_view(sites).states)
        process.settings.repository = network.repository
        process.plan = found.plan
        process.shell.registrar.update(plan=found.mark)
        for entry in process.shell.registry.entries():
            self._notice(entry)
        return f"it follows plan {found.mark}, of {len(network.pops)} PoPs"

    def _changed(self, change: RegistryChange) -> None:
        self._notice(change.entry)

    def _notice(self, entry: RegistryEntry) -> None:
        """Tell, once for each difference, of an agent of the same scope with another plan."""
        shell = self._process.shell
        mine, other = shell.registrar.registration, entry.registration
        if other.role is not Role.AGENT or other.area != mine.area or other.owner == mine.owner:
            return
        if entry.state is ServiceState.LEFT:
            self._told.pop(other.owner, None)
        if not (entry.available and entry.confirmed):  # it may have died with that plan long ago
            return
        plans = other.plan, mine.plan
        if not all(plans) or other.plan == mine.plan:
            self._told.pop(other.owner, None)
        elif self._told.get(other.owner) != plans:
            self._told[other.owner] = plans
            shell.recorder.record(
                "agent.differs", shell.cause, pop=other.owner, plan=other.plan, own=mine.plan
            )
