"""Logs as plants have them: units, bounds, categories, pauses and uneven time stamps."""

import math
from pathlib import Path
from typing import Any

import minari as library
import numpy as np
import pandas as pd
import pytest

from mbrl.data import minari, readers
from mbrl.data.tables import import_log

ID = "toy/plant-v0"
SCHEMA = "observation: [x, y]\naction: a\nreward: r\ntime: t\n"
RUNS = SCHEMA + "episode: e\n"


def table(t: list[Any], **columns: Any) -> pd.DataFrame:
    """One row per time: x counts from 0, y falls by halves, a is 10 times x, and r 100 times."""
    count = len(t)
    rows = {"t": t, "x": range(count), "y": [-k / 2 for k in range(count)]}
    rows |= {"a": [10 * k for k in range(count)], "r": [100 * k for k in range(count)], "e": [0] * count}
    return pd.DataFrame({**rows, **columns})


def load(tmp_path: Path, rows: pd.DataFrame, schema: str, **settings: Any) -> dict[str, Any]:
    rows.to_csv(tmp_path / "log.csv", index=False)
    (tmp_path / "schema.yaml").write_text(schema)
    return import_log(tmp_path / "log.csv", ID, schema=tmp_path / "schema.yaml", **settings)


def refused(tmp_path: Path, rows: pd.DataFrame, schema: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, rows, schema)
    assert library.list_local_datasets() == {}


def test_names_and_units_are_kept_with_the_data_set(tmp_path: Path) -> None:
    load(tmp_path, table([0, 1, 2]), RUNS + "units: {y: degC, a: kW}\n")
    for _ in range(2):  # the second time from the cache
        data = minari.load(ID)
        assert (data.channels, data.units) == (("x", "y"), ("", "degC"))
        assert (data.action_channels, data.action_units) == (("a",), ("kW",))
        assert data.labels == ("x", "y [degC]")


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_a_gap_in_time_ends_an_episode(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "CHUNK", chunk)
    report = load(tmp_path, table([0, 1, 2, 10, 11, 30, 40, 41]), SCHEMA + "max_gap: 5\n")
    data = minari.load(ID)
    assert data.obs[:, 0].tolist() == [0, 1, 3, 6]
    assert data.next_obs[:, 0].tolist() == [1, 2, 4, 7]
    assert data.truncated.tolist() == [False, True, True, True]
    assert (report["gaps"], report["period"], report["episodes"]) == (3, 1.0, 3)
    assert report["rows_without_successor"] == 4  # the last of each piece, and the row between two gaps


def test_a_missing_row_is_a_gap_where_the_period_is_stated(tmp_path: Path) -> None:
    report = load(tmp_path, table([0, 1, 2, 4, 5]), RUNS + "period: 1\n")
    assert minari.load(ID).lengths.tolist() == [2, 1]
    assert report["gaps"] == 1


def test_uneven_rows_are_refused_with_the_ways_out(tmp_path: Path) -> None:
    message = (
        r"row 3 is 3 after the row before it in 't', and the period is 1, as in the first.*1 of 4 steps.*resample: last"
    )
    refused(tmp_path, table([0, 1, 2, 5, 6]), RUNS, message)
    refused(
        tmp_path,
        table([0, 1, 1, 2, 3, 4, 5]),
        RUNS,
        r"row 2 has the same time as the row before it in 't' \(so have 1 rows.*remove the rep",
    )
    refused(tmp_path, table([0, 1, 2]), RUNS + "period: 0.5\nmax_gap: 9\n", "the period is 0.5")
    load(tmp_path, table([0, 1.04, 2.01, 2.97]), RUNS)  # a little jitter is none
    assert len(minari.load(ID)) == 3


def test_time_that_runs_backwards_is_refused(tmp_path: Path) -> None:
    stamps = ["2024-05-01T00:00:00", "2024-05-01T00:00:01", "2024-05-01T00:00:00.5"]
    for rule in ("", "period: 1\nmax_gap: 5\nresample: last\n"):
        refused(tmp_path, table(stamps), RUNS + rule, r"row 2 is out of time order: 't' falls from")


def test_resampling_to_the_last_value(tmp_path: Path) -> None:
    rows = table([0, 0.5, 1.5, 3.2, 4])  # x = 0, 1, 2, 3, 4
    load(tmp_path, rows, RUNS + "period: 1\nmax_gap: 5\nresample: last\n")
    data = minari.load(ID)
    assert data.obs[:, 0].tolist() == [0, 1, 2, 2]  # at 0, 1, 2, 3
    assert data.next_obs[-1, 0] == 4  # at 4
    assert data.action[:, 0].tolist() == [0, 10, 20, 20]
    assert data.reward.tolist() == [0, 100, 200, 250]  # from 3 on: the row of 1.5, which still holds, and that of 3.2


def test_resampling_by_lines(tmp_path: Path) -> None:
    rows = table([0, 0.5, 1.5, 3.5, 4], m=["on", "on", "off", "off", "on"])
    schema = RUNS.replace("[x, y]", "[x, m]") + "period: 1\nmax_gap: 5\nresample: linear\ncategorical: [m]\n"
    load(tmp_path, rows, schema)
    data = minari.load(ID)
    assert data.channels == ("x", "m=off", "m=on")
    assert data.obs[:, 0].tolist() == [0, 1.5, 2.25, 2.75]  # at 0, 1, 2, 3
    assert data.obs[:, 1].tolist() == [0, 0, 1, 1]  # a category is never between two
    assert data.next_obs[-1].tolist() == [4, 0, 1]
    assert data.action[:, 0].tolist() == [0, 10, 20, 20]  # nor is an action


def test_resampling_keeps_a_terminal_between_two_points(tmp_path: Path) -> None:
    rows = table([0, 1, 2, 2.4], d=[0, 0, 0, 1])
    schema = SCHEMA + "terminal: d\nperiod: 1\nmax_gap: 5\nresample: last\n"
    assert load(tmp_path, rows, schema)["terminals"] == 1
    data = minari.load(ID)
    assert data.next_obs[:, 0].tolist() == [1, 2, 3]
    assert data.terminated.tolist() == [False, False, True]


@pytest.mark.parametrize("more", ["max_gap: 200\n", "max_gap: 200\nresample: last\n"])
def test_times_that_float32_has_rounded_together_are_refused(tmp_path: Path, more: str) -> None:
    """Seconds since 1970: a grid was filled with the last row of each 128, in silence."""
    count, path = 600, tmp_path / "log.parquet"
    time = (1.7e9 + np.arange(count)).astype(np.float32)
    pd.DataFrame({"t": time, "x": np.arange(count), "a": 0.5, "r": 1.0}).to_parquet(path)
    schema = tmp_path / "schema.yaml"
    schema.write_text(f"observation: [x]\naction: a\nreward: r\ntime: t\nperiod: 1\n{more}")
    told = r"row 1, column 't' is what the row before it has, 1700000000: float32 numbers lie 128 apart there, write"
    with pytest.raises(ValueError, match=told):
        import_log(path, "toy/rounded-v0", schema=schema)


def test_timestamps_are_in_seconds(tmp_path: Path) -> None:
    stamps = [f"2024-05-01T00:00:{s}" for s in ("00", "02", "04", "30", "32")]
    report = load(tmp_path, table(stamps), SCHEMA + "period: 2\nmax_gap: 10\n")
    assert (report["gaps"], report["episodes"]) == (1, 2)


def test_bounds_that_the_log_violates_are_counted_with_rows(tmp_path: Path) -> None:
    rows = table([0, 1, 2, 3, 0, 1, 2], e=[0, 0, 0, 0, 1, 1, 1], y=[0.0, 5, -3, 7, 1, 1, 2])
    schema = RUNS + "bounds: {y: [0, 4]}\n"
    refused(
        tmp_path,
        rows,
        schema,
        r"'y' leaves its bounds \[0, 4\] in 3 rows, such as row 1, row 2, row 3 .*--on-bad-rows drop-episode",
    )
    report = load(tmp_path, rows, schema, on_bad_rows="drop-episode")
    assert report["outside_bounds"] == {"y": {"count": 3, "rows": [1, 2, 3]}}
    assert report["dropped"] == [{"episode": 0, "row": 0, "reason": "y: bounds"}]
    assert minari.load(ID).obs[:, 1].tolist() == [1, 1]


def test_categories_are_found_or_listed(tmp_path: Path) -> None:
    rows = table([0, 1, 2], m=["b", " a ", "b"])
    schema = RUNS.replace("[x, y]", "[x, m]")
    load(tmp_path, rows, schema + "categorical: [m]\n")
    assert minari.load(ID).channels == ("x", "m=a", "m=b")
    assert minari.load(ID).obs.tolist() == [[0, 0, 1], [1, 1, 0]]
    library.delete_dataset(ID)
    load(tmp_path, rows, schema + "categorical: {m: [b, c, a]}\n")  # c may come later
    assert minari.load(ID).channels == ("x", "m=b", "m=c", "m=a")
    assert minari.load(ID).obs.tolist() == [[0, 1, 0, 0], [1, 0, 0, 1]]
    library.delete_dataset(ID)
    refused(tmp_path, rows, schema + "categorical: {m: [a, c]}\n", r"row 0, column 'm' is 'b', expected one of.*a, c")
    refused(tmp_path, rows.assign(m=["b", None, "a"]), schema + "categorical: [m]\n", "row 1, column 'm' is empty")


def test_categories_of_the_next_observation_are_the_same(tmp_path: Path) -> None:
    rows = table([0, 1], m=["a", "b"], x2=[1, 2], m2=["b", "c"])
    load(tmp_path, rows, RUNS.replace("[x, y]", "[x, m]") + "next_observation: [x2, m2]\ncategorical: [m]\n")
    data = minari.load(ID)
    assert data.channels == ("x", "m=a", "m=b", "m=c")
    assert data.next_obs.tolist() == [[1, 0, 1, 0], [2, 0, 0, 1]]


def test_columns_that_never_change_are_dropped_with_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table([0, 1, 2], y=[7.5] * 3, m=["on"] * 3)
    schema = RUNS.replace("[x, y]", "[y, x, m]") + "categorical: [m]\n"
    report = load(tmp_path, rows, schema)
    assert minari.load(ID).channels == ("x",)
    assert minari.load(ID).obs.tolist() == [[0], [1]]
    assert report["constant"] == {"y": "7.5", "m=on": "on"}
    assert "'y' is 7.5 in every row and is dropped" in capsys.readouterr().err
    library.delete_dataset(ID)
    assert load(tmp_path, rows, schema + "keep_constant: true\n")["constant"] == {}
    assert minari.load(ID).channels == ("y", "x", "m=on")
    library.delete_dataset(ID)
    refused(tmp_path, rows.assign(x=1), schema, "no column of the observation ever changes: y, x, m=on")


RULES = """
import torch
def profit(obs, action, next_obs):
    return next_obs[:, 1] - obs[:, 1] + action[:, 0]
def column(obs, action, next_obs):
    return obs[:, :1]
def broken(obs, action, next_obs):
    return torch.log(-1 - obs[:, 0])
def one(obs):
    return obs
"""


def test_a_function_gives_the_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plant_rules.py").write_text(RULES)
    monkeypatch.syspath_prepend(tmp_path)
    rows = table([0, 1, 2], y=[5.0, 5, 5]).drop(columns="r")
    schema = RUNS.replace("[x, y]", "[y, x]").replace("reward: r", "reward_function: plant_rules.profit")
    load(tmp_path, rows, schema)  # y is constant, and the function counts it still
    assert minari.load(ID).reward.tolist() == [1, 11]
    library.delete_dataset(ID)
    for name, message in {
        "column": r"plant_rules.column returned \[2, 1\], expected a tensor \[2\]",
        "broken": "plant_rules.broken returned nan for step 0 of the episode from row 0",
        "one": r"does not take \(obs, action, next_obs\)",
        "none": "'plant_rules.none' is not an importable dotted path",
    }.items():
        refused(tmp_path, rows, schema.replace("profit", name), message)


def test_a_function_sees_a_discrete_action_as_one_hot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "choice_rules.py").write_text("def second(obs, action, next_obs):\n    return action[:, 1]\n")
    monkeypatch.syspath_prepend(tmp_path)
    rows = table([0, 1, 2, 3], a=[1, 0, 1, 0])
    load(tmp_path, rows, RUNS.replace("reward: r", "reward_function: choice_rules.second") + "discrete: true\n")
    assert minari.load(ID).reward.tolist() == [1, 0, 1]
    assert minari.load(ID).action_channels == ("a=0", "a=1")
    assert math.isclose(float(minari.load(ID).action.sum()), 3)
