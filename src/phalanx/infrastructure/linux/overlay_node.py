"""What the overlay has in one PoP: a VXLAN device, nftables rules around it, an IKE daemon.

RFC 7348 lets a VXLAN learn peers from what arrives and flood what it does not know; both let a
rogue device in. Here the addresses, MACs and endpoints of all peers are given: a packet to an
unknown address has nowhere to go.

A missing security association must never mean clear text, and VXLAN itself takes packets from
any sender. So VXLAN enters and leaves a PoP only through the encryption, the overlay's addresses
are reached only through its device, and the PoP forwards nothing into either: else a machine
at the PoP's switch could use the router to speak in the overlay.

Of a PoP that is revoked all is dropped that has to do with the overlay: what comes from its
addresses in there, and IKE and ESP of its own. What else goes by way of it is users' traffic.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

import vici
from msgspec import Struct
from vici.exception import CommandException

from phalanx.domain.errors import PhalanxError
from phalanx.domain.network import PopId
from phalanx.infrastructure.linux.features import charon
from phalanx.infrastructure.linux.kernel.links import ip, neighbour
from phalanx.infrastructure.linux.kernel.namespaces import Inside, prefix
from phalanx.infrastructure.linux.kernel.runs import VARIABLE
from phalanx.infrastructure.linux.vnf.nft import Nft, NftError

DEVICE, TRAFFIC = "phx-ov", "phx-tr"
"""What carries messages of agents, and what carries traffic of users that is to be encrypted: two
VXLANs over the same associations, so that users reach no agent."""
TABLE, ONWARD, PREFERENCE = 19_999, 19_998, 3_000
"""Of the routes of that traffic, where it enters and where it comes by on a way around; detours
(``tunnels``) go before them."""
PORT = 4789
MTU = 1320
"""Room for VXLAN (50 octets) and for ESP in UDP in a tunnel (at most 80) within 1,500."""
PREFIX = 16
"""Length of the overlay's network prefix."""

ENDPOINTS = IPv4Network("10.253.0.0/16")
"""Where the encapsulated packets travel from and to; a PoP has two addresses of it."""

_START_S = 10.0
_STOP_S = 2.0
_CONFIGURATION = Path("/etc/strongswan.conf")
_SOCKET = "charon.vici"

_HOPS = int(IPv4Address("169.252.0.0"))
_HALF = ENDPOINTS.num_addresses // 2
_PRIVATE = ["unshare", "--mount", "--propagation", "slave", "sh", "-c"]


# The first of two plugins that offer the same is used. The software gcm stays out: ten times
# slower than aesni's and openssl's. Fewer threads than 16 have been seen to block each other.
_SETTINGS = """charon {{
  load = aesni openssl random nonce kdf {engine} socket-default vici
  threads = 16
  retransmit_tries = 4
  retransmit_timeout = 1.0
  retransmit_base = 1.5
  filelog {{
    log {{
      path = /run/charon.log
      default = 0
      ike_name = yes
    }}
  }}
}}
"""
_RULES = """
table inet {table} {{
  counter outside {{ }}
  counter clear {{ }}
  counter revoked {{ }}
  set revoked {{ type ipv4_addr; }}
  set revoked_ends {{ type ipv4_addr; }}
  chain input {{
    type filter hook input priority -300; policy accept;
    ip saddr @revoked counter name revoked drop
    ip saddr @revoked_ends meta l4proto esp counter name revoked drop
    ip saddr @revoked_ends udp dport {{ 500, 4500, {port} }} counter name revoked drop
    {unprotected_in} udp dport {port} counter name outside drop
    iifname != {{ "{device}", "lo" }} ip daddr {overlay} counter name outside drop
  }}
  chain output {{
    type filter hook output priority -300; policy accept;
    ip daddr @revoked counter name revoked drop
    ip daddr @revoked_ends meta l4proto esp counter name revoked drop
    ip daddr @revoked_ends udp dport {{ 500, 4500, {port} }} counter name revoked drop
    {unprotected_out} udp dport {port} counter name clear drop
    oifname != {{ "{device}", "lo" }} ip daddr {overlay} counter name clear drop
  }}
  chain forward {{
    type filter hook forward priority -300; policy accept;
    ip saddr {{ {endpoints}, {overlay} }} counter name outside drop
    ip daddr {{ {endpoints}, {overlay} }} counter name outside drop
    iifname "{device}" counter name outside drop
    oifname "{device}" counter name outside drop
  }}
}}
"""


class OverlayError(PhalanxError):
    """The overlay, or a part of it, could not be set up or changed."""


class EspEngine(Enum):
    """What encrypts; the value says why."""

    KERNEL = "ESP of the kernel (XFRM)"
    USER_SPACE = "ESP of strongSwan in user space (kernel-libipsec): the kernel has none"


_PLUGINS = {
    EspEngine.KERNEL: "kernel-netlink",
    EspEngine.USER_SPACE: "kernel-libipsec kernel-netlink",
}
# How a rule tells that a packet did not come through, or will not go through, the encryption.
_UNPROTECTED = {
    EspEngine.USER_SPACE: ('iifname != "ipsec0"', 'oifname != "ipsec0"'),
    EspEngine.KERNEL: ("meta ipsec missing", "rt ipsec missing"),
}
T = TypeVar("T")


def mac(address: str) -> str:
    """Return the MAC, locally administered, of an overlay address."""
    return ":".join(f"{octet:02x}" for octet in b"\x02\x50" + IPv4Address(address).packed)


def next_hop(address: str) -> str:
    """Return by which address the PoP of an overlay address is reached for users' traffic."""
    return str(IPv4Address(_HOPS + int(IPv4Address(address)) % 2**16))


def _traffic_mac(address: str) -> str:
    return mac(next_hop(address))


class Vxlan:
    """The device ``phx-ov`` in the namespace of one PoP. Its methods block.

    Args:
        inside: a thread in the PoP's namespace.
        vni: the VXLAN network identifier, 0 to 2^24 - 1.
        address: the PoP's address in the overlay.
        entry: device by which users' packets come in; empty: any.

    """

    def __init__(self, inside: Inside, vni: int, address: str, entry: str = "") -> None:
        self._inside = inside
        self._vni = vni
        self._address = address
        # What others send in the clear is not encrypted halfway: so it is seen where it arrives.
        self._rules = (
            f"{f'iif {entry} ' * bool(entry)}lookup {TABLE} pref {PREFERENCE}",
            f"iif {TRAFFIC} lookup {ONWARD} pref {PREFERENCE - 1}",
        )
        self._endpoints: Sequence[str] = ()

    def create(self, endpoints: Sequence[str]) -> None:
        """Make the device, without peers, and give the PoP its endpoints.

        Args:
            endpoints: addresses of the PoP between which encapsulated packets may travel. The
                route to a peer's endpoint says which of them is the source.

        """
        self._endpoints = endpoints
        self._inside.call(
            ip,
            "link set dev lo up",
            *(f"addr add {endpoint}/32 dev lo" for endpoint in endpoints),
            f"link add {DEVICE} address {mac(self._address)} mtu {MTU} up"
            f" type vxlan id {self._vni} dstport {PORT} nolearning",
            f"addr add {self._address}/{PREFIX} dev {DEVICE}",
            f"link add {TRAFFIC} address {_traffic_mac(self._address)} mtu {MTU} up"
            f" type vxlan id {self._vni + 1} dstport {PORT} nolearning",
            *(f"rule add {rule}" for rule in self._rules),
        )

    def connect(self, peer: str, endpoint: str) -> None:
        """Send what is for the overlay address ``peer`` to ``endpoint`` from now on.

        A peer that is known moves in one step: no packet finds it missing.
        """
        entries = (
            f"fdb replace {at} dev {device} dst {endpoint} self permanent"
            for at, device in ((mac(peer), DEVICE), (_traffic_mac(peer), TRAFFIC))
        )
        self._inside.call(ip, *entries, program="bridge")
        hop = neighbour(next_hop(peer), _traffic_mac(peer), TRAFFIC)
        self._inside.call(ip, neighbour(peer, mac(peer), DEVICE), hop)

    def disconnect(self, peer: str) -> None:
        """Send nothing to the overlay address ``peer`` any more; unknown ones are no error."""
        for at, hop, device in (
            (mac(peer), peer, DEVICE),
            (_traffic_mac(peer), next_hop(peer), TRAFFIC),
        ):
            self._inside.call(ip, f"fdb del {at} dev {device}", program="bridge")
            self._inside.call(ip, f"neigh del {hop} dev {device}")

    def lead(self, address: str, peer: str, table: int = TABLE) -> None:
        """Send what is for a user's address to the PoP with the overlay address ``peer``.

        It is what enters here; or, by the table ``ONWARD``, what comes from another PoP encrypted.
        """
        route = f"route replace {address}/32 via {next_hop(peer)} dev {TRAFFIC} table {table}"
        self._inside.call(ip, f"{route} onlink")

    def lead_no_more(self, address: str, table: int = TABLE) -> None:
        """Send it the direct way again; what is not led is no error."""
        self._inside.call(ip, f"route del {address}/32 table {table}")

    def leads(self, address: str, peer: str, table: int = TABLE) -> bool:
        """Whether what is for an address is led to ``peer``."""
        command = ["ip", "route", "show", "table", str(table), f"{address}/32"]
        done = self._inside.call(subprocess.run, command, capture_output=True, check=False)
        return f" via {next_hop(peer)} ".encode() in done.stdout

    def delete(self) -> None:
        """Take the device and the endpoints away; idempotent, also after a half creation."""
        addresses = (f"addr del {endpoint}/32 dev lo" for endpoint in self._endpoints)
        links = (f"link del {device}" for device in (DEVICE, TRAFFIC))
        self._inside.call(ip, *links, *(f"rule del {rule}" for rule in self._rules), *addresses)


class OverlayGuard:
    """The rules of one PoP, in a table of their own. Its methods block.

    Args:
        inside: a thread in the PoP's namespace.
        table: name of the table, ``phx_<8 hexadecimal digits>``.
        address: the PoP's address in the overlay, from which the overlay's network follows.

    """

    def __init__(self, inside: Inside, table: str, address: str) -> None:
        self._inside = inside
        self._nft: Nft | None = None
        self._table = table
        self._overlay = IPv4Network(f"{address}/{PREFIX}", strict=False)

    def raise_up(self, engine: EspEngine) -> None:
        """Put the rules in force, all at once.

        Raises:
            OverlayError: if nftables refuses.

        """
        unprotected_in, unprotected_out = _UNPROTECTED[engine]
        self._change(
            _RULES.format(
                table=self._table,
                device=DEVICE,
                port=PORT,
                overlay=self._overlay,
                endpoints=ENDPOINTS,
                unprotected_in=unprotected_in,
                unprotected_out=unprotected_out,
            )
        )

    def shut_out(self, underlay: str, within: Iterable[str], *, back: bool = False) -> None:
        """Drop what comes from or goes to a PoP in the overlay from now on, or let it in again.

        Args:
            underlay: the PoP's address, of which IKE, ESP and VXLAN are dropped.
            within: its other addresses, of which all is.
            back: whether to let it in, also if it was not shut out.

        Raises:
            OverlayError: if nftables refuses.

        """
        sets = {"revoked": ", ".join(within), "revoked_ends": underlay}
        self._change(
            "\n".join(
                f"{verb} element inet {self._table} {name} {{ {elements} }}"
                for verb in (("add", "delete") if back else ("add",))
                for name, elements in sets.items()
            )
        )

    def dropped(self) -> int:
        """Return how many packets the rules have dropped.

        Raises:
            OverlayError: if nftables refuses.

        """
        told = self._do(lambda nft: nft.json(f"list counters table inet {self._table}"))
        return sum(o["counter"]["packets"] for o in told["nftables"] if "counter" in o)

    def lower(self) -> None:
        """Take the rules away; none there is no error.

        Raises:
            OverlayError: if nftables refuses.

        """
        self._change(f"add table inet {self._table}\ndelete table inet {self._table}")

    def _change(self, script: str) -> None:
        self._do(lambda nft: nft.run(script))

    def _do(self, work: Callable[[Nft], T]) -> T:
        def do() -> T:
            self._nft = self._nft or Nft()  # made in the namespace, so it belongs there
            return work(self._nft)

        try:
            return self._inside.call(do)
        except NftError as error:
            raise OverlayError(f"nftables in {self._inside.name}: {error}") from error


def missing() -> str | None:
    """Return one line on what has to be installed before IPsec can work here, if anything."""
    if charon() is None:
        return "charon with vici is missing: install strongswan-charon and strongswan-swanctl"
    tools = [tool for tool in ("ip", "nsenter", "unshare") if not shutil.which(tool)]
    if tools:
        return f"missing: {', '.join(tools)}"
    return None


class Daemon:
    """A charon in a namespace, with a /run and a configuration of its own. Methods block.

    Args:
        folder: for its socket and its log; readable by its owner only.
        namespace: where it runs.
        run: the mark of this run, which stands in its environment.

    """

    def __init__(self, folder: Path, namespace: str, run: str) -> None:
        self._folder = folder
        self._namespace = namespace
        self._run = run
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process; None while it does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    def start(self, engine: EspEngine) -> None:
        """Start the process and wait until it answers.

        Raises:
            OverlayError: if it is not installed, or dies, or does not answer within 10 s.

        """
        if lack := missing():
            raise OverlayError(lack)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings = self._folder / "strongswan.conf"
        settings.write_text(_SETTINGS.format(engine=_PLUGINS[engine]), encoding="utf-8")
        for left in (_SOCKET, "charon.pid"):
            (self._folder / left).unlink(missing_ok=True)
        # charon's paths are compiled in: it finds its own files at them in a private view.
        view = f'mount --bind "$1" {_CONFIGURATION} && mount --bind "$2" /run && exec {charon()}'
        self._process = subprocess.Popen(  # noqa: S603
            [*prefix(self._namespace), *_PRIVATE, view, "charon", settings, self._folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, VARIABLE: self._run},
            start_new_session=True,
        )
        self._await()

    @contextmanager
    def session(self, patience_s: float = 10.0) -> Iterator[Any]:
        """Speak with the daemon over a connection of its own, so that no one waits for another.

        Args:
            patience_s: how long to wait for each answer.

        Raises:
            OverlayError: if it does not answer or refuses a command.

        """
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(patience_s)
            try:
                self._connect(channel, patience_s)
                yield vici.Session(channel)
            except OSError as error:
                raise OverlayError(f"charon in {self._namespace} does not answer") from error
            except CommandException as error:
                raise OverlayError(f"charon in {self._namespace}: {error}") from error

    def stop(self) -> None:
        """End the process, by force if it has to be; idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _connect(self, channel: socket.socket, patience_s: float) -> None:
        """Connect; where many do at once, a Unix socket refuses instead of letting wait."""
        end = time.monotonic() + patience_s
        while True:
            try:
                channel.connect(str(self._folder / _SOCKET))
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.005)
            else:
                return

    def _await(self) -> None:
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            if self.pid is None:
                raise OverlayError(
                    f"charon in {self._namespace} ended at once; {self._folder}/charon.log says why"
                )
            try:
                with self.session() as session:
                    session.version()
            except OverlayError:
                time.sleep(0.01)
            else:
                return
        self.stop()
        raise OverlayError(f"charon in {self._namespace} does not answer within {_START_S:.0f} s")


class OverlaySite(Struct, frozen=True):
    """A PoP as the overlay needs it."""

    pop: PopId
    namespace: str
    underlay: str
    """The address under which the other PoPs reach it."""
    address: str
    """Its address in the overlay; all lie in one network of 16 bits."""
    entry: str = ""
    """Device by which users' packets come in; empty: any."""


class OverlayNode:
    """Device, rules and IKE daemon of one PoP. Its methods block.

    Args:
        site: where it is.
        number: its place in the order of PoPs, from 1 to 32,766.
        folder: the run's.
        vni: the VXLAN network identifier.

    """

    def __init__(self, site: OverlaySite, number: int, folder: Path, vni: int) -> None:
        self.site = site
        self.number = number
        # Two endpoints, so that a pair can have two associations side by side.
        self.endpoints = tuple(
            str(IPv4Address(int(ENDPOINTS.network_address) + half * _HALF + number))
            for half in (0, 1)
        )
        self._folder = folder / "ike" / str(number)
        self._inside = Inside(site.namespace)
        self.device = Vxlan(self._inside, vni, site.address, site.entry)
        mark = zlib.crc32(f"{folder.name}/overlay/{site.pop}".encode())
        self.guard = OverlayGuard(self._inside, f"phx_{mark:08x}", site.address)
        self.daemon = Daemon(self._folder, site.namespace, folder.name)

    def up(self, engine: EspEngine) -> None:
        """Set it all up, the rules first.

        Raises:
            OverlayError: if a part cannot be.

        """
        self.guard.raise_up(engine)
        self.device.create(self.endpoints)
        self.daemon.start(engine)

    def shut_out(self, other: OverlayNode, *, back: bool = False) -> None:
        """Drop at once all of the overlay that comes from or goes to ``other``, or no more."""
        within = (other.site.address, *other.endpoints)
        self.guard.shut_out(other.site.underlay, within, back=back)

    def down(self) -> None:
        """Take it all away, the rules last; for good."""
        with ExitStack() as last_first:  # one that fails keeps none of the others from ending
            last_first.callback(shutil.rmtree, self._folder, ignore_errors=True)
            last_first.callback(self._inside.close)
            last_first.callback(self.guard.lower)
            last_first.callback(self.device.delete)
            last_first.callback(self.daemon.stop)
