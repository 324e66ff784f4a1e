"""``phalanx collect``: what is printed and written, what is refused, and how it ends."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from phalanx.analytics.metrics import read_table
from phalanx.cli.main import app
from tests.analytics.test_prometheus import matrix, serving


def phalanx(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(each) for each in arguments])


def refused(*arguments: object) -> str:
    done = phalanx("collect", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw.csv"
    rows = [f"{100 + s},{s},{3 * s if s < 20 else ''},{int(s > 30)}" for s in range(40)]
    path.write_text("\n".join(["time,requests,mem,label", *rows]))
    return path


def test_a_file_is_resampled(raw: Path) -> None:
    made = raw.with_name("made.csv")
    done = phalanx("collect", raw, made, "--step", 10, "--counter", "requests")
    assert done.exit_code == 0
    assert done.stdout == f"{made}: 4 rows of 2 metrics\ngaps: mem (1)\n"
    table = read_table(made)
    assert table.times.tolist() == [100, 110, 120, 130]
    nan = np.nan
    expected = [[1, 13.5], [1, 43.5], [1, 57], [1, nan]]  # the last one holds a step
    assert np.allclose(table.values, expected, equal_nan=True)
    assert table.labels == ("normal", "normal", "normal", "anomaly")
    # Once more, in place of what it wrote; and as it is.
    assert phalanx("collect", raw, made).exit_code == 0
    assert made.read_text().splitlines()[1] == "100.0,0.0,0.0,normal"


def test_parquet_is_written_and_replaced(raw: Path) -> None:
    pytest.importorskip("pyarrow", exc_type=ImportError)
    made = raw.with_name("made.parquet")
    for _ in range(2):
        assert phalanx("collect", raw, made).exit_code == 0
    assert made.read_bytes().startswith(b"PAR1")


def test_what_is_refused_leaves_all_as_it_was(raw: Path) -> None:
    other = raw.with_name("thesis.csv")
    other.write_text("three years of work")
    made = raw.with_name("made.csv")
    assert "would be overwritten" in refused(raw, raw)
    assert "is no table" in refused(raw, other)
    assert "ends with .csv or .parquet" in refused(raw, raw.with_name("made.txt"))
    assert "--service is for servers" in refused(raw, made, "--service", "a")
    assert "--counter is for files" in refused("http://h", made, "--counter", "a")
    assert "--service: name one" in refused("http://h", made)
    assert "--service: name one" in refused("http://h", made, "--service", "a", "--service", "b")
    both = "--service", "a/b", "--service", "a_b"
    assert "--service: name one" in refused("http://h", made.with_name("{service}.csv"), *both)
    assert "that --step makes" in refused(raw, made, "--counter", "requests")
    assert "no column cpu; there are requests, mem" in refused(
        raw, made, "--step", 10, "--counter", "cpu"
    )
    raw.write_text(raw.read_text() + "\n139,1,2,0\n")
    assert "raw.csv: line 42: the time is not after" in refused(raw, made, "--step", 10)
    assert other.read_text() == "three years of work"
    assert sorted(path.name for path in raw.parent.iterdir()) == ["raw.csv", "thesis.csv"]


def test_services_of_a_server_have_a_file_each(tmp_path: Path) -> None:
    def reply(_: str, options: dict[str, str], __: Any) -> tuple[int, bytes]:
        begin, end = round(float(options["start"])), round(float(options["end"]))
        value = "1" if "cart" in options["query"] else "2"
        return 200, matrix([[at, value] for at in range(begin, end + 1, 10)])

    span = "--from", "2026-01-31T08:00:00+00:00", "--to", "2026-01-31T08:01:00+00:00"
    with serving(reply) as url:
        output = tmp_path / "{service}.csv"
        done = phalanx("collect", url, output, "--service", "cart", "--service", "shop", *span)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        f"{tmp_path / 'cart.csv'}: 7 rows of 6 metrics",
        f"{tmp_path / 'shop.csv'}: 7 rows of 6 metrics",
    ]
    assert (read_table(tmp_path / "cart.csv").values == 1).all()
    assert (read_table(tmp_path / "shop.csv").values == 2).all()


def test_what_a_server_lacks_is_told(tmp_path: Path) -> None:
    made = tmp_path / "m.csv"

    def reply(_: str, options: dict[str, str], __: Any) -> tuple[int, bytes]:
        first = float(options["start"])
        if "memory" in options["query"]:
            return 200, matrix()
        return 200, matrix([[first, "1"]], warnings=["a store did not answer"])

    (tmp_path / "q.toml").write_text("[node]\n" + "load1 = ''\n")
    with serving(reply) as url:
        arguments = "--service", "n:9100", "--kind", "node", "--queries", tmp_path / "q.toml"
        done = phalanx("collect", url, made, *arguments, "--from", "60s", "--step", 20)
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0] == f"{made}: 4 rows of 6 metrics"
    assert "cpu_cores (3), memory_bytes (all)" in done.stdout
    assert "cpu_cores: a store did not answer" in done.stderr
    assert "memory_bytes of n:9100 has no value" in done.stderr
    assert len(read_table(made)) == 4


def test_a_server_that_fails_in_between_leaves_no_file(tmp_path: Path) -> None:
    asked: list[str] = []

    def reply(*_: Any) -> tuple[int, bytes]:
        asked.append("")
        return (200, matrix()) if len(asked) < 10 else (500, b"oops")

    with serving(reply) as url:
        span = "--from", "30d", "--step", 60
        assert "(HTTP 500)" in refused(url, tmp_path / "m.csv", "--service", "s", *span)
    assert not list(tmp_path.iterdir())


def test_no_password_stands_in_what_is_printed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("user:hidden\nmore")
    secret.chmod(0o600)
    with closing(secret.open()):
        line = refused("https://h", tmp_path / "m.csv", "--service", "s", "--credentials", secret)
    assert "one line is expected" in line
    assert "hidden" not in line
    line = refused("https://user:hidden@h", tmp_path / "m.csv", "--service", "s")
    assert "hidden" not in line
