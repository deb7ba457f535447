"""A log in several files: one count of rows, episodes that go on where time does, and errors that name the file."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from pipeline_toys import spoken
from table_toys import assert_is, schema

from mbrl.data import minari, readers
from mbrl.data.logfiles import open_files
from mbrl.data.tables import import_log

ID = "toy/days-v0"
FLAGS = "observation: [x]\naction: a\nreward: r\nterminal: end\n"
TIMED = "observation: [x]\naction: a\nreward: r\ntime: t\nmax_gap: 1.5\n"
RUNS = "observation: [x]\naction: a\nreward: r\nepisode: e\n"


def days(folder: Path, *times: list[float], kind: str = "csv", **columns: list[Any]) -> list[Path]:
    """A file for each list of times, in which x counts through all of them; `columns` likewise."""
    count, paths = 0, []
    for number, t in enumerate(times):
        rows = slice(count, count + len(t))
        x = np.arange(count, count + len(t))
        given = {name: values[rows] for name, values in columns.items()}
        table = pd.DataFrame({"t": t, "x": x, "a": x / 10, "r": -x, "end": False, "e": 0, **given})
        paths.append(folder / f"day-{number}.{kind}")
        table.to_parquet(paths[-1]) if kind == "parquet" else table.to_csv(paths[-1], index=False)
        count += len(t)
    return paths


def opened() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


def steps(id: str = ID) -> list[tuple[float, float, bool]]:
    """x before and after each step, and whether an episode ends with it."""
    data = minari.load(id)
    ends = (data.terminated | data.truncated).tolist()
    return list(zip(data.obs[:, 0].tolist(), data.next_obs[:, 0].tolist(), ends, strict=True))


@pytest.mark.parametrize("chunk", [1, 2, 100])
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_an_episode_goes_on_where_time_does(
    tmp_path: Path, kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "CHUNK", chunk)
    files = days(tmp_path, [0, 1], [2, 3, 9], [10, 11], [4, 5], kind=kind)
    report = import_log(files, ID, schema=schema(tmp_path, TIMED))
    pairs = [(0, 1), (1, 2), (2, 3), (4, 5), (5, 6), (7, 8)]  # a gap within a file, and a file that begins earlier
    assert steps() == [(a, b, k in (2, 4, 5)) for k, (a, b) in enumerate(pairs)]
    assert (report["episodes"], report["gaps"], report["rows_without_successor"]) == (3, 1, 3)
    assert report["files"] == [
        {"path": str(path), "first_row": first} for path, first in zip(files, (0, 2, 5, 7), strict=True)
    ]


def test_without_a_time_a_file_ends_its_last_episode(tmp_path: Path) -> None:
    files = days(tmp_path, [0, 1, 2, 3], [4, 5], end=[False, True, False, False, False, False])
    report = import_log(files, ID, schema=schema(tmp_path, FLAGS))
    assert steps() == [(0, 1, True), (2, 3, True), (4, 5, True)]
    assert (report["terminals"], report["rows"], report["rows_without_successor"]) == (1, 3, 3)


def test_ids_of_episodes_count_within_a_file(tmp_path: Path) -> None:
    files = days(tmp_path, [0, 1, 2, 3], [0, 1], [0, 1, 2], e=["a", "a", "b", "b", "b", "b", "a", "a", "a"])
    assert import_log(files, ID, schema=schema(tmp_path, RUNS))["episodes"] == 4
    assert steps() == [(0, 1, True), (2, 3, True), (4, 5, True), (6, 7, False), (7, 8, True)]
    night = days(tmp_path, [0, 1, 2, 3], [4, 5, 6, 7, 8, 9], e=["a", "a", "b", "b", "b", "b", "c", "c", "a", "a"])
    timed = schema(tmp_path, TIMED + "episode: e\n")
    assert import_log(night, "toy/night-v0", schema=timed)["episodes"] == 4  # one of which goes on over the border
    night = days(tmp_path, [0, 1, 2, 3], [4, 5, 6, 7, 8, 9], e=["a", "a", "b", "b", "b", "b", "c", "c", "b", "b"])
    with pytest.raises(ValueError, match=r"row 4 of day-1\.csv: episode 'b' comes again"):
        import_log(night, "toy/again-v0", schema=timed)
    again = days(tmp_path, [0, 1], [0, 1, 2, 3, 4], e=["a", "a", "b", "b", "c", "c", "b"])
    with pytest.raises(ValueError, match=r"row 4 of day-1\.csv: episode 'b' comes again"):
        import_log(again, "toy/again-v0", schema=schema(tmp_path, RUNS))


def test_a_folder_is_read_by_the_numbers_in_its_names(tmp_path: Path) -> None:
    folder = tmp_path / "days"
    folder.mkdir()
    for path, number in zip(days(folder, [0, 1], [2, 3], [4, 5]), (9, 10, 11), strict=True):
        path.rename(folder / f"log {number}.csv")
    (folder / "read me.txt").write_text("what the columns mean")
    (folder / "._log 1.csv").write_text("what a Mac leaves")
    import_log(folder, ID, schema=schema(tmp_path, TIMED))
    assert [before for before, _, _ in steps()] == [0, 1, 2, 3, 4]
    text = schema(tmp_path, TIMED)
    spelt = [folder / f"log {number}.csv" for number in (10, 11, 9)]  # as a shell does
    assert import_log(spelt, "toy/spelt-v0", schema=text)["fingerprint"] == minari.load(ID).fingerprint
    import_log([spelt[1], *spelt[::2]], "toy/said-v0", schema=text)
    assert [before for before, _, _ in steps("toy/said-v0")] == [4, 2, 0]


def test_arrays_come_in_several_files_too(tmp_path: Path, toy_log: Any) -> None:
    whole = toy_log((4, 3, 5))
    parts = []
    for rows in (slice(0, 7), slice(7, 12)):
        part = {name: values[rows] for name, values in whole.items()}
        parts.append(tmp_path / f"{rows.start}.npz")
        ends = np.array([0, 4] if rows.start == 0 else [0])
        np.savez(parts[-1], **part, index=ends)
    assert import_log(parts, ID)["episodes"] == 3
    assert_is(minari.load(ID), whole)
    np.savez(parts[1], **part)
    with pytest.raises(ValueError, match=r"7\.npz has no array 'index', which the first file of the log has"):
        import_log(parts, "toy/other-v0")
    np.savez(parts[1], **part, index=np.array([0, 5]))
    with pytest.raises(ValueError, match=r"7\.npz: the array 'index' has an episode begin in row 5"):
        import_log(parts, "toy/other-v0")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_categories_and_constants_are_those_of_all_files(tmp_path: Path, kind: str) -> None:
    text = "observation: [x, mode, same]\naction: a\nreward: r\ntime: t\nmax_gap: 1.5\ncategorical: [mode]\n"
    files = days(tmp_path, [0, 1], [2, 3], kind=kind, mode=["cool", "cool", "heat", "dry"], same=[3.0] * 4)
    assert import_log(files, ID, schema=schema(tmp_path, text))["constant"] == {"same": "3"}
    assert minari.load(ID).channels == ("x", "mode=cool", "mode=dry", "mode=heat")
    choices = "observation: [x]\naction: c\nreward: r\ntime: t\nmax_gap: 1.5\ndiscrete: true\n"
    files = days(tmp_path, [0, 1], [2, 3], kind=kind, c=[0, 0, 4, 0])
    import_log(files, "toy/choices-v0", schema=schema(tmp_path, choices))
    assert minari.load("toy/choices-v0").action.shape[1] == 5
    files = days(tmp_path, [0, 1], [2, 3], [4, 5], kind=kind, c=[0, 0, 4, 0, 0.5, 0])  # choices are counted first
    with pytest.raises(ValueError, match=r"row 0 of day-2\..*, column 'c' is 0\.5, expected an integer"):
        import_log(files, "toy/halves-v0", schema=schema(tmp_path, choices))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [0, 1, 2, "?"]}, r"day-1\.csv: row 1, column 'x' is '\?', expected"),
        (
            {"a": [0, 0, np.nan, 0]},
            r"2 files, .*day-0\.csv to .*day-1\.csv: row 0 of day-1\.csv, column 'a' is empty",
        ),
        (
            {"level": [0, 0, 0, 9]},
            r"column 'level' leaves its bounds \[0, 2\] in 1 rows, such as row 1 of day-1\.csv",
        ),
        ({"t": [0, 1, 2, 2]}, r"row 1 of day-1\.csv has the same time as the row before it"),
    ],
)
def test_what_is_wrong_is_told_by_the_file_that_it_is_in(
    tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    files = days(tmp_path, [0, 1], [2, 3], **{"level": [0, 1, 0, 1], **columns})
    text = TIMED.replace("[x]", "[x, level]") + "bounds: {level: [0, 2]}\n"
    with pytest.raises(ValueError, match=message):
        import_log(files, ID, schema=schema(tmp_path, text))


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_one_file_is_open_at_a_time(tmp_path: Path, kind: str) -> None:
    paths, before = days(tmp_path, *[[0, 1]] * 9, kind=kind), opened()
    files = open_files(paths)
    assert opened() <= before + 1
    held = [opened() for _ in files.chunks(["x"])]
    assert len(held) == 9
    assert max(held) <= before + 2


def test_files_that_are_no_log_together_are_refused(tmp_path: Path) -> None:
    one, two = days(tmp_path, [0, 1], [2, 3])
    other = days(tmp_path, [0, 1], kind="parquet")[0]
    pd.read_csv(two).drop(columns="r").to_csv(tmp_path / "less.csv", index=False)
    (tmp_path / "empty").mkdir()
    text = schema(tmp_path, TIMED)
    for files, message in (
        ([one, tmp_path / "." / one.name], r"day-0\.csv is named twice: name each file of the log once"),
        ([one, other], r"day-0\.parquet and .*day-0\.csv are files of different kinds"),
        ([one, tmp_path / "less.csv"], r"less\.csv has no column 'r' \(the schema"),
        (tmp_path / "empty", r"the folder .*empty holds no file that ends in \.npz, \.csv"),
        ([], "no file is named, expected one that ends in"),
    ):
        with pytest.raises(ValueError, match=message):
            import_log(files, ID, schema=text)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*day-7\.csv"):
        import_log([one, tmp_path / "day-7.csv"], ID, schema=text)


def test_the_command_takes_several(tmp_path: Path) -> None:
    files = [str(path) for path in days(tmp_path, [0, 1, 2], [3, 4])]
    status, answer, told = spoken(["import", *files, "--id", ID, "--schema", str(schema(tmp_path, TIMED))])
    assert (status, answer["rows"], answer["episodes"]) == (0, 4, 1)
    assert "files              2, whose rows are counted from 0 and through all of them" in told
    for number, named in enumerate((files, files[:1], files[0])):
        settings = {"file": named, "id": f"toy/yaml{number}-v0", "schema": str(tmp_path / "schema.yaml")}
        (tmp_path / "import.yaml").write_text(yaml.safe_dump(settings))
        status, answer, _ = spoken(["import", "--config", str(tmp_path / "import.yaml")])
        assert (status, answer["rows"]) == (0, 2 if number else 4)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("", "+02:00", "holds times with a zone from row 0 on .*, and times without a zone before"),
        ("Z", "", "holds times without a zone from row 0 on .*, and times with a zone before"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_times_of_two_kinds_are_not_compared(tmp_path: Path, kind: str, first: str, second: str, told: str) -> None:
    """11:01 of a local clock and 11:02+02:00 are two hours apart, or are not."""
    times = [f"2024-01-01T11:0{k}:00" + (first if k < 2 else second) for k in range(4)]
    files = days(tmp_path, times[:2], times[2:], kind=kind)
    with pytest.raises(ValueError, match=rf"day-1\.{kind}: column 't' {told}"):
        import_log(files, ID, schema=schema(tmp_path, TIMED))


def test_a_count_of_seconds_is_no_date(tmp_path: Path) -> None:
    files = days(tmp_path, [0, 1], ["2024-01-01T11:00:00Z", "2024-01-01T11:00:01Z"])
    with pytest.raises(ValueError, match=r"holds times with a zone from row 0 on .*, and numbers before"):
        import_log(files, ID, schema=schema(tmp_path, TIMED))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_without_any_time_is_a_bad_day(tmp_path: Path, kind: str) -> None:
    files = days(
        tmp_path, *([f"2024-01-0{d}T11:0{k}:00Z" if d != 2 else None for k in range(3)] for d in (1, 2, 3)), kind=kind
    )
    text = schema(tmp_path, TIMED.replace("1.5", "90"))
    report = import_log(files, ID, schema=text, on_bad_rows="drop-episode")
    assert (report["rows"], report["episodes"], report["dropped_episodes"]) == (4, 2, 1)
