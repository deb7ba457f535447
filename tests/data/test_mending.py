"""Empty cells of a log that is put on a grid are filled by its rule, and told; what cannot be filled is a pause."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from table_toys import ID, schema

from mbrl.data import minari
from mbrl.data.tables import import_log

NONE = np.nan
GRID = "action: a\nreward: r\naction_low: 0\naction_high: 99\ntime: t\nperiod: 1\nmax_gap: 3\n"


def load(path: Path, text: str, x: list[float], **columns: Any) -> dict[str, Any]:
    """A log of one row a second; actions are 0, 1, ..., rewards 0."""
    count = len(x)
    table = pd.DataFrame({"t": range(count), "x": x, "a": range(count), "r": 0.0} | columns)
    table.to_csv(path / "log.csv", index=False)
    return import_log(path / "log.csv", ID, schema=schema(path, text))


def series(rule: str, names: str = "x") -> str:
    return f"observation: {names}\n{GRID}resample: {rule}\n"


def episodes() -> list[list[float]]:
    data = minari.load(ID)
    parts = zip(data.obs.split(data.lengths.tolist()), data.next_obs.split(data.lengths.tolist()), strict=True)
    return [[*obs[:, 0].tolist(), after[-1, 0].item()] for obs, after in parts]


def test_the_last_value_holds_and_a_line_leads_to_the_next(tmp_path: Path) -> None:
    cells = [0.0, NONE, NONE, 9.0, NONE, 7.0]
    report = load(tmp_path, series("last"), cells)
    assert episodes() == [[0, 0, 0, 9, 9, 7]]
    assert (report["filled_cells"], report["unknown_rows"], report["dropped"]) == ({"x": 3}, 0, [])
    minari.remove(ID)
    assert load(tmp_path, series("linear"), cells)["filled_cells"] == {"x": 3}
    assert episodes() == [[0, 3, 6, 9, 8, 7]]


def test_a_value_holds_no_longer_than_a_pause_may_last(tmp_path: Path) -> None:
    """Three seconds, of four that are empty; a line over five leads nowhere."""
    cells = [0.0, 1.0, NONE, NONE, NONE, NONE, 6.0, 7.0]
    report = load(tmp_path, series("last"), cells)
    assert episodes() == [[0, 1, 1, 1, 1], [6, 7]]
    assert (report["filled_cells"], report["unknown_rows"]) == ({"x": 3}, 1)
    minari.remove(ID)
    report = load(tmp_path, series("linear"), cells)
    assert episodes() == [[0, 1], [6, 7]]
    assert (report["filled_cells"], report["unknown_rows"]) == ({}, 4)


def test_channels_that_are_logged_in_turn(tmp_path: Path) -> None:
    """As a historian keeps them: a row whenever one of them is read. The first row in which all are known begins."""
    x, y, a = [0.0, NONE, 2.0, NONE, 4.0], [NONE, 10.0, NONE, 30.0, NONE], [NONE, NONE, 5.0, NONE, NONE]
    report = load(tmp_path, series("last", "[x, y]"), x, y=y, a=a)
    data = minari.load(ID)
    assert data.obs.tolist() == [[2, 10], [2, 30]]
    assert data.next_obs.tolist() == [[2, 30], [4, 30]]
    assert data.action.tolist() == [[5], [5]]
    assert report["filled_cells"] == {"x": 2, "y": 2, "a": 1}  # the last row's action is none
    assert report["unknown_rows"] == 2


def test_categories_and_choices_keep_the_last_one(tmp_path: Path) -> None:
    text = "observation: [x, m]\ncategorical: m\nresample: linear\ndiscrete: [shut, open]\n"
    text += GRID.replace("action_low: 0\naction_high: 99\n", "")
    report = load(tmp_path, text, [0.0, 1.0, 2.0, 3.0], m=["on", None, "off", "off"], a=["open", None, "shut", None])
    data = minari.load(ID)
    assert data.channels == ("x", "m=off", "m=on")
    assert data.obs.tolist() == [[0, 0, 1], [1, 0, 1], [2, 1, 0]]
    assert data.action.tolist() == [[0, 1], [0, 1], [1, 0]]  # open, open, shut
    assert report["filled_cells"] == {"m": 1, "a": 1}


def test_a_pause_of_one_sensor_ends_no_series(tmp_path: Path) -> None:
    cells = [float(k) for k in range(5)] + [NONE] * 4 + [float(k) for k in range(9, 14)]
    report = load(tmp_path, series("linear") + "cut_every: 2\n", cells)
    assert episodes() == [[0, 1, 2], [2, 3, 4], [9, 10, 11], [11, 12, 13]]
    assert (report["series"], report["unknown_rows"]) == (1, 4)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [NONE] * 4, "y": [1.0, 2.0, 3.0, 4.0]}, "row 0, column 'x' is empty or not a number"),
        ({"r": [0.0, NONE, 0.0, 0.0]}, "row 1, column 'r' is empty or not a number"),
        ({"x": [0.0, 1.0, 2.0, NONE], "d": [0, 0, 0, 1]}, "row 3, column 'x' is empty or not a number"),
    ],
)
def test_what_has_no_value_to_go_by_is_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    """A column that is empty throughout, a reward, and what would take an end with it."""
    columns = {"x": [0.0, 1.0, 2.0, 3.0], "y": 0.0} | columns
    text = series("linear", "[x, y]") + "keep_constant: true\n" + ("terminal: d\n" if "d" in columns else "")
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path, text, columns.pop("x"), **columns)
    assert "`resample` in the schema" not in str(error.value)
    assert ("`resample` fills no reward" in str(error.value)) == ("r" in columns)


def test_who_has_times_and_no_grid_is_told_of_it(tmp_path: Path) -> None:
    told = "`resample` in the schema fills empty cells up to `max_gap`"
    with pytest.raises(ValueError, match=told):
        load(tmp_path, f"observation: x\n{GRID}", [0.0, NONE, 2.0])
    with pytest.raises(ValueError, match="out of time order") as error:
        load(tmp_path, f"observation: x\n{GRID}", [0.0, 1.0, 2.0], t=[0, 2, 1])
    assert told not in str(error.value)


def test_what_a_historian_says_in_words_is_an_empty_cell(tmp_path: Path) -> None:
    """If the import is told so: it stops at what is no number otherwise."""
    log = pd.DataFrame({"t": range(3), "x": ["0", "Bad Input", "2"], "a": 1.0, "r": 0.0})
    log.to_csv(tmp_path / "log.csv", index=False)
    text = schema(tmp_path, series("linear"))
    with pytest.raises(ValueError, match="'Bad Input', expected a number") as error:
        import_log(tmp_path / "log.csv", ID, schema=text)
    assert "(--on-bad-rows drop-episode takes it for an empty cell)" in str(error.value)
    report = import_log(tmp_path / "log.csv", ID, schema=text, on_bad_rows="drop-episode")
    assert (report["filled_cells"], episodes()) == ({"x": 1}, [[0, 1, 2]])
