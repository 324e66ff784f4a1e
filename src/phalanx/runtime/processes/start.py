"""What every process is made with: its identity, its plan, and the real bus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phalanx.bus.client import BrokerClient
from phalanx.bus.nats import NatsClient
from phalanx.bus.nats.connection import DEAF_S
from phalanx.clock.wall import WallClock
from phalanx.fabric.access import STANDARD_POLICY, AccessPolicy, load_policy
from phalanx.fabric.registration import END_TO_END, Area
from phalanx.identity import IdentityError
from phalanx.identity.names import Role
from phalanx.runtime.domain import Bundle, read_bundle
from phalanx.runtime.processes.certificates import Certificates
from phalanx.runtime.processes.shell import Shell, run_clock
from phalanx.runtime.processes.spec import ProcessSpec

LEAST_DEAF_S = 0.5
"""A broker may be silent for as long, in real seconds, however short the plan's times are."""


@contextmanager
def connected(bundle: Bundle, clock: WallClock, deaf_s: float = DEAF_S) -> Iterator[BrokerClient]:
    """Have an exchange of an identity, which connects as soon as the clock runs.

    Another broker is tried after ``deaf_s`` real seconds of silence. What waits to be sent at
    the end is sent, if there is a connection.
    """
    exchange = NatsClient(
        bundle.identity,
        clock,
        bundle.servers,
        bundle.live.tls,
        secret=bundle.credentials.secret,
        deaf_s=deaf_s,
    )
    try:
        yield exchange
    finally:
        exchange.finish()


def bundle_of(spec: ProcessSpec, role: Role) -> Bundle:
    """Return who the process is.

    Raises:
        IdentityError: if it is not of this role, or its files are not usable.

    """
    if not Path(spec.bus).is_file():
        raise IdentityError(
            f"{spec.bus}: there is no such file; phalanx domain add DIR NAME --role {role.value} "
            "makes it, in a directory of which a copy belongs here"
        )
    bundle = read_bundle(Path(spec.bus))
    if bundle.identity.role is not role:
        raise IdentityError(
            f"{spec.bus}: {bundle.identity.name} has the role {bundle.identity.role.value}; "
            f"this process needs {role.value}"
        )
    return bundle


def shell_of(
    spec: ProcessSpec,
    bundle: Bundle,
    *,
    capabilities: tuple[str, ...],
    scope: Area = END_TO_END,
    silence_s: float | None = None,
) -> Shell:
    """Return the shell of a process that is somebody.

    Args:
        spec: what it was started with.
        bundle: who it is.
        capabilities: what it is registered with.
        scope: what it cares for.
        silence_s: when others would take it for dead, in seconds of the run; a broker that
            hangs is left in half of that. None: nobody would.

    Raises:
        PhalanxError: with one line, if a file is not usable or the state is another's.

    """
    speed = 1.0 if spec.run is None else spec.run.speed
    deaf_s = DEAF_S
    if silence_s is not None:
        deaf_s = min(DEAF_S, max(LEAST_DEAF_S, silence_s / 2 / speed))
    shell = Shell(
        run_clock(spec.run),
        lambda clock: connected(bundle, clock, deaf_s),
        Path(spec.state),
        cause=None if spec.run is None else spec.run.cause,
        policy=_policy(spec),
        capabilities=capabilities,
        scope=scope,
        speed=speed,
    )
    certificates = Certificates(
        bundle.live, shell.exchange, shell.clock, shell.recorder.record, shell.cause, speed=speed
    )
    shell.checks.add("certificate", certificates.wrong)
    return shell


def _policy(spec: ProcessSpec) -> AccessPolicy:
    return STANDARD_POLICY if spec.access is None else load_policy(spec.access)
