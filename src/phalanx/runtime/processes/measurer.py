"""What measures the agents of one machine: a process of its own, with a key that no agent has.

It finds an agent's process by its systemd unit or by a file with its number, and gives evidence
to that process alone: the kernel says who asks. It keeps nothing but its key, and what it
learned of genuine agents, so it may be ended and started at any time. While it does not run the
agents have no evidence, which is held against nobody as long as it is so for most of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from phalanx.clock.wall import WallClock
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError, ScenarioError
from phalanx.identity.files import read_secret
from phalanx.identity.names import Role
from phalanx.loading import open_file
from phalanx.runtime.environment import Say
from phalanx.runtime.processes.process import bundle_of
from phalanx.runtime.processes.spec import AgentSpec, MeasurerSpec, read_spec
from phalanx.runtime.processes.trusting import enrolment_of, genuine, learned_calls
from phalanx.trust.attesting import Measured, MeasurerSocket
from phalanx.trust.evidence import RepositoryFolder, public
from phalanx.trust.hardening import signing_key
from phalanx.trust.measurement import ReferenceValues
from phalanx.trust.roots import TpmRoot

_KEY, _REPOSITORY, _TPM = "key", "repository", "tpm.handle"
"""Names in its state directory."""


def process_of(where: str) -> int | None:
    """Return the number of an agent's process; None: it does not run, or that cannot be told.

    Args:
        where: a systemd unit; or, with a slash in it, a file that holds the number. A file that
            another user could have written is not believed.

    """
    try:
        if "/" in where:
            with open_file(where) as file:
                found = os.fstat(file.fileno())
                foreign = found.st_uid != os.geteuid() or found.st_mode & 0o022
                text = b"" if foreign else file.read(20)
        else:
            words = ("systemctl", "show", "--property=MainPID", "--value", where)
            text = subprocess.run(  # noqa: S603  # a unit that root has named
                words, capture_output=True, check=False, timeout=5.0
            ).stdout
        return int(text) or None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def learn(
    config: Path, configs: Iterable[Path], values: Path | None, say: Say, calls_s: float = 0.0
) -> None:
    """Learn what genuine agents of this machine look like, and write what is to be enrolled.

    Args:
        config: the measurer's file; its key is made if it has none.
        configs: the files that the agents are started with.
        values: a file of reference values that were learned elsewhere; None: an agent is started
            for it, as this program was.
        say: told in one line what is done.
        calls_s: how long it is learned which function calls which, of an agent that is started
            for it and then of those that run; 0: not at all.

    Raises:
        PhalanxError: with one line, if a file is not usable or nothing can be measured here.

    """
    spec = read_spec(MeasurerSpec, config)
    state = Path(spec.state)
    program = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    known: dict[str, ReferenceValues] = {}
    learned: list[tuple[AgentId, bytes, str]] = []
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        given = None if values is None else ReferenceValues.decode(values.read_bytes())
    except OSError as error:
        raise PhalanxError(f"{error.filename}: {error.strerror}") from None
    if calls_s and given is not None and given.calls is None:
        raise ScenarioError(f"{values}: calls were not learned there, so no more can be learned")
    key, repository = signing_key(state / _KEY), RepositoryFolder(state / _REPOSITORY)
    tpm = _tpm(spec)
    root = None if tpm is None else tpm.enrol()
    for file in configs:
        agent = read_spec(AgentSpec, file)
        name = bundle_of(agent, Role.AGENT).identity.name
        if agent.trust is None:
            raise ScenarioError(f"{file}: trust: is missing: it takes no part in attestation")
        if name not in spec.agents:
            raise ScenarioError(f"{file}: {name} is none of the measurer's agents")
        secret = read_secret(Path(agent.trust.secret))
        if agent.plan not in known:
            with tempfile.TemporaryDirectory(prefix="phalanx-") as folder:
                rehearsal, path = Path(folder) / "rehearsal", Path(agent.plan)
                if (found := given) is None:
                    found, _ = genuine(rehearsal, path, say, program, calls_s=calls_s)
                known[agent.plan] = found
        pid = process_of(spec.agents[name]) if calls_s else None
        if pid is not None:
            known[agent.plan] = learned_calls(known[agent.plan], pid, calls_s, say)
        learned.append((name, secret, agent.plan))
    for name, secret, plan in learned:
        enrolment = enrolment_of(name, secret, public(key), known[plan], root)
        repository.put(enrolment, known[plan])
        say(f"{name}: its enrolment is {state / _REPOSITORY / name}.json; verifiers need it")


def _tpm(spec: MeasurerSpec) -> TpmRoot | None:
    return None if spec.tpm is None else TpmRoot(spec.tpm, Path(spec.state) / _TPM, spec.pcrs)


def measure(config: Path, say: Say, stop: Callable[[], bool]) -> None:
    """Serve evidence until ``stop`` says true.

    Args:
        config: the measurer's file.
        say: told in one line once all is ready.
        stop: asked often.

    Raises:
        PhalanxError: with one line, if nothing was learned of an agent, or the socket or a file
            cannot be used.

    """
    spec = read_spec(MeasurerSpec, config)
    state = Path(spec.state)
    if not (state / _KEY).is_file():
        raise ScenarioError(f"{state}: has no key yet; phalanx trust learn makes it")
    key, learned = signing_key(state / _KEY), RepositoryFolder(state / _REPOSITORY)
    agents: dict[AgentId, Measured] = {}
    root = _tpm(spec)
    for name, where in spec.agents.items():
        enrolment = learned.get(name)
        values = None if enrolment is None else learned.values(enrolment.reference)
        if enrolment is None or values is None or enrolment.key != public(key):
            raise ScenarioError(f"{state}: nothing was learned of {name}; phalanx trust learn")
        if (enrolment.root is None) is not (root is None):
            how = "without" if enrolment.root is None else "with"
            raise ScenarioError(f"tpm: {name} was learned {how} a TPM; phalanx trust learn")
        if root is not None and enrolment.root is not None:
            root.tried(enrolment.root)  # a TPM that is not usable is told now, not by silence
        agents[name] = Measured(name, partial(process_of, where), key, values)
    try:
        group = None if spec.group is None else grp.getgrnam(spec.group).gr_gid
    except KeyError:
        raise ScenarioError(f"group: there is no group {spec.group} here") from None
    clock = WallClock()
    served = MeasurerSocket(Path(spec.socket), agents, group, root, spec.samples_per_s)
    serving = clock.loop.create_task(served.serve())
    for name in agents:
        served.expect(name)
    try:
        say(f"measures {', '.join(agents)} for {spec.socket}; Ctrl-C ends it")
        while not stop() and not serving.done():
            clock.run(clock.now() + 0.2)
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            clock.loop.run_until_complete(serving)
    except OSError as error:
        raise PhalanxError(f"{spec.socket}: cannot be served: {error.strerror}") from None
    finally:
        served.close()
        clock.close()
