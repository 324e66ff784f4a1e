"""``phalanx policy run``: rules on a capture and on live packets, what is printed and refused."""

import gzip
import json
import os
import select
import shutil
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from phalanx.cli.main import app
from tests.analytics.captures import pcap
from tests.policy.mmt_traffic import datagram, document, event, rule

IP = shutil.which("ip")
KNOCK = rule(
    "THEN",
    event(1, "(udp.dest_port == 7001)"),
    event(2, "((udp.dest_port == 7002) && (ip.src == ip.src.1))"),
    delay="0..1000",
    about="a knock",
)
FOREIGN = rule(
    "COMPUTE",
    event(1, "((#get_sliceID() == 1) && (#whitelist(ip.src) == 1))"),
    number=2,
    extra='if_satisfied="block_packet_from"',
    about="a foreign source",
)
UNKNOWN = rule("COMPUTE", event(1, "(quic.version == 1)"), number=3)


def phalanx(*args):
    return CliRunner().invoke(app, ["policy", "run", *map(str, args)], env={"COLUMNS": "200"})


@pytest.fixture
def rules(tmp_path):
    folder = tmp_path / "rules"
    folder.mkdir()
    for name, text in {"1.knock": KNOCK, "2.foreign": FOREIGN, "3.unknown": UNKNOWN}.items():
        (folder / f"{name}.xml").write_text(document(text))
    return folder


@pytest.fixture
def capture(tmp_path):
    file = tmp_path / "knock.pcap"
    frames = [(10.0, datagram(7001)), (10.5, datagram(7002)), (11.0, datagram(1, "10.0.5.5"))]
    file.write_bytes(pcap(frames))
    return file


def test_verdicts_their_packets_and_the_share_that_runs(rules, capture):
    done = phalanx(rules, "--capture", capture)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        "rule 1: detected attack, a knock",
        "  packet 1 at 10.000000 s is event 1: udp.dest_port=7001 ip.src=10.0.0.1",
        "  packet 2 at 10.500000 s is event 2: udp.dest_port=7002 ip.src=10.0.0.1",
    ]
    assert lines[3] == "1 of 3 rules run (33%)"
    assert lines[4].startswith("1 verdict on 3 packets (")
    refusals = done.stderr.splitlines()
    assert "2.foreign.xml: rule 2 is refused: get_sliceID needs the slice" in refusals[0]
    assert "3.unknown.xml: rule 3 is refused: no attribute quic.version; known" in refusals[1]


def test_a_slice_makes_its_functions_run(rules, capture):
    done = phalanx(
        rules, "--capture", capture, "--slice", 1, "--whitelist", "10.0.0.0/24", "--json"
    )
    *verdicts, figures = map(json.loads, done.stdout.splitlines())
    assert [(v["rule"], v["verdict"], v["time_s"]) for v in verdicts] == [
        (1, "detected", 10.5),
        (2, "detected", 11.0),
    ]
    assert (figures["rules"], figures["run"], figures["blocked"]) == (3, 2, ["10.0.5.5"])
    assert list(figures["refused"]) == ["3"]
    assert "to be blocked: 10.0.5.5" in phalanx(rules, "--capture", capture, "--slice", 1).stdout


def test_a_capture_that_is_cut_off_is_judged_up_to_there(rules, capture):
    capture.write_bytes(capture.read_bytes()[:-5])
    done = phalanx(rules, "--capture", capture)
    assert done.exit_code == 1
    assert "1 verdict on 2 packets" in done.stdout
    assert "reading ended early: truncated dump file" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("{rules}/..", "--capture", "x"), "there is no rule in"),
        (("{rules}",), "one of --capture FILE and --interface NAME is needed"),
        (("{rules}", "--capture", "x", "--interface", "lo"), "one of --capture FILE and"),
        (("{rules}/none.xml", "--capture", "{capture}"), "none.xml: No such file or directory"),
        (
            ("{rules}/3.unknown.xml", "--capture", "{capture}"),
            "no rule can be run; rule 3: no attribute",
        ),
        (("{rules}", "{rules}/1.knock.xml", "--capture", "{capture}"), "rule 1 stands in"),
        (("{rules}", "--capture", "{rules}/1.knock.xml"), "is neither a pcap nor a pcapng capture"),
        (("{rules}", "--capture", "{capture}.gz"), "| phalanx policy run RULES --capture -"),
        (
            ("{rules}", "--capture", "{capture}", "--whitelist", "10.0.0.0/8"),
            "--slice ID is needed",
        ),
        (
            ("{rules}", "--capture", "{capture}", "--slice", "1", "--whitelist", "x"),
            "--whitelist: 'x'",
        ),
        (("{rules}", "--interface", "no-such"), "no-such: No such device exists"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(rules, capture, arguments, why):
    capture.with_name(f"{capture.name}.gz").write_bytes(gzip.compress(capture.read_bytes()))
    done = phalanx(*(a.format(rules=rules, capture=capture) for a in arguments))
    assert (done.exit_code, done.stdout) == (2, "")
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.linux
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")
@pytest.mark.skipif(IP is None, reason="not installed: ip")
def test_live_packets_are_judged_until_it_is_stopped(rules):
    name = f"mmt{os.getpid()}"
    inside = [IP, "netns", "exec", name, sys.executable, "-c"]
    send = "import socket; s = socket.socket(type=socket.SOCK_DGRAM)\n"
    send += "for p in 7001, 7002: s.sendto(b'x', ('127.0.0.1', p))"
    run = "import sys; from phalanx.cli.main import main; print('up', flush=True); main()"
    subprocess.run([IP, "netns", "add", name], check=True)
    try:
        subprocess.run([IP, "-n", name, "link", "set", "lo", "up"], check=True)
        command = [*inside, run, "policy", "run", rules, "--interface", "lo", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
            line = watching.stdout.readline()
            while line == "up\n":  # until it listens, packets pass it by
                subprocess.run([*inside, send], check=True)
                ready = select.select([watching.stdout], [], [], 0.2)[0]
                line = watching.stdout.readline() if ready else line
            watching.send_signal(signal.SIGINT)
            *_, figures = map(json.loads, [line, *watching.stdout.read().splitlines()])
        assert json.loads(line)["rule"] == 1
        assert json.loads(line)["events"][0]["attributes"]["ip.src"] == "127.0.0.1"
        assert watching.returncode == 0
        assert figures["verdicts"] >= 1
        assert (figures["run"], figures["missed"]) == (1, 0)
    finally:
        subprocess.run([IP, "netns", "del", name], check=True)
