"""Slips in a schema or a log of which each value is good: what is told names the cause, and how to mend it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from audit_toys import logged
from table_toys import ID, schema

from mbrl.data import minari
from mbrl.data.audit import audit
from mbrl.data.channels import Past, sensors
from mbrl.data.tables import import_log

PLANT = """
observation: [heat, mode]
action: valve
reward: profit
episode: batch
time: t
categorical: [mode]
"""


def plant(batches: int = 3, length: int = 20, apart: float = 60.0) -> pd.DataFrame:
    """Rows `apart` seconds from each other; the mode is off in the first half of a batch."""
    step = np.tile(np.arange(length), batches)
    batch = np.repeat(np.arange(batches), length)
    heat = np.sin(0.3 * step) + batch
    mode = np.where(step < length // 2, "off", "on")
    return pd.DataFrame(
        {"heat": heat, "mode": mode, "valve": np.cos(step), "profit": -heat, "batch": batch, "t": apart * step}
    )


def told(tmp_path: Path, table: pd.DataFrame, text: str) -> dict:
    table.to_csv(tmp_path / "log.csv", index=False)
    return import_log(tmp_path / "log.csv", ID, schema=schema(tmp_path, text))


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("max_gap: 10\n", "max_gap 10 an episode ends at a step longer than 10"),
        ("period: 1\n", "period 1 an episode ends at a step longer than 1.5"),
        ("period: 1\nmax_gap: 10\nresample: last\n", "max_gap 10 an episode ends at a step longer than 10"),
    ],
)
def test_a_gap_in_another_unit_than_the_time(tmp_path: Path, more: str, key: str) -> None:
    with pytest.raises(ValueError, match=f"every row stands alone: they are 60 apart, and by {key}; both are in .*'t'"):
        told(tmp_path, plant(), PLANT + more)


def test_rows_that_nothing_follows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every row stands alone: a step needs the row after it, or a `next_obs"):
        told(tmp_path, plant(length=1), PLANT + "max_gap: 100\nkeep_constant: true\n")


def test_an_episode_that_ends_before_the_period_is_left_out_and_named(tmp_path: Path) -> None:
    table = plant()
    report = told(
        tmp_path,
        table[(table["batch"] != 1) | (table["t"] < 240)],
        PLANT + "period: 300\nmax_gap: 600\nresample: last\n",
    )
    assert report["dropped"] == [{"episode": 1, "row": 20, "reason": "it ends before the period, 300, is over"}]
    assert report["episodes"] == 2
    minari.remove(ID)
    with pytest.raises(ValueError, match=r"no episode is left, 3 were dropped: .*it ends before the period, 6000"):
        told(tmp_path, table, PLANT + "period: 6000\nmax_gap: 60000\nresample: linear\n")


def test_a_terminal_flag_that_stays_set_is_told_before_the_remedy_for_single_rows(tmp_path: Path) -> None:
    table = plant().assign(over=lambda t: t["t"] >= 900)
    with pytest.raises(ValueError, match=r"row 16 ends the world, and so does the row before it: of a flag that stays"):
        told(tmp_path, table, PLANT + "terminal: over\n")


def test_a_cell_without_a_category_drops_its_episode_where_such_rows_may_go(tmp_path: Path) -> None:
    table = plant()
    table.loc[25, "mode"] = None
    with pytest.raises(ValueError, match="row 25, column 'mode' is empty or NaN"):
        told(tmp_path, table, PLANT)
    report = import_log(tmp_path / "log.csv", ID, schema=tmp_path / "schema.yaml", on_bad_rows="drop-episode")
    assert (report["episodes"], report["dropped"][0]["episode"]) == (2, 1)
    assert "row 25, column 'mode=off' is empty" in report["dropped"][0]["reason"]
    assert minari.load(ID).channels == ("heat", "mode=off", "mode=on")


def test_a_column_without_any_category_is_named(tmp_path: Path) -> None:
    plant().assign(mode="").to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(ValueError, match="column 'mode' is empty in every row, expected categories"):
        import_log(tmp_path / "log.csv", ID, schema=schema(tmp_path, PLANT), on_bad_rows="drop-episode")


def test_a_measurement_among_the_categories_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(tmp_path, plant(), PLANT.replace("[mode]", "[mode, heat]"))
    assert "'heat' has 60 categories, all of them numbers, and a channel for each" in capsys.readouterr().err


def test_names_in_an_observation_ask_for_categorical(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"'mode' is 'off', expected a number \(.* for an empty cell\), or `categorical: \[mode\]` in",
    ):
        told(tmp_path, plant(), PLANT.replace("categorical: [mode]", ""))


def test_true_and_false_are_numbers_in_a_csv_as_in_parquet(tmp_path: Path) -> None:
    table = plant().assign(mode=lambda t: t["mode"] == "on")
    text = PLANT.replace("categorical: [mode]", "")
    told(tmp_path, table, text)
    read = minari.load(ID).obs
    minari.remove(ID)
    table.to_parquet(tmp_path / "log.parquet")
    import_log(tmp_path / "log.parquet", ID, schema=schema(tmp_path, text))
    assert torch.equal(read, minari.load(ID).obs)
    assert read[:, 1].unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("units: {heat: 5}", "units .*expected a unit as text, in quotes"),
        ("fallback: {heat: heat}", "'heat' falls back to itself, expected another column"),
    ],
)
def test_slips_in_a_schema(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        told(tmp_path, plant(), PLANT + line + "\n")


def test_what_a_reward_function_raises_is_told_with_its_name_and_the_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rewarding.py").write_text("def last(obs, action, next_obs):\n    return obs[:, 9]\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = PLANT.replace("reward: profit", "reward_function: rewarding.last")
    with pytest.raises(ValueError, match=r"rewarding\.last failed in the episode from row 0: IndexError"):
        told(tmp_path, plant(), text)


def test_a_folder_that_is_not_there_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*nowhere"):
        import_log(tmp_path / "nowhere", ID)


def changed(column: Callable[[torch.Tensor], torch.Tensor], after: Callable[[torch.Tensor], torch.Tensor], name: str):
    """A log of 10 episodes of 40 rows with a second channel of the given values."""
    torch.manual_seed(0)
    heat, step = torch.randn(401), torch.arange(400) % 40
    obs = torch.stack([heat[:-1], column(step)], 1)
    next_obs = torch.stack([heat[1:], after(step)], 1)
    log = logged(obs, torch.rand(400, 1) * 2 - 1, heat[:-1], next_obs, torch.arange(400) // 40)
    return replace(log, channels=("heat", name))


def test_a_channel_that_changes_in_last_observations_alone_is_not_coarse() -> None:
    log = changed(lambda step: 0.0 * step, lambda step: (step == 39).float(), "mode=trip")
    assert list(sensors(log, Past.of(log))) == []


def test_a_category_that_never_occurs_is_no_broken_sensor() -> None:
    log = changed(lambda step: 0.0 * step, lambda step: 0.0 * step, "mode=boost")
    (found,) = [f for f in audit(log).findings if f.channels == ("mode=boost",)]
    assert (found.kind, found.severity) == ("constant category", "warning")
    assert found.remedy == "list the categories that there are in the schema, or log some rows of the others"
