"""What every process is made with: its identity, its plan, and the real bus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phalanx.bus.exchange import Exchange
from phalanx.bus.identities import Files, IdentityError, tls_context
from phalanx.bus.nats import NatsExchange
from phalanx.bus.permissions import Role
from phalanx.clock.wall import WallClock
from phalanx.fabric.access import STANDARD_POLICY, Policy
from phalanx.fabric.access_files import load_policy
from phalanx.fabric.scope import END_TO_END, Scope
from phalanx.runtime.domain import Bundle, read_bundle
from phalanx.runtime.processes.shell import Shell, run_clock
from phalanx.runtime.processes.spec import ProcessSpec


@contextmanager
def connected(bundle: Bundle, files: Files, clock: WallClock) -> Iterator[Exchange]:
    """Have an exchange of an identity, which connects as soon as the clock runs.

    What waits to be sent at the end is sent, if there is a connection.

    Raises:
        IdentityError: if its files are not usable.

    """
    exchange = NatsExchange(
        bundle.identity,
        clock,
        bundle.servers,
        tls_context(files),
        secret=bundle.credentials.secret,
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
    scope: Scope = END_TO_END,
) -> Shell:
    """Return the shell of a process that is somebody.

    Raises:
        PhalanxError: with one line, if a file is not usable or the state is another's.

    """
    files = Files.of(Path(spec.bus).parent)
    return Shell(
        run_clock(spec.run),
        lambda clock: connected(bundle, files, clock),
        Path(spec.state),
        cause=None if spec.run is None else spec.run.cause,
        policy=_policy(spec),
        capabilities=capabilities,
        scope=scope,
        speed=1.0 if spec.run is None else spec.run.speed,
        tracing=spec.tracing,
    )


def _policy(spec: ProcessSpec) -> Policy:
    return STANDARD_POLICY if spec.access is None else load_policy(spec.access)
