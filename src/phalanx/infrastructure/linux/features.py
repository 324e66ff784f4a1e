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
from functools import partial
from pathlib import Path

from msgspec import Struct

from phalanx.infrastructure.linux.kernel import KernelError, cgroups, namespaces
from phalanx.infrastructure.linux.kernel.links import has_kernel_esp, has_netem, ip, shaping
from phalanx.infrastructure.linux.kernel.wire import compiler
from phalanx.infrastructure.linux.vnf.nft import Nft, NftError

_CHARONS = (Path("/usr/lib/ipsec/charon"), Path("/usr/libexec/ipsec/charon"))
OVERLAY = {"strongSwan", "vici", "kernel-libipsec"}
"""What only agents in one process need, whose messages go over it."""
_EXTRA = "pip install 'phalanx[linux]'"
_WORKERS = {"nsenter": "util-linux", "ip": "iproute2", "tc": "iproute2", "bridge": "iproute2"}
_TOOLS = {
    "hping3": "floods in a testbed",
    "slowhttptest": "slow HTTP attacks in a testbed",
    "tcpdump": "captures of what is on the wire",
    "suricata": "looks into packets, for the function ids",
    "curl": "floods of requests in a testbed, and checks by hand",
}
_FROM = {"suricata": "-t bookworm-backports "}
"""Where a package comes from that the release itself does not have."""
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
    """What is there: ``yes``, ``no``, a path, or why it was not tried."""
    used: str
    """What a run uses it for, or does instead."""
    install: str
    """What to install or to do; empty if nothing is missing."""
    works: bool | None
    """None means that it was not tried."""
    needed: bool
    """Whether there is no run without it."""


def probe() -> tuple[Feature, ...]:
    """Try everything a Linux run can use; well below a second. Without root it sees less."""
    return tuple(_probe())


def missing(features: tuple[Feature, ...], *, overlay: bool = True) -> list[str]:
    """Return what a run lacks, a line each; empty if a run is possible.

    What could not be tried for want of something else is left out; and what the overlay alone
    needs, where agents do without.
    """
    needed = [feature for feature in features if feature.needed and feature.works is not True]
    needed = [feature for feature in needed if overlay or feature.name not in OVERLAY]
    absent = [feature for feature in needed if feature.works is False] or needed
    return [
        f"{feature.name}: {feature.found}" + (f" ({feature.install})" if feature.install else "")
        for feature in absent
    ]


def charon() -> Path | None:
    """Return the path of strongSwan's IKE daemon; None if there is none that can be driven."""
    return next((path for path in _CHARONS if path.exists() and _plugin(path, "vici")), None)


def _probe() -> Iterator[Feature]:
    root = os.geteuid() == 0
    able = _try(lambda: namespaces.aside(bool, True)) if root else None
    library = _try(lambda: Nft().close())

    def tried(trial: Callable[[], object]) -> bool | None:
        return _aside(trial) if able else None

    def rules(script: str) -> bool | None:
        return _aside(partial(_rules, script)) if able and library else None

    yield _feature("root", root, "to make and remove what a run needs", "run as root", needed=True)
    use = "one for each PoP, host and attacker"
    install = "a kernel with CONFIG_NET_NS, and CAP_SYS_ADMIN"
    yield _feature("network namespaces", able, use, install, needed=True)
    for name, package in _WORKERS.items():
        yield _tool(name, "work in namespaces", package, needed=True)

    install = "a kernel with CONFIG_NF_TABLES" if library else "apt-get install libnftables1"
    works = rules("table inet phx_probe") if library else False
    yield _feature("nftables", works, "limits, counters, mirrors", install, needed=True)
    for name, script, use, option in (
        ("nft egress hook", _EGRESS, "measures on what a PoP sends", "CONFIG_NETFILTER_EGRESS"),
        ("nft timeouts", _LEASE, "measures that run out by themselves", "CONFIG_NF_TABLES_NETDEV"),
        ("nft dup", _DUP, "mirrors to analysers at other PoPs", "CONFIG_NFT_DUP_NETDEV"),
    ):
        yield _feature(name, rules(script), use, f"a kernel with {option}", needed=True)
    proxy = rules(_PROXY)
    use = _instead(
        "answers handshakes that forged sources begin",
        proxy,
        "forged floods are limited by their target",
    )
    yield _feature("SYNPROXY", proxy, use, "a kernel with CONFIG_NFT_SYNPROXY")

    install = "a kernel with CONFIG_NET_SCH_HTB"
    yield _feature("HTB", tried(_shape), "capacity of links", install, needed=True)
    netem = tried(has_netem)
    use = _instead("delay and loss on links", netem, "delay by TAP pairs, loss by nftables")
    yield _feature("netem", netem, use, "nothing; or a kernel with CONFIG_NET_SCH_NETEM")
    wired = netem is False
    use = "delay on links" if wired else "nothing, as netem delays links" if netem else "delay"
    tap = tried(_tap)
    yield _feature("TUN/TAP", tap, use, "a kernel with CONFIG_TUN, /dev/net/tun", needed=wired)
    cc = compiler()
    install = "apt-get install gcc libc6-dev"
    yield _feature("C compiler", cc is not None, use, install, cc, needed=wired)
    yield _limits()

    use = "the agents' overlay; tunnels to other PoPs"
    yield _feature("VXLAN", tried(_vxlan), use, "a kernel with CONFIG_VXLAN", needed=True)
    daemon = charon()
    lacking = [] if any(map(Path.exists, _CHARONS)) else ["strongswan-charon"]
    install = f"apt-get install {' '.join([*lacking, 'strongswan-swanctl'])}"
    found = str(daemon) if daemon else None if lacking else "charon without its plugin vici"
    use = "keys of the overlay"
    yield _feature("strongSwan", daemon is not None, use, install, found, needed=True)
    vici = importlib.util.find_spec("vici") is not None
    yield _feature("vici", vici, "drives strongSwan", _EXTRA, needed=True)
    kernel = tried(has_kernel_esp)
    use = _instead("encrypts the overlay", kernel, "strongSwan encrypts")
    yield _feature("kernel ESP", kernel, use, "nothing; or a kernel with CONFIG_INET_ESP")
    use = "nothing, as the kernel encrypts" if kernel else "encrypts the overlay in user space"
    plugin = any(_plugin(path, "kernel-libipsec") for path in _CHARONS)
    install = "apt-get install libcharon-extra-plugins"
    yield _feature("kernel-libipsec", plugin, use, install, needed=kernel is False)
    yield _tool("nginx", "the real server of a testbed", "nginx-light", needed=True)
    for name, use in _TOOLS.items():
        yield _tool(name, use, name)


def _limits() -> Feature:
    found = {name: tree.version for tree in cgroups.trees() for name in tree.controllers}
    lacking = [name for name in cgroups.CONTROLLERS if name not in found]
    install = f"make the controllers {', '.join(lacking)} writable"
    text = ", ".join(f"{name} (v{version})" for name, version in found.items())
    use = f"limits of a PoP on {', '.join(found)}" if found else "no limits on PoPs"
    return _feature("control groups", not lacking, use, install, text or "none writable")


def _plugin(daemon: Path, name: str) -> bool:
    return (daemon.parent / f"plugins/libstrongswan-{name}.so").exists()


def tool(name: str) -> str | None:
    """Return where a program of the machine is; None if it is not installed."""
    # Users who are not root often do not have the folders of root's tools on their path.
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _tool(name: str, use: str, package: str, *, needed: bool = False) -> Feature:
    path, install = tool(name), f"apt-get install {_FROM.get(name, '')}{package}"
    return _feature(name, path is not None, use, install, path, needed=needed)


def _feature(
    name: str,
    works: bool | None,
    used: str,
    install: str,
    found: str | None = None,
    *,
    needed: bool = False,
) -> Feature:
    lacking = "root" if os.geteuid() else "what stands above"
    verdict = f"not tried: needs {lacking}" if works is None else "yes" if works else "no"
    return Feature(name, found or verdict, used, install if works is False else "", works, needed)


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
    ip(*shaping("lo", 1.0), program="tc")


def _vxlan() -> None:
    ip("link add name phx0 type vxlan id 1 dstport 4789")


def _tap() -> None:
    handle = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", b"phx0", _IFF_TAP))
    finally:
        os.close(handle)
