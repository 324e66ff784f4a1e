"""What this machine offers to a Linux run, found by trying it, and what will be used.

All trials happen in network namespaces without a name, which end with the trial: nothing is
left behind, and nothing of the machine's own network is changed.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from phalanx.infrastructure.linux.kernel import KernelError, cgroups, namespaces
from phalanx.infrastructure.linux.kernel.links import Links, has_kernel_esp, has_netem, index
from phalanx.infrastructure.linux.kernel.wire import compiler
from phalanx.infrastructure.linux.vnf.nft import Nft, NftError

_CHARONS = (Path("/usr/lib/ipsec/charon"), Path("/usr/libexec/ipsec/charon"))
_EXTRA = "pip install 'phalanx[linux]'"
_WORKERS = {"nsenter": "util-linux", "ip": "iproute2"}
_TOOLS = {
    "nginx": "the real server of a testbed",
    "hping3": "floods in a testbed",
    "slowhttptest": "slow HTTP attacks in a testbed",
    "tcpdump": "captures of what is on the wire",
    "curl": "checks by hand",
}
_NFT = """table {family} phx_probe {{
chain c {{ type filter hook {hook} priority 0; {rule}; }}
}}"""
_EGRESS = _NFT.format(family="netdev", hook="egress device lo", rule="accept")
_DUP = _NFT.format(family="netdev", hook="ingress device lo", rule='dup to "lo"')
_PROXY = _NFT.format(
    family="inet", hook="input", rule="tcp dport 1 synproxy mss 1460 wscale 7 timestamp sack-perm"
)
_LEASE = """table netdev phx_probe {
set s { type ipv4_addr; flags dynamic,timeout; timeout 1s; }
}"""
_TUNSETIFF, _IFF_TAP = 0x400454CA, 2


class Feature(Struct, frozen=True):
    """One thing that a run can make use of."""

    name: str
    found: str
    """What is there: ``yes``, ``no``, a path, or why it could not be looked at."""
    used: str
    """What a run uses it for, or does instead."""
    install: str
    """What to install or to do; empty if nothing is missing."""
    works: bool | None
    """None: it could not be looked at."""
    needed: bool
    """Whether there is no run without it."""


def probe() -> tuple[Feature, ...]:
    """Try everything a Linux run can use; well below a second. Without root it sees less."""
    able = os.geteuid() == 0 and _try(lambda: namespaces.aside(bool, True))
    netlink = importlib.util.find_spec("pyroute2") is not None
    look = _Look(able=able, netlink=netlink)
    return (
        *_base(able, netlink),
        *_packets(look),
        *_links(look),
        _limits(),
        *_overlay(look),
        *(_tool(name, use) for name, use in _TOOLS.items()),
    )


def missing(features: tuple[Feature, ...]) -> list[str]:
    """Return what a run lacks, a line each; empty: a run is possible."""
    return [
        f"{feature.name}: {feature.found}" + (f" ({feature.install})" if feature.install else "")
        for feature in features
        if feature.needed and feature.works is not True
    ]


def charon() -> Path | None:
    """Return the path of strongSwan's IKE daemon; None if there is none."""
    return next((path for path in _CHARONS if path.exists()), None)


class _Look:
    """Makes features of trials."""

    def __init__(self, *, able: bool, netlink: bool) -> None:
        self._able = able
        self._netlink = able and netlink

    def packets(self, script: str) -> bool | None:
        """Return whether nftables takes a script."""
        return _aside(lambda: _rules(script)) if self._able else None

    def links(self, trial: Callable[[], object]) -> bool | None:
        """Return whether something can be done with links; inside a namespace."""
        return _aside(trial) if self._netlink else None

    def plain(self, trial: Callable[[], object]) -> bool | None:
        """Return whether something can be done inside a namespace."""
        return _aside(trial) if self._able else None


def _base(able: bool, netlink: bool) -> Iterator[Feature]:
    root = os.geteuid() == 0
    yield _feature("root", root, "to make and remove what a run needs", "run as root", needed=True)
    yield _feature(
        "network namespaces",
        able if root else None,
        "one for each PoP, host and attacker",
        "a kernel with CONFIG_NET_NS, and CAP_SYS_ADMIN",
        needed=True,
    )
    for name, package in _WORKERS.items():
        path = _which(name)
        install = f"apt-get install {package}"
        yield _feature(name, path is not None, "work in namespaces", install, path, needed=True)
    yield _feature("pyroute2", netlink, "links, addresses, queues", _EXTRA, needed=True)


def _packets(look: _Look) -> Iterator[Feature]:
    library = _try(lambda: Nft().close())
    install = "a kernel with CONFIG_NF_TABLES" if library else "apt-get install libnftables1"
    works = look.packets("table inet phx_probe") if library else False
    yield _feature("nftables", works, "limits, counters, mirrors", install, needed=True)
    for name, script, use, option in (
        ("nft egress hook", _EGRESS, "measures on what a PoP sends", "CONFIG_NETFILTER_EGRESS"),
        ("nft timeouts", _LEASE, "measures that run out by themselves", "CONFIG_NF_TABLES_NETDEV"),
        ("nft dup", _DUP, "mirrors to analysers at other PoPs", "CONFIG_NFT_DUP_NETDEV"),
    ):
        works = look.packets(script) if library else False
        yield _feature(name, works, use, f"a kernel with {option}", needed=True)
    proxy = look.packets(_PROXY) if library else False
    use = "answers handshakes that forged sources begin"
    yield _feature(
        "SYNPROXY",
        proxy,
        _instead(use, proxy, "forged floods are limited by their target"),
        "a kernel with CONFIG_NFT_SYNPROXY",
    )


def _links(look: _Look) -> Iterator[Feature]:
    use = "capacity of links"
    htb = look.links(_shape)
    yield _feature("HTB", htb, use, "a kernel with CONFIG_NET_SCH_HTB", needed=True)
    netem = look.links(has_netem)
    use = "delay and loss on links"
    yield _feature(
        "netem",
        netem,
        _instead(use, netem, "delay by TAP pairs, loss by nftables"),
        "nothing; or a kernel with CONFIG_NET_SCH_NETEM",
    )
    wired = netem is False
    use = "delay on links" if wired else "nothing, as netem delays links" if netem else "delay"
    tap = look.plain(_tap)
    yield _feature("TUN/TAP", tap, use, "a kernel with CONFIG_TUN, /dev/net/tun", needed=wired)
    cc = compiler()
    yield _feature(
        "C compiler", cc is not None, use, "apt-get install gcc libc6-dev", cc, needed=wired
    )


def _limits() -> Feature:
    found = {name: tree.version for tree in cgroups.trees() for name in tree.controllers}
    lacking = [name for name in cgroups.CONTROLLERS if name not in found]
    install = f"make the controllers {', '.join(lacking)} writable"
    text = ", ".join(f"{name} (v{version})" for name, version in found.items())
    use = f"limits of a PoP on {', '.join(found)}" if found else "no limits on PoPs"
    return _feature("control groups", not lacking, use, install, text or "none writable")


def _overlay(look: _Look) -> Iterator[Feature]:
    vxlan = look.links(_vxlan)
    use = "the agents' overlay; chains over other PoPs"
    yield _feature("VXLAN", vxlan, use, "a kernel with CONFIG_VXLAN", needed=True)
    daemon = charon()
    yield _feature(
        "strongSwan",
        daemon is not None,
        "keys of the overlay",
        "apt-get install strongswan-charon",
        str(daemon) if daemon else None,
    )
    vici = importlib.util.find_spec("vici") is not None
    yield _feature("vici", vici, "speaks with strongSwan", _EXTRA)
    kernel = look.plain(has_kernel_esp)
    yield _feature(
        "kernel ESP",
        kernel,
        _instead("encrypts the overlay", kernel, "strongSwan encrypts"),
        "nothing; or a kernel with CONFIG_INET_ESP",
    )
    plugins = [path.parent / "plugins/libstrongswan-kernel-libipsec.so" for path in _CHARONS]
    yield _feature(
        "kernel-libipsec",
        any(path.exists() for path in plugins),
        "nothing, as the kernel encrypts" if kernel else "encrypts the overlay in user space",
        "apt-get install libcharon-extra-plugins",
    )


def _tool(name: str, use: str) -> Feature:
    path = _which(name)
    return _feature(name, path is not None, use, f"apt-get install {name}", path)


def _feature(
    name: str,
    works: bool | None,
    used: str,
    install: str,
    found: str | None = None,
    *,
    needed: bool = False,
) -> Feature:
    verdict = "not looked at: needs root" if works is None else "yes" if works else "no"
    return Feature(name, found or verdict, used, install if works is False else "", works, needed)


def _which(name: str) -> str | None:
    # Users who are not root often do not have the folders of root's tools on their path.
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _instead(use: str, works: bool | None, other: str) -> str:
    return f"not there: {other}" if works is False else use


def _aside(trial: Callable[[], object]) -> bool:
    return _try(lambda: namespaces.aside(trial))


def _try(trial: Callable[[], object]) -> bool:
    """Return whether ``trial`` worked: it neither raises nor returns False."""
    try:
        return trial() is not False
    except (KernelError, NftError, OSError):
        return False


def _rules(script: str) -> None:
    with closing(Nft()) as nft:
        nft.run(script)


def _shape() -> None:
    with Links() as links:
        links.shape(index("lo"), 1.0)


def _vxlan() -> None:
    with Links() as links:
        links.vxlan("phx0", 1)


def _tap() -> None:
    handle = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", b"phx0", _IFF_TAP))
    finally:
        os.close(handle)
