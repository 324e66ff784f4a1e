"""Tables of metrics: read, written, resampled, and kept for the last steps."""

from __future__ import annotations

import gzip
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from phalanx.analytics import metrics
from phalanx.analytics.metrics import (
    MOST_STEPS,
    MetricError,
    MetricTable,
    joined,
    read_table,
    resampled,
    tables,
    write_table,
)
from tests.nightly import NIGHTLY

NAN = float("nan")


def table(times: list[float], *columns: list[float], labels: tuple[str, ...] = ()) -> MetricTable:
    names = tuple("abcdef"[: len(columns)])
    return MetricTable(np.array(times, float), names, np.array(columns, float).T, labels)


def resample(one: MetricTable, *how: float, **more: Any) -> MetricTable:
    return joined(resampled([one], *how, **more))


def same(one: MetricTable, other: MetricTable) -> None:
    assert one.names == other.names
    assert one.labels == other.labels
    assert one.times.tobytes() == other.times.tobytes()
    assert np.array_equal(one.values, other.values, equal_nan=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "m.csv"


# -- reading --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "begin"),
    [
        ("1652570100", "1652570101.5", 1652570100.0),
        ("1652570100000", "1652570101500", 1652570100.0),
        ("2022-05-14T23:15:00Z", "2022-05-14T23:15:01.5Z", 1652570100.0),
        ("2022-05-15T01:15:00+02:00", "2022-05-14T23:15:01.500", 1652570100.0),
        ("-3", "-1.5", -3.0),
    ],
)
def test_times_have_three_forms(file: Path, first: str, second: str, begin: float) -> None:
    file.write_text(f"cpu,Timestamp\n1,{first}\n2,{second}\n")
    assert read_table(file).times.tolist() == [begin, begin + 1.5]


def test_gaps_labels_and_rows_without_times(file: Path) -> None:
    file.write_bytes(
        b'\xef\xbb\xbfcpu , "rss, all",Normal/Attack\r\n1,,0\r\nnan, 2.5,1\r\n3,NaN,odd one\r\n'
    )
    read = read_table(file, step_s=10)
    assert read.names == ("cpu", "rss, all")
    assert read.times.tolist() == [0, 10, 20]
    assert read.labels == ("normal", "anomaly", "odd one")
    assert np.array_equal(read.values, [[1, NAN], [NAN, 2.5], [3, NAN]], equal_nan=True)


@pytest.mark.parametrize(
    ("octets", "where", "why"),
    [
        (b"", "line 1", "the file is empty"),
        (b"\n\n", "line 1", "the file is empty"),
        (b"time,cpu\n", "line 1", "no row follows"),
        (b"time\n1\n", "line 1", "no column holds a metric"),
        (b"time,cpu,cpu\n1,2,3\n", "line 1: column 'cpu'", "twice"),
        (b"time,,cpu\n1,2,3\n", "line 1", "no name"),
        (b"time,a\x07b\n1,2\n", "line 1", "no name"),
        (b"0.5,1.5\n1,2\n", "line 1: column '0.5'", "no name"),
        (b"time,timestamp,cpu\n1,2,3\n", "line 1", "one is allowed"),
        (b"label,Normal/Attack,cpu\n1,2,3\n", "line 1", "one is allowed"),
        (b"time,cpu\n1,2\n2,3,4\n", "line 3", "3 fields; the header has 2"),
        (b"time,cpu\n1,2\n\n2,3\n", "line 3", "0 fields"),
        (b"time,cpu\n1,2\n2,inf\n", "line 3: column 'cpu'", "no finite number; a gap is an empty"),
        (b"time,cpu\n1,-Infinity\n", "line 2: column 'cpu'", "no finite number"),
        (b"time,cpu\n1,1e999\n", "line 2: column 'cpu'", "no finite number"),
        (b"time,cpu\n1,abc\n", "line 2: column 'cpu'", "no finite number"),
        (b"time,cpu\n1,1_000\n", "line 2: column 'cpu'", "no finite number"),
        ("time,cpu\n1,١\n".encode(), "line 2: column 'cpu'", "no finite number"),
        (b"time,cpu\n1,0x10\n", "line 2: column 'cpu'", "no finite number"),
        (b"time,cpu\n1,2\n1,2\n", "line 3", "not after"),
        (b"time,cpu\n2,2\n1,2\n", "line 3", "not after"),
        (b"time,cpu\n,2\n", "line 2: column of times", "no time; allowed are seconds"),
        (b"time,cpu\nnan,2\n", "line 2: column of times", "no time"),
        (b"time,cpu\n1e999,2\n", "line 2: column of times", "no time"),
        (b"time,cpu\n1652570100000000,2\n", "line 2: column of times", "no time"),
        (b"time,cpu\n1652570100000,2\n1652570100,3\n", "line 3", "not after"),
        (b"time,cpu\n1_0,2\n", "line 2: column of times", "no time"),
        (b"time,cpu\n2022-13-01,3\n", "line 2: column of times", "no time"),
        (b"time,cpu\n1,\xff\n", "line 1", "no UTF-8"),
        (gzip.compress(b"time,cpu\n1,2\n", mtime=0), "line 1", "compressed"),
        (b"PAR1\x00\x01\x02\n1,2\n", "line 1: column", "no name"),
        (b'time,"cpu\n1,2\n' + b"2,3\n" * 50_000, "", "field larger"),
        (b"time,cpu\n1," + b"1" * (2 << 20), "line 1", "longer than"),
    ],
)
def test_what_cannot_be_read_is_one_line(file: Path, octets: bytes, where: str, why: str) -> None:
    file.write_bytes(octets)
    with pytest.raises(MetricError) as caught:
        read_table(file)
    text = str(caught.value)
    assert text.startswith(f"{file}: {where}")
    assert why in text
    assert text.isprintable()
    assert len(text) < len(str(file)) + 250


@pytest.mark.parametrize("odd", ["missing.csv", "."])
def test_what_is_no_file_is_one_line(tmp_path: Path, odd: str) -> None:
    with pytest.raises(MetricError, match="cannot be read"):
        read_table(tmp_path / odd)


@given(
    octets=st.binary(max_size=200) | st.text("a,\"'\n\r1.e-_ nftim", max_size=60).map(str.encode)
)
def test_any_octets_are_a_table_or_one_line(
    octets: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "odd.csv"
    path.write_bytes(octets)
    try:
        read = read_table(path)
    except MetricError as error:
        refused = str(error)
    else:
        assert len(read) > 0
        assert not np.isinf(read.values).any()
        return
    assert refused.isprintable()


def test_parts_are_the_whole(file: Path) -> None:
    file.write_text("time,cpu,label\n" + "".join(f"{i},{i % 3},{i % 2}\n" for i in range(25)))
    read: list[int] = []
    parts = list(tables(file, rows=10, progress=read.append))
    assert [len(part) for part in parts] == [10, 10, 5]
    assert 0 < sum(read) <= file.stat().st_size
    same(joined(parts), read_table(file))


CHILD = """
import sys
from phalanx.analytics.metrics import resampled, tables, write_table
path, out = sys.argv[1:]
write_table(resampled(tables(path), 60.0, counters=("m1",)), out)
status = open("/proc/self/status").read()
print(status.split("VmHWM:")[1].split()[0])
"""


def peak(path: Path) -> int:
    """Return the most memory that a process took which resampled a file, in octets."""
    made = subprocess.run(
        [sys.executable, "-c", CHILD, path, path.with_suffix(".out.csv")],
        capture_output=True,
        check=True,
        text=True,
    )
    return int(made.stdout) * 1024


@pytest.mark.parametrize(
    "megabytes",
    [
        10,
        pytest.param(
            200,
            marks=[
                pytest.mark.nightly,
                pytest.mark.skipif(not NIGHTLY, reason="200 MB are read at night"),
            ],
        ),
    ],
)
def test_memory_does_not_grow_with_the_file(tmp_path: Path, megabytes: int) -> None:
    rng = Random(1)
    rows = [",".join(repr(rng.random()) for _ in range(20)) for _ in range(997)]
    sizes = []
    for name, octets in (("small", megabytes * 50_000), ("large", megabytes * 1_000_000)):
        path = tmp_path / f"{name}.csv"
        with path.open("w") as file:
            file.write("time," + ",".join(f"m{i}" for i in range(20)) + "\n")
            second = 0
            while file.tell() < octets:
                file.writelines(f"{second + i},{row}\n" for i, row in enumerate(rows))
                second += len(rows)
        sizes.append(peak(path))
        path.unlink()
    assert sizes[1] < sizes[0] + 30_000_000


# -- writing --------------------------------------------------------------------------------

NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=8).filter(
        lambda name: metrics._is_name(name) and name.lower() not in metrics.TIMES + metrics.LABELS
    ),
    min_size=1,
    max_size=4,
    unique=True,
)


@st.composite
def any_table(draw: st.DrawFn) -> MetricTable:
    names = tuple(draw(NAMES))
    times = sorted(draw(st.sets(st.floats(-1e10, 1e10), min_size=1, max_size=12)))
    values = draw(
        arrays.arrays(float, (len(times), len(names)), elements=st.floats(allow_infinity=False))
    )
    labels = draw(st.sampled_from([(), tuple(f"kind {i % 3}" for i in range(len(times)))]))
    return MetricTable(np.array(times), names, values, labels)


@given(written=any_table())
def test_csv_comes_back_as_the_same_numbers(
    written: MetricTable, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.csv"
    write_table([written.rows(0, 5), written.rows(5, 99)], path)
    same(read_table(path), written)
    assert not path.with_name("round.csv.part").exists()


def test_parquet_holds_the_same(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", exc_type=ImportError)
    written = table([1, 2, 3], [1, NAN, 3], [4, 5, 6], labels=("x", "y", ""))
    write_table([written.rows(0, 2), written.rows(2, 3)], tmp_path / "m.parquet")
    read = parquet.read_table(tmp_path / "m.parquet")
    assert read.column_names == ["time", "a", "b", "label"]
    assert read["time"].to_pylist() == [1, 2, 3]
    assert read["label"].to_pylist() == ["x", "y", ""]
    assert np.array_equal(read["a"].to_numpy(), [1, NAN, 3], equal_nan=True)


def test_parquet_without_its_library_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MetricError, match=r"pip install 'phalanx\[data\]'"):
        write_table(table([1], [1]), tmp_path / "m.parquet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("odd", "name", "why"),
    [
        (table([1], [np.inf]), "m.csv", "infinite"),
        (MetricTable(np.ones(1), ("time",), np.ones((1, 1))), "m.csv", "cannot be the name"),
        (MetricTable(np.ones(1), ("1.5",), np.ones((1, 1))), "m.parquet", "cannot be the name"),
        (table([1], [1]), "m.xlsx", "ends with .csv or .parquet"),
        (table([1], [1]), "none/m.csv", "cannot be written: No such file"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, odd: MetricTable, name: str, why: str
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", exc_type=ImportError)
    with pytest.raises(MetricError, match=why):
        write_table(odd, tmp_path / name)
    assert not list(tmp_path.iterdir())


# -- resampling -----------------------------------------------------------------------------


def test_a_gauge_is_the_mean_over_time() -> None:
    #        0.......10.......20
    # a: 1 from 0, 3 from 4, 5 from 12
    made = resample(table([0, 4, 12], [1, 3, 5]), 10)
    assert made.times.tolist() == [0, 10]
    assert made.values[:, 0] == pytest.approx([(1 * 4 + 3 * 6) / 10, (3 * 2 + 5 * 8) / 10])


def test_a_reading_holds_no_longer_than_is_said() -> None:
    sparse = table([0, 50], [1, 2])
    assert np.array_equal(resample(sparse, 10).values[:, 0], [1, NAN, NAN, NAN, NAN, 2], True)
    held = resample(sparse, 10, hold_s=25).values[:, 0]
    assert np.array_equal(held, [1, 1, 1, NAN, NAN, 2], True)


def test_a_cell_is_told_by_what_is_known_of_it() -> None:
    # Known from 0 to 3 and from 8 on: nothing stands for the rest.
    made = resample(table([0, 8], [1, 9]), 10, hold_s=3)
    assert made.values[0, 0] == pytest.approx((1 * 3 + 9 * 2) / 5)


def test_cells_stand_on_multiples_of_the_step() -> None:
    made = resample(table([0.3, 0.6, 0.7], [1, 2, 3]), 0.1)
    assert made.times.tolist() == [0.3, 0.4, 0.5, 0.6, 0.7]
    assert np.array_equal(made.values[:, 0], [1, NAN, NAN, 2, 3], equal_nan=True)


def test_a_counter_becomes_a_rate_and_a_drop_is_a_reset() -> None:
    made = resample(table([0, 10, 20, 30], [100, 150, 20, 30]), 10, counters=("a",))
    assert np.array_equal(made.values[:, 0], [5, 2, 1, NAN], equal_nan=True)


def test_what_a_counter_added_in_a_long_gap_is_not_spread() -> None:
    rows = table([0, 10, 30, 70], [0, 10, 30, 70])
    made = resample(rows, 10, counters=("a",)).values[:, 0]
    assert np.array_equal(made, [1, 1, 1, NAN, NAN, NAN, NAN, NAN], equal_nan=True)
    assert resample(rows, 10, ("a",), hold_s=30).values[:7, 0].tolist() == [1] * 7


def test_labels_follow_the_last_row_of_a_cell() -> None:
    rows = table([0, 4, 12, 40], [1] * 4, labels=("x", "y", "z", "w"))
    assert resample(rows, 10).labels == ("y", "z", "z", "", "w")


def test_clocks_that_jump() -> None:
    ahead = table([0, 10, 10 + 10 * MOST_STEPS], [1, 2, 3])
    assert np.isnan(resample(ahead, 10).values).sum() == MOST_STEPS - 1
    with pytest.raises(MetricError, match=r"after 10 s by 100,001 steps"):
        resample(table([0, 10, 20 + 10 * MOST_STEPS], [1, 2, 3]), 10)
    with pytest.raises(MetricError, match="times do not ascend"):
        list(resampled([table([0, 10], [1, 2]), table([5], [3])], 10))


@pytest.mark.parametrize(
    ("step", "counters", "hold", "why"),
    [
        (0, (), None, "at least 0.001"),
        (NAN, (), None, "at least 0.001"),
        (np.inf, (), None, "at least 0.001"),
        (1, (), 0, "more than 0 s"),
        (1, ("cpu", "a"), None, "no column cpu; there are a"),
    ],
)
def test_what_makes_no_sense_is_refused(
    step: float, counters: tuple[str, ...], hold: float | None, why: str
) -> None:
    with pytest.raises(MetricError, match=why):
        resample(table([0, 1], [1, 2]), step, counters, hold)


@st.composite
def readings(draw: st.DrawFn) -> MetricTable:
    """A table of two gauges and a counter, with gaps, resets and steps of any length."""
    steps = draw(st.lists(st.integers(1, 40_000), min_size=1, max_size=40))
    times = np.cumsum(steps) / 1000 + draw(st.integers(-50, 50))
    numbers = st.floats(-1e6, 1e6) | st.just(NAN)
    values = draw(arrays.arrays(float, (len(times), 3), elements=numbers))
    values[:, 2] = np.abs(values[:, 2])
    labels = draw(st.sampled_from([(), tuple("xyz"[i % 3] for i in range(len(times)))]))
    return MetricTable(times, ("a", "b", "c"), values, labels)


@given(
    rows=readings(),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    step=st.sampled_from([0.7, 1.0, 5.0, 60.0]),
    hold=st.sampled_from([None, 0.5, 3.0, 45.0]),
)
def test_parts_resample_as_the_whole_to_the_bit(
    rows: MetricTable, cuts: list[int], step: float, hold: float | None
) -> None:
    edges = [0, *sorted(cuts), len(rows)]
    parts = [rows.rows(a, b) for a, b in pairwise(edges)]
    made = joined(resampled(parts, step, ("c",), hold))
    whole = resample(rows, step, ("c",), hold)
    same(made, whole)
    assert np.allclose(np.diff(whole.times), step)


def test_a_step_is_given_away_once_no_counter_can_change_it() -> None:
    # The reading at 6.4 tells of the step from 0 on, and comes when 6.2 is over.
    rows = table([0.5, 6.2, 6.4], [1, 1, 1], [1, NAN, 6.9])
    parts = [rows.rows(0, 2), rows.rows(2, 3)]
    same(joined(resampled(parts, 1, ("b",), 5)), resample(rows, 1, ("b",), 5))
    assert resample(rows, 1, ("b",), 5).values[0, 1] == pytest.approx(1)


@given(
    grown=st.lists(st.integers(-5, 50), min_size=2, max_size=60),
    kept=st.sets(st.integers(1, 58)),
    step=st.sampled_from([1.0, 3.0, 7.0]),
)
def test_no_increment_of_a_counter_is_lost_for_any_cut_of_the_rows(
    grown: list[int], kept: set[int], step: float
) -> None:
    counter, raw = 0.0, []
    for more in grown:
        counter = 0.0 if more < 0 else counter + more
        raw.append(counter)
    rows = [0, *sorted(i for i in kept if i < len(raw) - 1), len(raw) - 1]
    seen = [raw[i] for i in rows]
    total = sum(b if b < a else b - a for a, b in pairwise(seen))
    # From one multiple of all steps to the next, so that each cell is known as a whole.
    made = resample(table([21.0 * i for i in rows], seen), step, ("a",), hold_s=1e5).values[:, 0]
    assert np.isnan(made).sum() == 1  # that of the last reading, after which nothing is known
    assert np.nansum(made) * step == pytest.approx(total)


@given(rows=readings(), step=st.sampled_from([1.0, 5.0]))
def test_a_table_on_the_grid_stays_as_it_is(rows: MetricTable, step: float) -> None:
    grid = MetricTable(np.arange(len(rows)) * step, rows.names, rows.values, rows.labels)
    same(resample(grid, step), grid)


@given(rows=readings(), step=st.sampled_from([1.0, 9.0]), hold=st.sampled_from([None, 20.0]))
def test_a_mean_lies_among_its_readings(rows: MetricTable, step: float, hold: float | None) -> None:
    made = resample(rows, step, (), hold).values
    for column in range(3):
        known = rows.values[~np.isnan(rows.values[:, column]), column]
        means = made[~np.isnan(made[:, column]), column]
        assert bool(len(known)) == bool(len(means))
        if len(known):
            slack = 1e-9 * np.abs(known).max()
            assert means.min() >= known.min() - slack
            assert means.max() <= known.max() + slack


def test_tables_of_other_columns_do_not_follow_each_other(tmp_path: Path) -> None:
    odd = [table([0, 1], [1, 2]), MetricTable(np.array([2.0]), ("b",), np.ones((1, 1)))]
    for work in (joined, lambda parts: list(resampled(parts, 1))):
        with pytest.raises(MetricError, match="other columns"):
            work(odd)
    with pytest.raises(MetricError, match="other columns"):
        write_table(odd, tmp_path / "m.csv")
    with pytest.raises(MetricError, match="no rows"):
        resample(table([], []), 1)
    assert not list(tmp_path.iterdir())


def test_large_values_do_not_overflow() -> None:
    assert resample(table([0, 1, 2], [1e308] * 3), 60, hold_s=60).values[0, 0] == 1e308
