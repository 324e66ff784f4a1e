"""The files of deploy/: units that systemd takes, an image whose parts exist, hand-out."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from phalanx.cli.main import app
from phalanx.runtime.scenario import Timing

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
ANALYZE = shutil.which("systemd-analyze")
EXPOSURE = {"phalanx-guard": 6.5}
"""The most for units that write rules and settings of the kernel."""
MOST_EXPOSED = 2.0
"""The most that ``systemd-analyze security`` may find, of 10; 9.6 is a service without limits."""

AS_ROOT = {"phalanx-guard", "phalanx-measurer"}
COMPOSE = [w for w in (["docker-compose"], ["docker", "compose"]) if shutil.which(w[0])]

systemd = pytest.mark.skipif(ANALYZE is None, reason="not installed: systemd-analyze")


def fields(unit: Path) -> dict[str, str]:
    lines = [line for line in unit.read_text(encoding="utf-8").splitlines() if "=" in line]
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A machine's root with the units, whose program exists."""
    folder = tmp_path / "etc" / "systemd" / "system"
    folder.mkdir(parents=True)
    program = tmp_path / "opt" / "phalanx" / "bin" / "phalanx"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8")
        (folder / unit.name).write_text(text.replace("/opt/phalanx/bin/phalanx", str(program)))
    return folder


def analyze(*words: str) -> str:
    assert ANALYZE is not None
    done = subprocess.run([ANALYZE, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_a_unit_without_complaint(unit: Path, installed: Path) -> None:
    said = analyze("verify", "--man=no", "--recursive-errors=no", str(installed / unit.name))
    assert unit.stem not in said, said


@systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_confined(unit: Path, installed: Path) -> None:
    said = analyze("security", "--offline=true", "--no-pager", str(installed / unit.name))
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert level is not None, said
    assert float(level[1]) <= EXPOSURE.get(unit.stem, MOST_EXPOSED), said


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_runs_commands_that_exist(unit: Path) -> None:
    told = fields(unit)
    for line in ("ExecStart", "ExecReload"):
        if line not in told or told[line] == "/bin/kill -HUP $MAINPID":
            continue
        program, *words = told[line].split()
        assert program == "/opt/phalanx/bin/phalanx"
        verb = get_command(app).get_command(None, words[0])
        known = getattr(verb, "commands", {})
        if known:
            verb = known[words[1]]
        options = {option for parameter in verb.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options
    assert told["User"] == ("root" if unit.stem in AS_ROOT else "phalanx")
    assert told["Restart"] == "on-failure"


def test_an_agent_that_stops_has_time_to_drain_and_one_that_restarts_does_not() -> None:
    told = fields(DEPLOY / "phalanx-agent@.service")
    assert float(told["TimeoutStopSec"]) > Timing().drain_s
    assert told["KillSignal"] == "SIGTERM"
    assert told["RestartKillSignal"] == "SIGINT"


def test_agents_outlive_whoever_keeps_their_service() -> None:
    told = fields(DEPLOY / "phalanx-service@.service")
    assert told["KillMode"] == "process"
    assert told["OOMPolicy"] == "continue"


def test_the_units_are_alike_where_they_are_confined() -> None:
    confined = [
        unit.read_text(encoding="utf-8").partition("User=")[2].replace(" AF_NETLINK", "")
        for unit in UNITS
        if unit.stem not in AS_ROOT  # they have more rights
    ]
    assert len(UNITS) == 8
    assert len(set(confined)) == 1


def test_the_image_is_made_of_files_that_exist() -> None:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    instructions = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert {*instructions} <= {
        *("FROM", "WORKDIR", "RUN", "COPY", "ENV", "USER", "VOLUME", "STOPSIGNAL"),
        *("HEALTHCHECK", "ENTRYPOINT", "CMD"),
    }
    for line in lines:
        words = line.split()
        if words[0] == "COPY" and not words[1].startswith("--from"):
            for source in words[1:-1]:
                assert (ROOT / source).exists(), source
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*$", last, re.MULTILINE)
    verb = re.search(r"CMD phalanx (\w+)", last)
    assert verb is not None
    assert verb[1] in get_command(app).list_commands(None)


def test_the_compose_file_starts_commands_that_exist() -> None:
    """Nothing is started: CI has no engine for containers."""
    told = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    services = told["services"]
    verbs = [each["command"][0] for each in services.values()]
    assert sorted(verbs) == ["agent", "agent", "agent", "domain", "network", "recorder"]
    for name, each in services.items():
        verb = get_command(app).get_command(None, each["command"][0])
        options = {option for parameter in verb.params for option in parameter.opts}
        assert {word for word in each["command"] if word.startswith("--")} <= options
        assert each["cap_drop"] == ["ALL"], name
        assert (ROOT / services["broker"]["build"]["dockerfile"]).exists()
    (names,) = (v for k, v in told.items() if k == "volumes")
    used = {mount.partition(":")[0] for each in services.values() for mount in each["volumes"]}
    assert {mount for mount in used if not mount.startswith("$")} == names.keys()


@pytest.mark.parametrize("words", COMPOSE or [pytest.param([], marks=pytest.mark.skip(
    reason="not installed: docker-compose (Debian: docker-compose)"))])  # fmt: skip
def test_compose_takes_the_file(words: list[str]) -> None:
    if subprocess.run([*words, "version"], capture_output=True, check=False).returncode:
        pytest.skip(f"{' '.join(words)}: the plugin is not installed")
    file = str(DEPLOY / "compose.yaml")
    done = subprocess.run([*words, "-f", file, "config", "-q"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


SSH = """#!/bin/sh
shift
root=$(dirname "$0")/machine
mkdir -p "$root"
exec sh -c "$(printf '%s' "$1" | sed "s|/var/lib|$root/lib|g; s|/etc|$root/etc|g; s|chown|: |g")"
"""


@pytest.fixture
def hand_out(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A domain and the environment of ``deploy/hand-out``, whose machine is a folder."""
    (tmp_path / "ssh").write_text(SSH)
    (tmp_path / "systemctl").write_text("#!/bin/sh\nexit 3\n")
    for program in ("ssh", "systemctl"):
        (tmp_path / program).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    phalanx = [sys.executable, "-m", "phalanx", "domain"]
    domain = tmp_path / "edge"
    for words in (
        ["init", str(domain), "--broker", "192.0.2.1"],
        ["add", str(domain), "north"],
        ["add", str(domain), "south"],
    ):
        subprocess.run([*phalanx, *words], check=True, capture_output=True)
    return domain, environment


def test_a_machine_is_handed_what_it_needs_and_no_other_key(
    hand_out: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    domain, environment = hand_out
    words = [str(DEPLOY / "hand-out"), str(domain), "root@192.0.2.1", "broker1", "north"]
    for _ in range(2):  # done again, it changes nothing
        subprocess.run(words, check=True, capture_output=True, env=environment)
    machine = tmp_path / "machine"
    keys = {str(path.relative_to(machine)) for path in machine.rglob("*key.pem")}
    assert keys == {
        "lib/phalanx/domain/brokers/broker1/key.pem",
        "etc/phalanx/north/key.pem",
    }
    assert all((machine / key).stat().st_mode & 0o777 == 0o600 for key in keys)
    assert (machine / "lib/phalanx/domain/identities/south/cert.pem").exists()
    (domain / "identities" / "north" / "key.pem").unlink()
    subprocess.run(words, check=True, capture_output=True, env=environment)
    assert (machine / "etc/phalanx/north/key.pem").exists()


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["nobody"], "has no nobody"),
        ([], "hand-out DOMAIN USER@HOST NAME..."),
    ],
)
def test_who_does_not_exist_is_not_handed_out(
    hand_out: tuple[Path, dict[str, str]], tmp_path: Path, names: list[str], why: str
) -> None:
    domain, environment = hand_out
    words = [str(DEPLOY / "hand-out"), str(domain), "root@192.0.2.1", *names]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert why in done.stderr
    assert not (tmp_path / "machine").exists()
