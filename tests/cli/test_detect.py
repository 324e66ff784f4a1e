"""``phalanx detect``: what is printed, what is refused, and how it ends."""

import json
import random
import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from phalanx.analytics.flow_sources import Collector, collect, open_socket
from phalanx.cli.main import app
from tests.analytics import captures as make
from tests.analytics import exports as ex


def phalanx(*args):
    return CliRunner().invoke(app, [str(a) for a in args], env={"COLUMNS": "200"})


@pytest.fixture
def flood(tmp_path):
    file = tmp_path / "flood.pcap"
    file.write_bytes(make.pcap(make.mixture()))
    return file


def test_a_flood_is_explained(flood):
    result = phalanx("detect", flood)
    assert result.exit_code == 0
    assert "6.6.6.6 > 10.0.0.1" in result.stdout
    assert "syn flood" in result.stdout
    assert "connections/s and completed 0" in " ".join(result.stdout.split())
    assert "packets over" in result.stdout


def test_json(flood):
    found = json.loads(phalanx("detect", flood, "--json").stdout)
    (flow,) = found["flows"]
    assert (flow["source"], flow["target"], flow["kind"]) == ("6.6.6.6", "10.0.0.1", "syn flood")
    assert flow["certainty"] > 0.9999
    assert "completed 0" in flow["reason"]
    (target,) = found["targets"]
    assert (target["target"], target["spoofed"], target["windows"]) == ("10.0.0.1", False, 1)
    assert found["problem"] is None
    assert found["packets_s"] > 0


def test_standard_input(flood):
    code = "from phalanx.cli.main import main; main()"
    command = [sys.executable, "-c", code, "detect", "-", "--json"]
    with flood.open("rb") as octets:
        done = subprocess.run(command, stdin=octets, capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout)["flows"][0]["source"] == "6.6.6.6"


def test_forged_sources_are_named_as_such(tmp_path):
    rng = random.Random(1)
    packets = make.syn_flood(1.0, lambda _: socket.inet_ntoa(rng.randbytes(4)), 2000)
    file = tmp_path / "forged.pcap"
    file.write_bytes(make.pcap([(t, make.ethernet(p)) for t, p in packets]))
    result = phalanx("detect", file)
    assert "forged sources" in result.stdout
    assert "malicious:" not in result.stdout


def test_many_flows_are_cut(tmp_path):
    packets = []
    for i in range(50):
        packets += make.syn_flood(1.0, f"6.6.6.{i}", 200)
    file = tmp_path / "many.pcap"
    file.write_bytes(make.pcap([(t, make.ethernet(p)) for t, p in sorted(packets)]))
    assert "and 10 more" in phalanx("detect", file).stdout
    assert len(json.loads(phalanx("detect", file, "--json").stdout)["flows"]) == 50


def test_nothing_found(tmp_path):
    file = tmp_path / "quiet.pcap"
    frames = [(t, make.ethernet(p)) for t, p in make.handshake(1.0, "1.1.1.1")]
    arp = (2.0, make.ethernet(b"\0" * 28, kind=0x0806))
    file.write_bytes(make.pcap([*frames, arp]))
    result = phalanx("detect", file)
    assert result.exit_code == 0
    assert "no attack found" in result.stdout
    assert "packets passed over: 1 not IP" in result.stdout
    file.write_bytes(make.pcap([arp]))
    result = phalanx("detect", file)
    assert result.exit_code == 0
    assert "no TCP or UDP packets to judge" in result.stdout


def test_a_truncated_capture_is_judged_with_a_warning(flood):
    flood.write_bytes(flood.read_bytes()[:-3])
    result = phalanx("detect", flood)
    assert result.exit_code == 1
    assert "6.6.6.6 > 10.0.0.1" in result.stdout
    assert "reading ended early" in result.stderr


@pytest.mark.parametrize(
    ("octets", "why"),
    [(b"", "is empty"), (b"x" * 100, "neither a pcap nor"), (make.pcap([])[:20], "truncated")],
)
def test_what_cannot_be_read(tmp_path, octets, why):
    file = tmp_path / "bad.pcap"
    file.write_bytes(octets)
    for options in ([], ["--json"]):
        result = phalanx("detect", file, *options)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith(f"{file}: ")
        assert why in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("window", ["0", "-1", "nan", "1e9"])
def test_a_window_that_makes_no_sense_is_refused(flood, window):
    result = phalanx("detect", flood, "--window", window)
    assert result.exit_code == 2
    assert "--window" in result.stderr


@pytest.fixture
def exports(tmp_path):
    """A capture of IPFIX to port 2055, about a flood."""
    file = tmp_path / "exports.pcap"
    packets = sorted(make.syn_flood(1.0, "6.6.6.6", 2000))
    file.write_bytes(ex.pcap(ex.exported(packets, "ipfix", 4)))
    return file


def test_what_a_router_exported_is_judged_with_its_sampling(exports):
    result = phalanx("detect", exports, "--exports", "2055")
    assert result.exit_code == 0
    words = " ".join(result.stdout.split())
    assert "6.6.6.6 > 10.0.0.1" in words
    assert "samples of 1 in 4, so counts are right within" in words
    assert "exporter 192.0.2.1" in words
    assert "sampling 1 in 4; 0 lost" in words
    found = json.loads(phalanx("detect", exports, "--exports", "2055", "--json").stdout)
    assert found["exporters"][0]["rates"] == [4]
    assert found["flows"][0]["evidence"]["sampling"] == 4


def test_exports_of_others_are_refused_and_counted(exports):
    result = phalanx("detect", exports, "--exports", "2055", "--exporter", "192.0.2.7")
    assert "datagrams of unknown exporters" in result.stdout
    assert "attacked" not in result.stdout


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), "a capture, or --collect HOST:PORT"),
        (("x.pcap", "--collect", "127.0.0.1:1"), "a capture, or --collect HOST:PORT"),
        (("x.pcap", "--exporter", "1.1.1.1"), "are for --exports and --collect"),
        (("--collect", "127.0.0.1:9000"), "name each router"),
        (("--collect", "here", "--exporter", "1.1.1.1"), "expected HOST:PORT"),
        (("--collect", "127.0.0.1:99999", "--exporter", "1.1.1.1"), "expected HOST:PORT"),
        (("--collect", "192.0.2.1:9000", "--exporter", "1.1.1.1"), "192.0.2.1:9000: "),
        (("--collect", "127.0.0.1:9000", "--exporter", "router"), "'router' is no IP address"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(options, why):
    result = phalanx("detect", *options)
    assert result.exit_code == 2
    assert why in result.stderr
    assert result.stderr.count("\n") == 1


def test_exports_are_judged_as_they_arrive():
    """Over a real socket, also what is no export."""
    collector = Collector(1.0, ["127.0.0.1"])
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        open_socket("127.0.0.1:0") as s,
    ):
        for _, datagram in ex.exported(make.syn_flood(1.0, "6.6.6.6", 1500), "sflow"):
            sender.sendto(datagram, s.getsockname())
        sender.sendto(b"", s.getsockname())
        found = collect(s, collector, 0.5)
    assert {each.finding.source for each in found.flows} == {"6.6.6.6"}
    assert found.skipped["datagrams of no known protocol"] == 1
