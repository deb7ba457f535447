"""Logs as files that cannot be read: each is named, to the row and the column, and leaves nothing."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import minari as library
import numpy as np
import pandas as pd
import pytest
from table_toys import ID, SCHEMA, Maker, csv, frame, npz, schema, spoiled

from mbrl.data import minari, readers
from mbrl.data.tables import import_log


@pytest.mark.parametrize("name", ["obs", "action", "reward", "next_obs"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_named(tmp_path: Path, toy_log: Maker, name: str, value: float) -> None:
    path = npz(tmp_path, spoiled(toy_log(), name, 5, value))
    with pytest.raises(ValueError, match=rf"row 5, column '{name}(\[0\])?' is .*drop-episode"):
        import_log(path, ID)
    assert library.list_local_datasets() == {}
    report = import_log(path, ID, on_bad_rows="drop-episode")
    assert (report["episodes"], report["rows"], report["dropped_episodes"]) == (2, 9, 1)
    assert report["dropped"][0]["episode"] == 1
    assert f"row 5, column '{name}" in report["dropped"][0]["reason"]
    assert minari.load(ID).lengths.tolist() == [4, 5]


def test_what_float32_cannot_hold_is_not_finite(tmp_path: Path, toy_log: Maker) -> None:
    log = toy_log()
    with pytest.raises(ValueError, match=r"row 2, column 'reward' is 1e\+60"):
        import_log(npz(tmp_path, spoiled({**log, "reward": log["reward"].astype(np.float64)}, "reward", 2, 1e60)), ID)


def test_nothing_left_is_an_error(tmp_path: Path, toy_log: Maker) -> None:
    path = npz(tmp_path, {**toy_log(), "reward": np.full(12, np.nan)})
    with pytest.raises(ValueError, match="no episode is left, 3 were dropped"):
        import_log(path, ID, on_bad_rows="drop-episode")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="cost"), "no column 'cost'"),
        (lambda t: t.rename(columns={"torque": "torqe"}), r"no column 'torque'.*did you mean 'torqe'\? There"),
        (lambda t: t.assign(t=t["t"].where(t.index != 2, 0.0)), r"row 2 is out of time order: 't' falls from 0"),
        (lambda t: t.assign(run=["a"] * 4 + ["b"] * 3 + ["a"] * 5), r"row 7: episode 'a' comes again"),
        (lambda t: t.assign(angle=t["angle"].astype(object).where(t.index != 3, "x")), r"row 3, column 'angle' is 'x'"),
        (lambda t: t.assign(fell=t["fell"].astype(object).where(t.index != 1, "2")), r"row 1, column 'fell' is '2'"),
        (lambda t: t.assign(run=t["run"].where(t.index != 6)), "row 6, column 'run' is empty"),
        (lambda t: t.assign(t="noon"), "row 0, column 't' is 'noon', expected a number or an ISO timestamp"),
        (lambda t: t.assign(speed=t["speed"].where(t.index != 8)), "row 8, column 'speed' is empty or not a number"),
        (lambda t: t.assign(speed2=t["speed2"].where(t.index != 8, 7.0)), r"row 8, column 'speed2' is 7\.0 and"),
        (lambda t: t.iloc[:0], "holds no row"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_named_to_the_cell(
    tmp_path: Path, toy_log: Maker, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        import_log(csv(tmp_path, change(frame(toy_log()))), ID, schema=schema(tmp_path))
    assert library.list_local_datasets() == {}


def test_a_log_without_reward_is_refused(tmp_path: Path, toy_log: Maker) -> None:
    with pytest.raises(ValueError, match=r"no column 'reward' \(without --schema\)"):
        import_log(npz(tmp_path, toy_log(), reward=None), ID)
    with pytest.raises(ValueError, match="names no reward"):
        import_log(npz(tmp_path, toy_log()), ID, schema=schema(tmp_path, SCHEMA.replace("reward: cost", "")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"obs": np.zeros((12, 8, 8, 3), np.uint8)}, "images are not supported"),
        ({"reward": np.zeros(11)}, "differ in length"),
        ({"reward": np.zeros((12, 2))}, "reward 'reward' has 2 channels"),
        ({"next_obs": np.zeros((12, 3))}, "observation has 2 channels and the next observation 3"),
        ({"obs": np.array([["a", "b"]] * 12)}, "column 'obs' has type <U1, expected numbers"),
        ({"obs": np.array([None] * 12)}, "pickled objects"),
        ({"done": np.full(12, 0.5)}, r"row 0, column 'done' is '0\.5', expected 0 or 1"),
        ({"next_obs": None}, r"no column 'next_obs'.*--schema FILE\.yaml"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, toy_log: Maker, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        import_log(npz(tmp_path, toy_log(), **changes), ID)


def test_a_list_column_must_keep_its_width(tmp_path: Path, toy_log: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    table = frame(toy_log(), next_obs=False)
    text = schema(tmp_path, SCHEMA.replace("[angle, speed]", "state"))
    table["state"] = [[0.0, 1.0]] * 6 + [[0.0]] * 6
    table.to_parquet(tmp_path / "log.parquet")
    for chunk in 100, 6:
        monkeypatch.setattr(readers, "CHUNK", chunk)
        with pytest.raises(ValueError, match="row 6, column 'state' holds 1 numbers, the rows before it 2"):
            import_log(tmp_path / "log.parquet", ID, schema=text)
    text.write_text(text.read_text() + "keep_constant: true\n")
    with pytest.raises(ValueError, match=r"from row 6 on.*'obs': \['state'\].*'state\[1\]'"):
        import_log(tmp_path / "log.parquet", ID, schema=text)


def test_only_two_ways_with_bad_rows(tmp_path: Path, toy_log: Maker) -> None:
    with pytest.raises(ValueError, match="on_bad_rows is 'drop'"):
        import_log(npz(tmp_path, toy_log()), ID, on_bad_rows="drop")  # type: ignore[arg-type]


def test_a_file_that_is_damaged_or_unknown_is_named(tmp_path: Path, toy_log: Maker) -> None:
    path = npz(tmp_path, toy_log())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        import_log(tmp_path / "nowhere.npz", ID)
    (tmp_path / "log.xlsx").touch()
    with pytest.raises(ValueError, match=r"suffix is none of \.npz, \.csv"):
        import_log(tmp_path / "log.xlsx", ID)
    for name in ("log.npz", "log.parquet"):
        (tmp_path / name).write_bytes(path.read_bytes()[:200])
        with pytest.raises(ValueError, match=rf"{re.escape(name)} is damaged"):
            import_log(tmp_path / name, ID, schema=schema(tmp_path))
    (tmp_path / "log.csv").write_text("")
    with pytest.raises(ValueError, match=r"log\.csv is damaged"):
        import_log(tmp_path / "log.csv", ID, schema=schema(tmp_path))
    (tmp_path / "log.csv").write_text("run,run\n1,2\n")
    with pytest.raises(ValueError, match=r"occur twice: give each column a name of its own"):
        import_log(tmp_path / "log.csv", ID, schema=schema(tmp_path))
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"needs --schema FILE\.yaml, which names its columns: a, b"):
        import_log(tmp_path / "log.csv", ID)


def test_a_flipped_bit_in_an_npz_is_noticed(tmp_path: Path, toy_log: Maker) -> None:
    np.savez(tmp_path / "log.npz", **toy_log())
    raw = bytearray((tmp_path / "log.npz").read_bytes())
    at = raw.index(toy_log()["obs"].tobytes()) + 5
    raw[at] ^= 1
    (tmp_path / "log.npz").write_bytes(raw)
    with pytest.raises(ValueError, match=r"log\.npz is damaged.*CRC"):
        import_log(tmp_path / "log.npz", ID)
    assert library.list_local_datasets() == {}


def test_a_taken_or_wrong_id_is_found_before_the_file_is_read(tmp_path: Path, toy_log: Maker) -> None:
    import_log(npz(tmp_path, toy_log()), ID)
    with pytest.raises(FileExistsError, match="toy/log-v0"):
        import_log(tmp_path / "nowhere.npz", ID)
    with pytest.raises(ValueError, match="NAMESPACE/NAME-vN"):
        import_log(tmp_path / "nowhere.npz", "toy/log")


@pytest.mark.parametrize(("mark", "told"), [(";", "';'"), ("\t", r"'\\t'"), ("|", r"'\|'")])
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_other_separators_than_commas_are_named(
    tmp_path: Path, toy_log: Maker, mark: str, told: str, suffix: str
) -> None:
    path, text = tmp_path / f"log.{suffix}", schema(tmp_path)
    for decimal in ".,":
        frame(toy_log()).to_csv(path, index=False, sep=mark, decimal=decimal)
        with pytest.raises(ValueError, match=rf"the header has {told} between the columns, expected commas.*pandas"):
            import_log(path, ID, schema=text)
    pd.read_csv(path, sep=mark, decimal=",").to_csv(tmp_path / "new.csv", index=False)  # as the message says
    assert import_log(tmp_path / "new.csv", ID, schema=text)["rows"] == 12


@pytest.mark.parametrize("cell", ["0,5", "-1.234,5", "1,234.5"])
def test_a_comma_in_a_number_is_named(tmp_path: Path, toy_log: Maker, cell: str) -> None:
    table = frame(toy_log()).astype({"angle": str})
    table.loc[3, "angle"] = cell
    with pytest.raises(ValueError, match=rf"row 3, column 'angle' is '{cell}', .* with a decimal point, and no comma"):
        import_log(csv(tmp_path, table), ID, schema=schema(tmp_path))


def test_the_encoding_to_convert_from_is_named(tmp_path: Path, toy_log: Maker) -> None:
    for encoding, told in (("utf-16", "UTF-16"), ("latin1", "LATIN1")):
        frame(toy_log()).rename(columns={"t": "t °"}).to_csv(tmp_path / "log.csv", index=False, encoding=encoding)
        with pytest.raises(ValueError, match=f"log.csv is .*onvert it, as with iconv -f {told} -t UTF-8"):
            import_log(tmp_path / "log.csv", ID, schema=schema(tmp_path))


def test_names_with_commas_between_them_are_no_list(tmp_path: Path, toy_log: Maker) -> None:
    text = schema(tmp_path, SCHEMA.replace("[angle, speed]", "angle, speed"))
    with pytest.raises(ValueError, match=r"no column 'angle, speed'.*; several columns are a list, \[angle, speed\]"):
        import_log(csv(tmp_path, frame(toy_log())), ID, schema=text)


def test_a_schema_that_is_not_there_is_named(tmp_path: Path, toy_log: Maker) -> None:
    path = csv(tmp_path, frame(toy_log()))
    for name in ("nowhere.yaml", "."):
        with pytest.raises(FileNotFoundError, match=r"there is no file .*, which --schema names"):
            import_log(path, ID, schema=tmp_path / name)
