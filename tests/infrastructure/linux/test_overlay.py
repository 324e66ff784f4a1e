from __future__ import annotations

import os
import secrets
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("vici", reason="vici is not installed")

import vici
from overlay_net import POPS, ROGUE, VNI, LateKeys, Net, overlay, pid_of, remove_rules
from overlay_traffic import (
    Capture,
    Echo,
    Stream,
    Talk,
    all_hear_each_other,
    connects,
    hears,
    listener,
    say,
    vxlan_packet,
)
from vici.exception import CommandException

from phalanx.domain.trust import GroupKeys
from phalanx.infrastructure.linux.kernel.links import ip
from phalanx.infrastructure.linux.overlay import Overlay
from phalanx.infrastructure.linux.overlay_node import (
    PORT,
    EspEngine,
    OverlayError,
    OverlayGuard,
    missing,
)
from phalanx.infrastructure.linux.vnf.nft import Nft
from phalanx.runtime.linux_environment import LedgerKeys
from phalanx.trust.keys import pair_secret

LACK = "needs root: network namespaces" if os.geteuid() != 0 else missing()
if LACK is not None:
    pytest.skip(LACK, allow_module_level=True)
pytestmark = pytest.mark.linux

PATIENCE_S = 10.0

Up = tuple[Overlay, LateKeys]


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    made = Net()
    try:
        made.build()
        yield made
    finally:
        made.destroy()


@pytest.fixture
def up(net: Net) -> Iterator[Up]:
    with overlay(net) as made:
        yield made


def test_all_pairs_talk_and_the_wire_shows_neither_their_words_nor_vxlan(net: Net, up: Up) -> None:
    made, _ = up
    marker = secrets.token_bytes(24)
    ears = {pop: listener(net, pop, made.address(pop)) for pop in POPS}
    capture = Capture(net)
    for pop in POPS:
        for other in POPS:
            if pop != other:
                say(net, pop, made.address(other), marker)
    assert {pop: len(hears(ear)) for pop, ear in ears.items()} == dict.fromkeys(POPS, 3)
    for ear in ears.values():
        ear.close()
    # The proof that the capture would show it: the same words beside the overlay.
    say(net, ROGUE, "10.254.0.1", marker)
    packets = capture.packets()
    shown = {packet[:2] for packet in packets if marker in packet[4] and packet[2] == 17}
    assert shown == {("10.254.0.5", "10.254.0.1")}
    assert all(port != PORT for *_, port, _ in packets)
    protected = [p for p in packets if p[2] == 50 or (p[2] == 17 and p[3] == 4500)]
    assert len(protected) >= 12
    assert made.dropped() == dict.fromkeys(POPS, 0)


def test_rotations_cut_no_connection_and_lose_no_more_than_none(
    net: Net, up: Up, capsys: pytest.CaptureFixture[str]
) -> None:
    made, keys = up
    echo = Echo(net, "pop2", made.address("pop2"))
    talks = [Talk(net, pop, made.address("pop2")) for pop in ("pop1", "pop3", "pop4")]
    stream = Stream(net, ("pop1", made.address("pop1")), ("pop2", made.address("pop2")))
    sent, lost = stream.run(2.0)
    rotations = 0

    def rotate() -> None:
        nonlocal rotations
        for _ in range(4):
            keys.rotate()
            made.rotate()
            rotations += 1

    rounds = [talk.rounds for talk in talks]
    with ThreadPoolExecutor(1) as aside:
        rotating = aside.submit(rotate)
        with_sent, with_lost = stream.run(2.0)
        rotating.result()
    more = [talk.rounds - before for talk, before in zip(talks, rounds, strict=True)]
    for talk in talks:
        talk.end()
    stream.close()
    echo.close()
    with capsys.disabled():
        print(
            f"\nlost without rotation {lost} of {sent} packets, with {rotations} rotations "
            f"{with_lost} of {with_sent}; rounds of TCP meanwhile: {more}"
        )
    assert rotations == 4
    assert [talk.error for talk in talks] == [None] * 3
    assert all(count > 0 for count in more)
    assert with_lost <= lost
    assert all_hear_each_other(net, made.address, POPS)


def test_a_rotation_leaves_only_the_new_secrets(net: Net, up: Up) -> None:
    made, keys = up
    keys.rotate()
    made.rotate()
    for number in range(1, len(POPS) + 1):
        with socket.socket(socket.AF_UNIX) as channel:
            channel.connect(str(net.folder / "ike" / str(number) / "charon.vici"))
            session = vici.Session(channel)
            names = session.get_conns()["conns"]
            assert len(names) == len(POPS) - 1
            assert sorted(session.get_shared()["keys"]) == sorted(names)
            associations = [name for told in session.list_sas() for name in told]
            assert sorted(associations) == sorted(name.decode() for name in names)


def test_a_pair_whose_new_key_is_late_keeps_the_old_one_until_it_comes(net: Net, up: Up) -> None:
    made, keys = up
    keys.late = frozenset(("pop1", "pop3"))
    keys.rotate()
    with pytest.raises(OverlayError, match="pop1 and pop3"):
        made.rotate()
    assert all_hear_each_other(net, made.address, POPS)
    with listener(net, "pop3", made.address("pop3")) as ear:
        say(net, "pop1", made.address("pop3"), b"old")
        keys.late = frozenset()
        made.rotate()
        say(net, "pop1", made.address("pop3"), b"new")
        assert hears(ear) == [b"old", b"new"]


def test_a_rotation_shuts_out_who_is_no_member_any_more(net: Net, up: Up) -> None:
    made, keys = up
    keys.revoke("pop4")
    keys.rotate()
    made.rotate()
    assert all_hear_each_other(net, made.address, POPS[:3])
    with listener(net, "pop1", made.address("pop1")) as ear:
        say(net, "pop4", made.address("pop1"), b"still here")
        assert hears(ear) == []


def test_a_revoked_pop_is_out_within_a_second(net: Net, up: Up) -> None:
    made, keys = up
    echoes = [Echo(net, pop, made.address(pop)) for pop in POPS]
    talk = Talk(net, "pop4", made.address("pop1"))
    assert connects(net, "pop4", made.address("pop2"))
    keys.revoke("pop4")
    begin = time.monotonic()
    made.revoke("pop4")
    took = time.monotonic() - begin
    capture = Capture(net)
    ears = [listener(net, pop, made.address(pop)) for pop in POPS]
    marker = secrets.token_bytes(24)
    for pop in POPS[:3]:
        say(net, "pop4", made.address(pop), marker)
        say(net, pop, made.address("pop4"), marker)
    said = [hears(ear) for ear in ears]
    assert said == [[]] * 4, "something was let through"
    assert took < 1
    assert not connects(net, "pop4", made.address("pop1"), 0.5)
    assert not connects(net, "pop1", made.address("pop4"), 0.5)
    assert connects(net, "pop1", made.address("pop3"))
    packets = capture.packets()
    assert not [p for p in packets if p[1] == "10.254.0.4"], "the others still send to it"
    assert all(marker not in packet and port != PORT for *_, port, packet in packets)
    assert made.dropped()["pop1"] > 0
    talk.end()
    assert isinstance(talk.error, OSError)
    for each in (*ears, *echoes):
        each.close()

    # Its daemon goes on with the old secrets. They are worth nothing, even without the rules.
    for pop in POPS:
        remove_rules(net, pop)
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(net.folder / "ike" / "4" / "charon.vici"))
        session = vici.Session(channel)
        name = next(n.decode() for n in session.get_conns()["conns"] if n.startswith(b"1-4-"))
        with pytest.raises(CommandException):
            list(session.initiate({"ike": name, "child": "vxlan", "timeout": "2000"}))
    with listener(net, "pop1", made.address("pop1")) as ear:
        say(net, "pop4", made.address("pop1"), marker)
        assert hears(ear) == []


def test_a_revocation_waits_for_no_rotation_and_none_brings_the_revoked_back(
    net: Net, up: Up
) -> None:
    made, keys = up
    for delay_s in (0.0, 0.02, 0.1):
        keys.rotate()
        with ThreadPoolExecutor(1) as aside:
            rotating = aside.submit(made.rotate)
            time.sleep(delay_s)
            if delay_s == 0.02:
                begin = time.monotonic()
                made.revoke("pop4")
                assert time.monotonic() - begin < 1
            rotating.result()
    assert all_hear_each_other(net, made.address, POPS[:3])
    for pop in POPS[:3]:
        remove_rules(net, pop)
    with listener(net, "pop1", made.address("pop1")) as ear:
        say(net, "pop4", made.address("pop1"), b"back again")
        say(net, "pop2", made.address("pop1"), b"still here")
        assert hears(ear) == [b"still here"]


def test_a_pop_that_is_readmitted_speaks_again_and_with_nothing_of_before(net: Net, up: Up) -> None:
    made, keys = up
    assert all_hear_each_other(net, made.address, POPS)
    for pop in ("pop4", "pop3"):
        keys.revoke(pop)
        made.revoke(pop)
    assert made.revoked == {"pop3", "pop4"}
    before = pid_of(net, "pop4")
    old = keys.secret("pop1", "pop2")
    keys.admit("pop4")
    made.readmit("pop4")
    assert pid_of(net, "pop4") != before
    assert keys.secret("pop1", "pop2") == old
    assert all_hear_each_other(net, made.address, ("pop1", "pop2", "pop4"))
    with listener(net, "pop3", made.address("pop3")) as ear:  # it alone came back
        say(net, "pop4", made.address("pop3"), b"still out")
        assert hears(ear) == []
    keys.admit("pop3")
    made.readmit("pop3")
    assert all_hear_each_other(net, made.address, POPS)
    keys.rotate()
    made.rotate()
    assert all_hear_each_other(net, made.address, POPS)


def test_a_revoked_pop_still_forwards_what_is_no_part_of_the_overlay(net: Net, up: Up) -> None:
    made, keys = up
    keys.revoke("pop4")
    made.revoke("pop4")
    with listener(net, "pop1", "10.254.0.1") as ear:
        say(net, "pop4", "10.254.0.1", b"a user's")
        assert hears(ear) == [b"a user's"]


def _speaks(net: Net, pop: str) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(str(net.folder / "ike" / str(POPS.index(pop) + 1) / "charon.vici"))
    return channel


def test_an_epochs_secret_opens_nothing_once_it_is_over(net: Net) -> None:
    """A member that is expelled knows the secret of its epoch, and with it that of each pair."""
    keys = LedgerKeys({pop: pop for pop in POPS})
    first, second = secrets.token_bytes(32), secrets.token_bytes(32)
    keys.take(GroupKeys(1, secrets=dict.fromkeys(POPS, first)))

    def proves(group: bytes) -> bool:
        """Whether who has a secret of the group can speak to pop1 as if it were pop2."""
        with _speaks(net, "pop4") as rogue, _speaks(net, "pop1") as daemon:
            session = vici.Session(rogue)
            (name,) = (
                n.decode() for n in vici.Session(daemon).get_conns()["conns"] if b"1-2-" in n
            )
            own, other = (f"fqdn:10.254.0.{number}.{name}" for number in (2, 1))
            secret = pair_secret(group, "overlay pop1", "overlay pop2")
            session.load_shared({"id": "x", "type": "IKE", "data": secret, "owners": [own, other]})
            child = {"local_ts": ["10.253.0.2/32[udp]"], "remote_ts": ["10.253.0.1/32[udp]"]}
            child |= {"mode": "tunnel", "esp_proposals": ["aes128gcm16"]}
            session.load_conn(
                {
                    "x": {
                        "version": "2",
                        "local_addrs": ["10.254.0.2"],
                        "remote_addrs": ["10.254.0.1"],
                        "proposals": ["aes128gcm16-prfsha256-x25519"],
                        "local": {"auth": "psk", "id": own},
                        "remote": {"auth": "psk", "id": other},
                        "children": {"vxlan": child},
                    }
                }
            )
            said = b""
            with suppress(CommandException):  # whether it gets an association matters not
                for told in session.initiate({"ike": "x", "child": "vxlan", "timeout": "3000"}):
                    said += told["msg"]
            assert b"AUTHENTICATION_FAILED" in said or b"successful" in said
            return b"with pre-shared key successful" in said

    made = Overlay(net.folder, VNI, net.places(), keys)
    made.up()
    try:
        keys.take(GroupKeys(2, frozenset({"pop4"}), secrets=dict.fromkeys(POPS[:3], second)))
        made.rotate()
        for pop in POPS:
            remove_rules(net, pop)
        # Its daemon takes the address of a member; the switch brings it the answers.
        net.inside["pop2"].call(ip, "addr del 10.254.0.2/24 dev eth")
        net.inside["pop4"].call(ip, "addr add 10.254.0.2/24 dev eth")
        net.inside["pop1"].call(ip, "neigh flush dev eth")
        assert not proves(first)
        assert proves(second), "it fails for another reason than the secret"
    finally:
        net.inside["pop4"].call(ip, "addr del 10.254.0.2/24 dev eth")
        net.inside["pop2"].call(ip, "addr add 10.254.0.2/24 dev eth")
        made.down()
        net.folder.rmdir()


def test_a_turn_of_the_ledgers_epoch_loses_no_packet(net: Net) -> None:
    keys = LedgerKeys({pop: pop for pop in POPS})
    made = Overlay(net.folder, VNI, net.places(), keys)
    made.up()
    try:
        stream = Stream(net, ("pop1", made.address("pop1")), ("pop2", made.address("pop2")))
        _, lost = stream.run(1.0)

        def turn() -> None:
            for epoch in (1, 2, 3):
                secret = secrets.token_bytes(32)
                held = {"pop1": secret, "pop2": secret}  # to the others it comes late
                keys.take(GroupKeys(epoch, secrets=held))
                made.rotate()
                keys.take(GroupKeys(epoch, secrets=dict.fromkeys(POPS, secret)))
                keys.settle(epoch)
                made.rotate()

        with ThreadPoolExecutor(1) as aside:
            turning = aside.submit(turn)
            _, lost_then = stream.run(3.0)
            turning.result()
        stream.close()
        assert set(made.generations()) == {7}
        assert lost_then <= lost
        assert all_hear_each_other(net, made.address, POPS)
    finally:
        made.down()
        net.folder.rmdir()


def test_a_daemon_that_hangs_holds_up_its_own_pairs_alone(net: Net, up: Up) -> None:
    made, keys = up
    begin = made.generations()
    os.kill(pid_of(net, "pop4"), signal.SIGSTOP)
    try:
        keys.rotate()
        with pytest.raises(OverlayError) as error:
            made.rotate()
    finally:
        os.kill(pid_of(net, "pop4"), signal.SIGCONT)
    assert {pop for pop in POPS if pop in str(error.value)} == set(POPS)
    assert "pop1 and pop2" not in str(error.value)
    assert sorted(made.generations()) == sorted([*begin[:3], *(g + 1 for g in begin[3:])])
    made.rotate()
    assert set(made.generations()) == {begin[0] + 1}
    assert all_hear_each_other(net, made.address, POPS)


def test_a_rogue_packet_from_outside_is_dropped_and_counted(net: Net, up: Up) -> None:
    made, _ = up
    forged = vxlan_packet(made.address("pop2"), made.address("pop1"), b"forged")

    def attack() -> None:
        with net.socket(ROGUE, socket.SOCK_DGRAM) as rogue:
            for _ in range(50):
                rogue.sendto(forged, ("10.254.0.1", PORT))

    with listener(net, "pop1", made.address("pop1")) as ear:
        attack()
        assert hears(ear) == []
        assert made.dropped() == {"pop1": 50, "pop2": 0, "pop3": 0, "pop4": 0}
        remove_rules(net, "pop1")
        attack()
        assert hears(ear) == [b"forged"] * 50, "the forged packets would not have come anyway"


def test_the_rules_for_esp_of_the_kernel_drop_what_came_or_would_go_without(net: Net) -> None:
    guard = OverlayGuard(net.inside["pop1"], f"phx_{secrets.token_hex(4)}", "10.255.0.1")
    guard.raise_up(EspEngine.KERNEL)
    try:
        with (
            net.socket(ROGUE, socket.SOCK_DGRAM) as rogue,
            net.socket("pop1", socket.SOCK_DGRAM) as own,
        ):
            rogue.sendto(b"in", ("10.254.0.1", PORT))
            with pytest.raises(PermissionError):
                own.sendto(b"out", ("10.254.0.2", PORT))
        assert guard.dropped() == 2
    finally:
        guard.lower()


def test_a_machine_beside_a_pop_cannot_speak_in_the_overlay_through_it(net: Net, up: Up) -> None:
    made, _ = up
    routes = net.inside[ROGUE]

    for network in ("10.253.0.0/16", "10.255.0.0/16"):
        routes.call(ip, f"route add {network} via 10.254.0.1")
    with (
        listener(net, "pop1", made.address("pop1")) as beside,
        listener(net, "pop2", made.address("pop2")) as behind,
    ):
        for _ in range(5):
            say(net, ROGUE, made.address("pop1"), b"forged")
            say(net, ROGUE, made.address("pop2"), b"forged")
        assert hears(beside) == hears(behind) == []
        assert made.dropped()["pop1"] == 10
        remove_rules(net, "pop1")
        remove_rules(net, "pop2")
        say(net, ROGUE, made.address("pop1"), b"forged")
        say(net, ROGUE, made.address("pop2"), b"forged")
        assert hears(beside) == hears(behind) == [b"forged"]


def test_a_daemon_that_is_killed_leaks_nothing(net: Net, up: Up) -> None:
    made, _ = up
    pid = pid_of(net, "pop1")
    handle = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    try:
        assert select.select([handle], [], [], PATIENCE_S)[0]
    finally:
        os.close(handle)
    marker = secrets.token_bytes(24)
    capture = Capture(net)
    say(net, "pop1", made.address("pop2"), *[marker] * 5)
    packets = capture.packets()
    assert all(marker not in packet and port != PORT for *_, port, packet in packets)
    assert made.dropped()["pop1"] >= 5


def test_nothing_is_left_and_no_secret_was_written(net: Net) -> None:
    def state(pop: str) -> tuple[object, ...]:
        addresses = subprocess.check_output(["ip", "-4", "-br", "addr"], text=True)  # noqa: S607
        return (
            addresses,
            sorted(Path("/proc/sys/net/ipv4/conf").iterdir()),
            len(Nft().json("list tables")["nftables"]),
        )

    before = {pop: net.inside[pop].call(state, pop) for pop in POPS}
    with overlay(net) as (made, keys):
        pids = [pid_of(net, pop) for pop in POPS]
        secret = keys.secret("pop1", "pop2")
        for pid in pids:
            assert f"PHALANX_RUN={net.run}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
            told = Path(f"/proc/{pid}/cmdline").read_bytes()
            told += Path(f"/proc/{pid}/environ").read_bytes()
            assert secret not in told
            assert secret.hex().encode() not in told
        assert (net.folder / "ike" / "1").stat().st_mode & 0o077 == 0
        for file in (net.folder / "ike").rglob("*"):
            if file.is_file():
                assert secret not in file.read_bytes()
                assert secret.hex().encode() not in file.read_bytes()
        made.down()
        made.down()
        assert not (net.folder / "ike").exists()
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert {pop: net.inside[pop].call(state, pop) for pop in POPS} == before
