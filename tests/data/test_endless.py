"""A log of a plant that never stops is one episode: `cut_every` makes pieces of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from table_toys import ID, schema

from mbrl.data import minari
from mbrl.data.tables import import_log

LIMITS = "observation: level\naction: valve\nreward: gain\naction_low: 0\naction_high: 9\n"
SERIES = LIMITS + "cut_every: 4\n"


def series(path: Path, rows: int = 11, **more: object) -> Path:
    """Levels 0, 1, 2, ..., valves half of them, gains ten times as much."""
    level = np.arange(rows, dtype=float)
    pd.DataFrame({"level": level, "valve": level / 2, "gain": 10 * level, **more}).to_csv(path / "log.csv", index=False)
    return path / "log.csv"


def test_no_step_is_lost_between_two_pieces(tmp_path: Path) -> None:
    """Eleven rows are ten steps: three pieces, each of which ends with what the next one begins with."""
    report = import_log(series(tmp_path), ID, schema=schema(tmp_path, SERIES))
    data = minari.load(ID)
    assert data.lengths.tolist() == [3, 3, 4]
    assert data.obs[:, 0].tolist() == list(range(10))
    assert data.next_obs[:, 0].tolist() == list(range(1, 11))
    assert data.reward.tolist() == [10 * k for k in range(10)]
    assert data.truncated.nonzero()[:, 0].tolist() == [2, 5, 9]
    assert not data.terminated.any()
    assert (report["rows"], report["episodes"], report["rows_without_successor"]) == (10, 3, 1)
    assert (report["series"], data.series) == (1, (3,))
    assert report["mean_return"] == pytest.approx(150.0)


def test_with_next_observations_every_row_is_a_step_and_the_last_flag_stays(tmp_path: Path) -> None:
    log = series(tmp_path, after=np.arange(1, 12), end=np.arange(11) == 10)
    import_log(log, ID, schema=schema(tmp_path, SERIES + "next_observation: after\nterminal: end"))
    data = minari.load(ID)
    assert data.lengths.tolist() == [3, 4, 4]
    assert data.next_obs[:, 0].tolist() == list(range(1, 12))
    assert data.terminated.nonzero()[:, 0].tolist() == [10]
    assert data.truncated.nonzero()[:, 0].tolist() == [2, 6]


def test_a_shorter_episode_stays_whole(tmp_path: Path) -> None:
    """Of runs of 3 and 8 rows, which are 2 and 7 steps, the second one is cut."""
    log = series(tmp_path, run=[1] * 3 + [2] * 8)
    report = import_log(log, ID, schema=schema(tmp_path, SERIES + "episode: run"))
    data = minari.load(ID)
    assert data.lengths.tolist() == [2, 3, 4]
    assert (report["series"], data.series, data.series_of.tolist()) == (2, (1, 2), [0, 1, 1])


@pytest.mark.parametrize(("second", "count"), [(11, 1), (5, 2), (10, 2)])
def test_a_file_that_begins_before_the_last_one_ended_is_another_series(
    tmp_path: Path, second: int, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two plants that were logged at once, a file each; or files that are not in the order of time."""
    first, then = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    then.mkdir()
    files = [series(first, t=np.arange(11)), series(then, t=second + np.arange(11))]
    report = import_log(files, ID, schema=schema(tmp_path, SERIES + "time: t\nmax_gap: 1.5"))
    assert (report["series"], len(minari.load(ID).series)) == (count, count)
    told = "a file begins before the one before it ends, and so counts as another series"
    assert (told in capsys.readouterr().err) == (count == 2)


def test_a_log_of_which_nothing_was_cut_has_no_series(tmp_path: Path) -> None:
    log = series(tmp_path, run=[1] * 3 + [2] * 8)
    report = import_log(log, ID, schema=schema(tmp_path, LIMITS + "cut_every: 10\nepisode: run"))
    assert (report["series"], minari.load(ID).series) == (2, ())


GRIDDED = "time: t\nperiod: 1.0\nmax_gap: 5.0\nresample: last\n"


@pytest.mark.parametrize("grid", ["", GRIDDED])
@pytest.mark.parametrize(
    ("cells", "said", "lost"),
    [
        ({"gain": (4, np.nan)}, "", [4]),  # what a step earned is of one step
        ({"gain": (4, -1.0)}, "bounds: {gain: [0, 200]}", [4]),
        ({"valve": (4, 99.0)}, "", [4]),
        ({"level": (4, np.inf)}, "", [3, 4]),  # a state is one that a step leads to, too
        ({"level": (4, 99.0)}, "bounds: {level: [0, 20]}", [3, 4]),
        ({"level": (10, 99.0)}, "bounds: {level: [0, 20]}", [9]),
        ({"gain": (10, np.nan)}, "", []),  # a last row is a state, and no step
    ],
)
def test_a_row_that_cannot_be_used_takes_its_steps_and_no_other(
    tmp_path: Path, cells: dict[str, tuple[int, float]], said: str, lost: list[int], grid: str
) -> None:
    columns = {"level": np.arange(11.0), "valve": np.arange(11) / 2, "gain": 10 * np.arange(11.0)}
    for name, (row, value) in cells.items():
        columns[name][row] = value
    log, told = series(tmp_path, t=np.arange(11), **columns), schema(tmp_path, f"{SERIES}{grid}{said}")
    report = import_log(log, ID, schema=told, on_bad_rows="drop-episode")
    data = minari.load(ID)
    assert data.obs[:, 0].tolist() == [step for step in range(10) if step not in lost]
    assert int(data.lengths.max()) <= 4
    assert [drop["row"] for drop in report["dropped"]] == lost[:1]
    assert (report["series"], data.series) == (1, (data.episodes,))  # what is left is of one series still
    if lost:
        with pytest.raises(ValueError, match=f"column '{next(iter(cells))}'"):
            import_log(log, "toy/strict-v0", schema=told)


def test_with_next_observations_a_bad_row_is_a_step(tmp_path: Path) -> None:
    """And the observation before it says where that one led to."""
    after = np.arange(1.0, 12)
    after[4] = np.nan
    told = schema(tmp_path, SERIES + "next_observation: after")
    import_log(series(tmp_path, after=after), ID, schema=told, on_bad_rows="drop-episode")
    data = minari.load(ID)
    assert data.obs[:, 0].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert data.lengths.tolist() == [4, 3, 3]


def test_a_row_outside_its_bounds_is_counted_once(tmp_path: Path) -> None:
    log = series(tmp_path, level=[0, 1, 2, 99, *range(4, 10), 9])
    told = schema(tmp_path, SERIES + "bounds: {level: [0, 9]}")
    report = import_log(log, ID, schema=told, on_bad_rows="drop-episode")
    assert report["outside_bounds"]["level"] == {"count": 1, "rows": [3]}
    with pytest.raises(ValueError, match=r"column 'level' leaves its bounds \[0, 9\] in 1 rows"):  # of two pieces
        import_log(log, "toy/strict-v0", schema=schema(tmp_path, SERIES.replace("4", "3") + "bounds: {level: [0, 9]}"))


def test_commands_beyond_their_limits_are_no_bad_rows(tmp_path: Path) -> None:
    told = schema(tmp_path, SERIES + "clip_action: true")
    report = import_log(series(tmp_path, valve=[0, 99, *range(9)]), ID, schema=told, on_bad_rows="drop-episode")
    assert (report["rows"], report["clipped_actions"], report["dropped"]) == (10, 1, [])


def test_what_is_resampled_is_cut_in_rows_of_the_grid(tmp_path: Path) -> None:
    """Rows every second on a grid of two: levels 0, 2, ..., 10, five steps of which two pieces are made."""
    told = SERIES + "time: t\nperiod: 2.0\nmax_gap: 5.0\nresample: last"
    import_log(series(tmp_path, t=np.arange(11.0)), ID, schema=schema(tmp_path, told))
    data = minari.load(ID)
    assert data.lengths.tolist() == [2, 3]
    assert data.obs[:, 0].tolist() == [0, 2, 4, 6, 8]
    assert data.series == (2,)


@pytest.mark.parametrize(
    ("more", "said", "wanted"),
    [
        ({"t": [*range(5), *range(90, 96)]}, "time: t\nmax_gap: 5", (1, (3,))),  # a historian's pause is no news
        (
            {"t": [*range(5), *range(90, 96)], "end": [0] * 4 + [1] + [0] * 6},
            "time: t\nmax_gap: 5\ntruncated: end",
            (2, (1, 2)),
        ),
        ({"run": [1] * 3 + [2] * 8}, "episode: run", (2, (1, 2))),
    ],
)
def test_a_series_goes_on_over_a_pause_and_ends_with_a_flag_or_an_id(
    more: dict[str, list[int]], said: str, wanted: tuple[int, tuple[int, ...]], tmp_path: Path
) -> None:
    report = import_log(series(tmp_path, **more), ID, schema=schema(tmp_path, f"{SERIES}{said}"))
    assert (report["series"], minari.load(ID).series) == wanted


@pytest.mark.parametrize(("said", "wanted"), [("", (6,)), ("episode: run", (3, 3))])
def test_a_series_goes_on_in_the_next_file_where_ids_do_not_begin_anew(
    said: str, wanted: tuple[int, ...], tmp_path: Path
) -> None:
    files = [series(tmp_path, run=[0] * 11).rename(tmp_path / f"day-{k}.csv") for k in (1, 2)]
    assert import_log(files, ID, schema=schema(tmp_path, SERIES + said))["series"] == len(wanted)
    assert minari.load(ID).series == wanted


@pytest.mark.parametrize("value", ["0", "-3", "2.5", "true", "day"])
def test_a_length_that_is_none_is_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cut_every is .*, expected a whole number, 1 or more"):
        import_log(series(tmp_path), ID, schema=schema(tmp_path, f"{LIMITS}cut_every: {value}"))


def test_an_endless_log_is_told_of_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cut one endless series into pieces, `cut_every: ROWS`"):
        import_log(series(tmp_path), ID, schema=schema(tmp_path, LIMITS))
