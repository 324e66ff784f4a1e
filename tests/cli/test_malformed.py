"""Malformed input of every kind: one line, exit code 2, and nothing is overwritten.

Valid files of each kind are changed at random, as text or as octets. Each case follows from its
number alone; ``PHALANX_MUTATIONS`` says how many of each kind there are.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import FrameType

import pytest
from typer.testing import CliRunner

from phalanx.bus.nats.client import NatsClient
from phalanx.cli.main import app
from tests.analytics import captures

ROOT = Path(__file__).parents[2]
RING = ROOT / "scenarios" / "quickstart-ring.yaml"
EACH = int(os.environ.get("PHALANX_MUTATIONS", "2"))
LONGEST_S = 300
"""A case that takes longer hangs, also on a busy machine."""

GRAPHML = """<?xml version="1.0"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns">
<key attr.name="label" attr.type="string" for="node" id="d0" />
<key attr.name="Longitude" attr.type="double" for="node" id="d1" />
<key attr.name="Latitude" attr.type="double" for="node" id="d2" />
<key attr.name="LinkSpeedRaw" attr.type="string" for="edge" id="d3" />
<graph edgedefault="undirected">
<node id="0"><data key="d0">Vigo</data><data key="d1">-8.7</data><data key="d2">42.2</data></node>
<node id="1"><data key="d0">Lugo</data><data key="d1">-7.5</data><data key="d2">43.0</data></node>
<node id="2"><data key="d0">Leon</data><data key="d1">-5.5</data><data key="d2">42.6</data></node>
<edge source="0" target="1"><data key="d3">800000000</data></edge>
<edge source="1" target="2" />
<edge source="2" target="0"><data key="d3">400000000</data></edge>
</graph></graphml>
"""
BUS = """domain = "try"
name = "pop1"
servers = ["127.0.0.1:4222"]
"""
AGENT = """bus = "bus.toml"
plan = "own.yaml"
state = "state"
"""
ODD = (
    *(b"", b"0", b"-1", b"9" * 400, b"1e309", b"nan", b"-inf", b"0x10", b"1_000", b"many"),
    *(b"null", b"~", b"true", b"[]", b"{}", b"- ", b": ", b"&a *a", b"!!python/name:os", b"<<: "),
    *(b"\0", b"\xff\xfe", b"\t", b"\r\n", b"\n\n---\n", "é→".encode(), b'"', b"'", b"#", b"%"),
    *(
        b"0.0.0.0",
        b"256.1.1.1",
        b"10.0.0.1/8",
        b"::1",
        b"../../etc/passwd",
        b"/dev/zero",
        b"a" * 99,
    ),
    *(b"default", b"pop1", b"a>b", b"<!DOCTYPE x>", b"&lt;", b"</graph>", b"[" * 300, b"{" * 300),
)


def changed(octets: bytes, chance: random.Random) -> bytes:
    """Return ``octets`` with one to four changes."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(octets) + 1)
        until = min(len(octets), at + chance.choice((1, 1, 4, 40)))
        lines = octets.split(b"\n")
        match chance.randrange(7):
            case 0:
                octets = octets[:at] + bytes([chance.randrange(256)]) + octets[at + 1 :]
            case 1:
                octets = octets[:at] + octets[until:]
            case 2:
                octets = octets[:until] + octets[at:]
            case 3:
                octets = octets[:at] + chance.choice(ODD) + octets[at:]
            case 4:
                octets = octets[:at]
            case 5:
                first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
                lines[first], lines[second] = lines[second], lines[first]
                octets = b"\n".join(lines)
            case _:  # a value
                at = chance.randrange(len(lines))
                key, mark, _ = lines[at].partition(chance.choice((b": ", b" = ", b'":', b'"')))
                lines[at] = key + mark + chance.choice(ODD)
                octets = b"\n".join(lines)
    return octets


@contextmanager
def in_time() -> Iterator[None]:
    def late(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def held(folder: Path) -> dict[Path, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: sha256(path.read_bytes()).digest() for path in files}


def check(folder: Path, *arguments: object, codes: tuple[int, ...] = (0, 2)) -> int:
    """Call a verb: one of these exit codes, one line if it refuses, and all files as they were."""
    before = held(folder)
    with in_time():
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    assert result.exit_code in codes
    if result.exit_code == 2:
        assert result.stdout == ""
        said = [line for line in result.stderr.splitlines() if "left out" not in line]
        assert len(said) == 1
        assert result.stderr.strip()
        after = held(folder)
        assert {path: after.get(path) for path in before} == before
    return result.exit_code


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a valid file of each kind."""
    folder = tmp_path_factory.mktemp("valid")
    shutil.copy(RING, folder / "own.yaml")
    shutil.copy(ROOT / "docs" / "examples" / "site.yaml", folder / "site.yaml")
    shutil.copytree(ROOT / "scenarios" / "services" / "edge-video", folder / "service")
    (folder / "net.graphml").write_text(GRAPHML)
    (folder / "agent.toml").write_text(AGENT)
    packets = captures.syn_flood(0.0, "6.6.6.6", 60)
    (folder / "c.pcap").write_bytes(
        captures.pcap([(t, captures.ethernet(packet)) for t, packet in packets])
    )
    rows = (
        f"2026-01-31T08:00:{s:02},{s % 3},{s}{',' if s % 7 else '.5,'}{s % 2}" for s in range(60)
    )
    (folder / "m.csv").write_text("\n".join(["time,cpu,requests,label", *rows]))
    store = f"sqlite:///{folder / 'events.db'}"
    assert (
        check(folder, "run", RING, "--until", 20, "--log", folder / "l.jsonl", "--store", store)
        == 0
    )
    assert check(folder, "domain", "init", folder / "try") == 0
    assert check(folder, "domain", "add", folder / "try", "pop1") == 0
    shutil.copytree(folder / "try" / "identities" / "pop1", folder / "pop1")
    return folder


def verbs(folder: Path, kind: str) -> tuple[list[object], ...]:
    """Return the calls that read a file of a kind."""
    file = folder / kind
    out = folder / "out.html"
    match kind.rpartition(".")[2]:
        case "graphml":
            return (["run", RING, "--topology", file, "--until", 0],)
        case "jsonl":
            return ["explain", file], ["explain", file, "attack"], ["report", file, out]
        case "pcap":
            return (["detect", file],)
        case "csv":
            made = folder / "made.csv"
            step = "--step", 5, "--counter", "requests"
            return ["collect", file, made], ["collect", file, made, *step]
        case "db":
            return ["history", file], ["history", file, "--kind", "measure"]
    match kind.partition("/")[0]:
        case "own.yaml":
            return (["validate", file],)
        case "site.yaml":
            return (["guard", file, "--dry-run"],)
        case "agent.toml":
            return (["agent", "--config", file],)
        case "service":
            return (["service", "deploy", folder / "service", "--domain", folder / "none"],)
        case "pop1":
            return (["status", "--bus", folder / "pop1"],)
    return (
        ["domain", "list", folder / "try"],
        ["domain", "add", folder / "try", f"new{len(held(folder))}"],
    )


KINDS = (
    *(
        "own.yaml",
        "site.yaml",
        "net.graphml",
        "l.jsonl",
        "c.pcap",
        "m.csv",
        "events.db",
        "agent.toml",
    ),
    *(f"service/{name}.yaml" for name in ("nsd", "access_vnfd", "request", "sites")),
    *("try/domain.toml", "try/authority/ca-key.pem", "try/authority/ca.pem"),
    *("pop1/bus.toml", "pop1/key.pem", "pop1/cert.pem"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file(
    valid: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = NatsClient.ready  # there is no broker, and to wait for one adds nothing
    monkeypatch.setattr(NatsClient, "ready", lambda self, within_s=0.3: ready(self, within_s))
    good = (valid / kind).read_bytes()
    for number in range(EACH):
        chance = random.Random(f"{kind} {number}")
        folder = tmp_path / str(number)
        shutil.copytree(valid, folder)
        (folder / kind).write_bytes(changed(good, chance))
        for call in verbs(folder, kind):
            codes = (0, 1, 2) if kind.endswith("pcap") else (0, 2)
            try:
                check(folder, *call, codes=codes)
            except BaseException as fault:
                fault.add_note(f"{kind}, number {number}: {call}")
                raise
        shutil.rmtree(folder)


SERVER = "collect", "http://127.0.0.1:1", "{service}.csv", "--service"
TEXTS: dict[str, Callable[[str], list[object]]] = {
    "--seed": lambda odd: ["run", RING, "--until", 0, "--seed", odd],
    "--until": lambda odd: ["run", RING, "--until", odd],
    "--realtime": lambda odd: ["run", RING, "--until", 0, "--realtime", odd],
    "--strategy": lambda odd: ["run", RING, "--until", 0, "--strategy", odd],
    "--on": lambda odd: ["run", RING, "--until", 0, "--on", odd],
    "--function": lambda odd: ["run", RING, "--until", 0, "--function", odd],
    "--store": lambda odd: ["run", RING, "--until", 0, "--store", odd],
    "--log": lambda odd: ["run", RING, "--until", 0, "--log", odd],
    "--window": lambda odd: ["detect", "c.pcap", "--window", odd],
    "--step": lambda odd: ["collect", "m.csv", "made.csv", "--step", odd],
    "--hold": lambda odd: ["collect", "m.csv", "made.csv", "--step", 5, "--hold", odd],
    "--row-step": lambda odd: ["collect", "m.csv", "made.csv", "--row-step", odd],
    "--counter": lambda odd: ["collect", "m.csv", "made.csv", "--step", 5, "--counter", odd],
    "source": lambda odd: ["collect", odd, "made.csv"],
    "output": lambda odd: ["collect", "m.csv", odd],
    "--from": lambda odd: [*SERVER, "shop", "--from", odd],
    "--to": lambda odd: [*SERVER, "shop", "--to", odd],
    "--service": lambda odd: [*SERVER, odd],
    "--queries": lambda odd: [*SERVER, "shop", "--queries", odd],
    "--credentials": lambda odd: [*SERVER, "shop", "--credentials", odd],
    "--ca": lambda odd: [*SERVER, "shop", "--ca", odd],
    "--since": lambda odd: ["logs", "--since", odd, "--bus", "pop1"],
    "goal": lambda odd: ["place", RING, "--goal", odd, "--auctioneer", "west"],
    "auctioneer": lambda odd: ["place", RING, "--goal", "monitored", "--auctioneer", odd],
    "traffic": lambda odd: [
        *("place", RING, "--goal", "flowRecord", "--auctioneer", "west", "--traffic", odd)
    ],
    "scenario": lambda odd: ["validate", odd],
    "what": lambda odd: ["explain", "l.jsonl", odd],
    "broker": lambda odd: ["domain", "init", "new", "--broker", odd],
    "role": lambda odd: ["domain", "add", "try", "x", "--role", odd],
    "name": lambda odd: ["domain", "add", "try", odd],
    "run": lambda odd: ["clean", odd, "--dry-run"],
}


@pytest.mark.parametrize("option", TEXTS)
def test_an_odd_word(
    valid: Path, tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    shutil.copytree(valid, folder)
    monkeypatch.chdir(folder)
    texts = [odd.decode("utf-8", "replace") for odd in ODD if b"\0" not in odd]
    longer = (
        "x" * 5000,
        "a\nb",
        "\x1b[31m",
        "-",
        "--",
        "[red]x[/red]",
        " ",
        ".",
        "..",
        "~",
        "$HOME",
    )
    words = [*texts, *longer]
    random.Random(option).shuffle(words)
    for odd in words[:EACH]:
        before = held(folder)
        with in_time():
            call = [str(word) for word in TEXTS[option](odd)]
            result = CliRunner().invoke(app, call)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            result.exception.add_note(f"{call}")
            raise result.exception
        assert "Traceback" not in result.output, call
        assert result.exit_code in (0, 2), call
        if result.exit_code == 2:
            after = held(folder)
            assert {path: after.get(path) for path in before} == before, call
