"""Certificates that change while a domain of real processes runs."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from phalanx.bus.nats.client import NatsClient
from phalanx.fabric.registration import HealthStatus
from phalanx.identity.authority import Authority
from phalanx.identity.certificates import fingerprint
from phalanx.identity.credentials import Files, tls_context
from phalanx.identity.names import Role
from phalanx.identity.trust import pem, read_certificate
from phalanx.runtime.domain.spec import read_bundle
from phalanx.runtime.processes.auditor import start_auditor
from tests.system.process_lab import Lab, processes

pytestmark = processes()

GUEST = "guest"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path, others=((GUEST, Role.AGENT),)) as made:
        yield made


@contextmanager
def auditor(lab: Lab) -> Iterator[int]:
    """Have the auditor run, and killed in the end."""
    lives = len(lab.of("process.started", agent="broker1"))
    pid = start_auditor(lab.testbed.domain, lab.testbed.brokers.running)
    try:
        lab.until(
            lambda: len(lab.of("process.started", agent="broker1")) > lives, "the auditor runs"
        )
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextmanager
def thief(lab: Lab, folder: Path) -> Iterator[NatsClient]:
    """Try to connect with the files of a folder, again and again."""
    bundle = read_bundle(folder / "bus.toml")
    exchange = NatsClient(bundle.identity, lab.clock, bundle.servers, tls_context(Files.of(folder)))
    try:
        yield exchange
    finally:
        exchange.finish(within_s=1.0)


def copied(lab: Lab, name: str) -> Path:
    folder = lab.folder / "stolen" / name
    shutil.copytree(lab.testbed.bus(name).parent, folder)
    return folder


def certificate_of(lab: Lab, name: str) -> Path:
    return lab.testbed.bus(name).parent / "cert.pem"


def test_an_agent_takes_its_new_certificate_while_it_runs(lab: Lab) -> None:
    lab.start("north")
    lab.until(lambda: lab.serving("north"), "north serves")
    (held,) = lab.of("certificate.holds", agent="north")
    assert 89 < held.event.data["days"] <= 90
    pids = {h.event.data["process"] for h in lab.of("process.started", agent="north")}

    soon = Authority.open(lab.testbed.domain.folder / "authority", "run")
    path = certificate_of(lab, "north")
    path.write_bytes(pem(soon.renew(read_certificate(path), days=1)))  # in place, as tar does
    lab.until(lambda: len(lab.of("certificate.holds", agent="north")) == 2, "it is in use")
    assert 0.9 < lab.of("certificate.holds", agent="north")[1].event.data["days"] <= 1
    assert lab.status("north").health.status is HealthStatus.OK  # a quarter of its life is 6 h

    octets = path.read_bytes()
    path.write_bytes(octets[:300])
    lab.until(lambda: lab.of("certificate.unused", agent="north"), "half a file is told of")
    lab.eventually(
        lambda: any("is no certificate" in why for why in lab.status("north").health.reasons),
        "the status tells it",
    )
    path.write_bytes(octets)
    lab.eventually(lambda: lab.status("north").health.status is HealthStatus.OK, "all is well")
    lab.testbed.domain.renew("north")
    lab.until(lambda: len(lab.of("certificate.holds", agent="north")) == 3, "the last is in use")

    (server,) = lab.testbed.brokers.servers
    server.stop()
    server.start()
    lab.until(lambda: lab.serving("north"), "north serves after the broker's restart")
    lab.eventually(lambda: lab.status("north").health.status is HealthStatus.OK, "it answers")
    assert {h.event.data["process"] for h in lab.of("process.started", agent="north")} == pids


def test_a_revoked_agent_is_out_at_once_and_its_name_comes_back_with_a_new_key(lab: Lab) -> None:
    with auditor(lab):
        lab.start(*lab.pops)
        lab.until(lambda: lab.serving(*lab.pops), "all agents serve")
        victim, *others = lab.pops
        stolen = copied(lab, victim)
        key = fingerprint(read_certificate(stolen / "cert.pem"))

        lab.testbed.domain.revoke(victim)
        lab.testbed.brokers.reload()
        lab.until(lambda: lab.of("identity.revoked", name=victim, key=key), "the broker tells it")
        lab.until(
            lambda: {h.event.agent for h in lab.of("revocations.known")} >= {*others},
            "the others know it",
        )
        lab.until(lambda: not lab.serving(victim), "its lease has run out")

        with thief(lab, stolen) as stranger:
            lab.until(
                lambda: [
                    h
                    for h in lab.of("access.refused", subject=victim)
                    if h.event.data["action"] == "key"
                ],
                "who comes with the old key is told by name",
            )
            lab.testbed.domain.add(victim, Role.AGENT)
            lab.testbed.brokers.reload()
            lab.until(lambda: lab.of("identity.admitted", name=victim), "the broker tells it")
            lab.until(lambda: lab.serving(victim), "its process has taken the new key")
            lab.rest(1.0)
            assert not stranger.connected
        lab.eventually(lambda: lab.status(victim).health.status is HealthStatus.OK, "it answers")
        assert len(lab.of("process.started", agent=victim)) == 1
        assert not [h for h in lab.of("access.refused") if h.event.data["action"] == "identity"]


def test_an_auditor_goes_on_where_it_was_killed(lab: Lab) -> None:
    stolen = copied(lab, GUEST)

    def refusals() -> int:
        return len(lab.of("access.refused", subject=GUEST))

    with auditor(lab):
        lab.testbed.domain.revoke(GUEST)
        lab.testbed.brokers.reload()
        lab.until(lambda: lab.of("identity.revoked", name=GUEST), "the broker tells it")
    assert refusals() == 0
    with thief(lab, stolen):
        lab.rest(1.0)
    lab.testbed.domain.add(GUEST, Role.AGENT)
    lab.testbed.brokers.reload()
    with auditor(lab):
        lab.until(refusals, "what happened while there was no auditor is told")
        lab.until(lambda: lab.of("identity.admitted", name=GUEST), "and who was let in")
        lab.rest(1.5)
        told = refusals()
    with auditor(lab):
        lab.rest(1.5)
        assert refusals() == told  # and nothing twice
        assert len(lab.of("identity.admitted", name=GUEST)) == 1
