"""Choices of a discrete action that have names in the log."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_toys import ID, schema

from mbrl.data import minari
from mbrl.data.cells import texts
from mbrl.data.tables import import_log

SERIES = "observation: temp\naction: mode\nreward: gain\nepisode: run\n"
MODES = ["heat", "off", "heat", "cool", "off", "heat"]


def log(path: Path, modes: list[object], **more: object) -> Path:
    table = {"temp": np.arange(6.0), "mode": modes, "gain": np.ones(6), "run": [1, 1, 1, 2, 2, 2], **more}
    pd.DataFrame(table).to_csv(path / "log.csv", index=False)
    return path / "log.csv"


def test_choices_are_numbered_in_the_order_of_the_schema(tmp_path: Path) -> None:
    """The last row of an episode is an observation: what was done there, or whether, does not matter."""
    told = schema(tmp_path, SERIES + 'discrete: ["off", heat, cool, dry]\n')
    import_log(log(tmp_path, [*MODES[:5], None]), ID, schema=told)
    data = minari.load(ID)
    assert data.action.argmax(1).tolist() == [1, 0, 2, 0]
    assert data.action_channels == ("mode=off", "mode=heat", "mode=cool", "mode=dry")


def test_a_table_file_and_one_of_text_are_alike(tmp_path: Path) -> None:
    told = schema(tmp_path, SERIES + 'discrete: ["off", heat, cool]\n')
    path = log(tmp_path, list(MODES))
    import_log(path, ID, schema=told)
    pq.write_table(pa.Table.from_pandas(pd.read_csv(path)), tmp_path / "log.parquet")
    import_log(tmp_path / "log.parquet", "toy/table-v0", schema=told)
    assert minari.load(ID).fingerprint == minari.load("toy/table-v0").fingerprint


@pytest.mark.parametrize("modes", [[10, 20, 10, 20, 10, 20], [10, 20, 10, 20, 10, None]])
def test_numbers_that_are_names_need_not_begin_at_0(modes: list[object], tmp_path: Path) -> None:
    """A column of whole numbers, or of 10.0 and 20.0 where one is missing."""
    import_log(log(tmp_path, modes), ID, schema=schema(tmp_path, SERIES + "discrete: [20, 10]\n"))
    assert minari.load(ID).action.argmax(1).tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("modes", "line", "message"),
    [
        (
            MODES,
            "discrete: true",
            r"'mode' is 'heat', expected a number .*list them in the schema: `discrete: \[A, B\]`",
        ),
        (
            MODES,
            'discrete: ["off", heat]',
            "row 3, column 'mode' is 'cool', expected one of the schema's choices off, heat",
        ),
        (MODES, "discrete: [off, heat, cool]", "in quotes, as in .*, where YAML takes them for false and true"),
        (MODES, "discrete: [heat]", "expected true or false, or a list of two or more different names"),
        (MODES, "discrete: [heat, heat]", "expected true or false, or a list of two or more different names"),
        (MODES, "discrete: heat", "expected true or false, or a list"),
        ([*MODES[:4], None, "off"], 'discrete: ["off", heat, cool]', "row 4, column 'mode' is empty or not a number"),
        (MODES, 'discrete: ["off", heat, cool]\nfallback: {mode: gain}', "'mode' holds names, and fallback is for"),
    ],
)
def test_what_is_no_choice_is_named(modes: list[object], line: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        import_log(log(tmp_path, modes), ID, schema=schema(tmp_path, f"{SERIES}{line}\n"))


def test_an_environment_needs_as_many_choices(tmp_path: Path) -> None:
    angles = {f"x{k}": np.zeros(6) for k in range(3)}
    text = SERIES.replace("observation: temp", "observation: [temp, x0, x1, x2]") + 'discrete: ["off", heat, cool]\n'
    with pytest.raises(
        ValueError, match=r"names 3 choices, numbered from 0, and the action of CartPole-v1 is Discrete\(2\)"
    ):
        import_log(log(tmp_path, list(MODES), **angles), ID, schema=schema(tmp_path, text), env="CartPole-v1")


@pytest.mark.parametrize("line", ['[heat, ""]', "[heat, null]", "[heat, .nan]", "[heat, [cool]]"])
def test_a_name_is_not_empty(line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected names that are not empty"):
        import_log(log(tmp_path, list(MODES)), ID, schema=schema(tmp_path, f"{SERIES}discrete: {line}\n"))


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (np.array([0.1, 0.25], np.float32), ["0.1", "0.25"]),
        (pa.array([0.1, None], pa.float32()), ["0.1", ""]),
        (pa.array([-0.0, 10.0]), ["0", "10"]),
        (np.array(["-0.0", "10.00"]), ["0", "10"]),
        (np.array([b"heat", b"off "]), ["heat", "off"]),
        (pa.array(["007", None, "7"]).dictionary_encode(), ["007", "", "7"]),
        (pa.array([2**60, 2**60 + 1]), [str(2**60), str(2**60 + 1)]),
        (np.array([np.nan, 2.0]), ["", "2"]),
    ],
)
def test_a_name_is_what_the_file_shows(cells: object, names: list[str]) -> None:
    assert texts(cells, lenient=True).tolist() == names
