"""Logs as plants and exports have them: what can be read of them is, and what cannot is named."""

import gzip
from pathlib import Path
from typing import Any

import minari as library
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from table_toys import ID, SCHEMA, Maker, csv, frame, npz, schema

from mbrl.data import minari
from mbrl.data.readers import open_source
from mbrl.data.tables import import_log

TIMED = "observation: x\naction: u\nreward: r\nepisode: run\ntime: t\n"
GAPS = "observation: x\naction: u\nreward: r\nterminal: trip\ntime: t\nmax_gap: 1.5\n"


def plant(rows: int = 8, **columns: Any) -> pd.DataFrame:
    at = np.arange(rows)
    whole = {"run": at // 4, "t": at % 4, "x": at * 0.5, "u": np.sin(at), "r": -at * 1.0, **columns}
    return pd.DataFrame(whole)


@pytest.mark.parametrize("zone", ["", "Z", "+01:00"])
@pytest.mark.parametrize("kind", [None, pa.string(), pa.large_string()])
def test_iso_times_are_read_with_a_zone_and_without(tmp_path: Path, zone: str, kind: pa.DataType | None) -> None:
    table = plant(t=[f"2024-01-01T00:00:{2 * (k % 4):02}{zone}" for k in range(8)])
    if kind is None:
        path = csv(tmp_path, table)
    else:
        path, arrow = tmp_path / "log.parquet", pa.Table.from_pandas(table)
        place = arrow.schema.get_field_index("t")
        pa.parquet.write_table(arrow.set_column(place, "t", arrow["t"].cast(kind)), path)
    assert import_log(path, ID, schema=schema(tmp_path, TIMED))["period"] == 2.0


@pytest.mark.parametrize(("stamps", "told"), [(["02:59", "02:00"], True), (["05:00", "02:00"], False)])
def test_an_hour_that_comes_twice_is_told(tmp_path: Path, stamps: list[str], told: bool) -> None:
    table = plant(2, t=[f"2024-10-27T{stamp}:00" for stamp in stamps], run=0)
    with pytest.raises(ValueError, match="row 1 is out of time order: 't' falls from") as error:
        import_log(csv(tmp_path, table), ID, schema=schema(tmp_path, TIMED))
    assert ("when clocks are set back: log UTC" in str(error.value)) is told


def test_a_zone_in_some_rows_is_named(tmp_path: Path) -> None:
    table = plant(t=["2024-01-01T00:00:00"] * 5 + ["2024-01-01T00:00:00Z"] * 3)
    with pytest.raises(ValueError, match=r"row 5, column 't' is '.*Z', expected .*with a zone in every row or in no"):
        import_log(csv(tmp_path, table), ID, schema=schema(tmp_path, TIMED))


@pytest.mark.parametrize("spoilt", [np.nan, -999.0])
def test_a_final_observation_needs_neither_action_nor_reward(tmp_path: Path, spoilt: float) -> None:
    """Without next observations the last row of an episode is no step, whatever else a logger wrote there."""
    bounds = "time: t\naction_low: -1\naction_high: 1\n"
    text, table = schema(tmp_path, TIMED.replace("time: t\n", bounds)), plant()
    clean = import_log(csv(tmp_path, table), "toy/clean-v0", schema=text)
    table.loc[[3, 7], ["u", "r"]] = spoilt
    report = import_log(csv(tmp_path, table), ID, schema=text)
    assert report["fingerprint"] == clean["fingerprint"]
    assert report["clipped_actions"] == 0
    table.loc[2, "u"] = spoilt
    with pytest.raises(ValueError, match="row 2, column 'u' is"):
        import_log(csv(tmp_path, table), "toy/other-v0", schema=text)


@pytest.mark.parametrize("name", ["done", "truncated"])
def test_a_flag_of_two_channels_is_not_half_read(tmp_path: Path, toy_log: Maker, name: str) -> None:
    log, flags = toy_log(), {"terminal": "done", "truncated": "truncated"}
    flags = {role: f"{column}[1]" if column == name else column for role, column in flags.items()}
    wide = np.stack([np.zeros_like(log[name]), log[name]], 1)
    with pytest.raises(ValueError, match=rf"column '{name}' has 2 channels, expected 1: name one .* NAME\[0\]"):
        import_log(npz(tmp_path, log, **{name: wide}), ID)
    others = (
        "observation: obs\naction: action\nreward: reward\nnext_observation: next_obs\naction_low: -9\naction_high: 9\n"
    )
    named = schema(tmp_path, others + "\n".join(f"{role}: {column}" for role, column in flags.items()))
    report = import_log(npz(tmp_path, log, **{name: wide}), ID, schema=named)
    assert report["episodes"] == 3


def test_lists_are_neither_ids_nor_times(tmp_path: Path) -> None:
    for column in "run", "t":
        table = plant(**{column: [[0, 1]] * 8})
        table.to_parquet(tmp_path / "log.parquet")
        with pytest.raises(ValueError, match=rf"column '{column}' has type list<.*>, expected one value a row"):
            import_log(tmp_path / "log.parquet", ID, schema=schema(tmp_path, TIMED))


def test_flags_of_another_byte_order_are_read(tmp_path: Path, toy_log: Maker) -> None:
    log = toy_log()
    told = import_log(npz(tmp_path, log), "toy/plain-v0")
    swapped = {name: log[name].astype(log[name].dtype.newbyteorder(">")) for name in ("obs", "done", "truncated")}
    assert import_log(npz(tmp_path, log, **swapped), ID)["fingerprint"] == told["fingerprint"]


def test_what_a_historian_writes_for_a_bad_value_drops_its_episode(tmp_path: Path) -> None:
    table = plant(12, x=["0", "1", "2", "3", "4", "Bad", "6", "7", "8", "9", "#N/A!", "11"])
    path, text = csv(tmp_path, table), schema(tmp_path, TIMED)
    with pytest.raises(ValueError, match="row 5, column 'x' is 'Bad', expected a number"):
        import_log(path, ID, schema=text)
    report = import_log(path, ID, schema=text, on_bad_rows="drop-episode")
    assert (report["episodes"], report["dropped_episodes"]) == (1, 2)
    reasons = [dropped["reason"] for dropped in report["dropped"]]
    assert reasons == [f"row {row}, column 'x' is empty or not a number" for row in (5, 10)]
    assert minari.load(ID).obs[:, 0].tolist() == [0, 1, 2]


def test_small_units_have_bounds_as_well(tmp_path: Path) -> None:
    text = schema(tmp_path, TIMED + "action_low: 0\naction_high: 1.0e-7\n")
    with pytest.raises(ValueError, match=r"row 2, column 'u' is 2e-07, expected a value within .*\[0\.0, 1\.0"):
        import_log(csv(tmp_path, plant(u=np.arange(8) * 1e-7)), ID, schema=text)
    clipped = schema(tmp_path, TIMED + "action_low: 0\naction_high: 1.0e-7\nclip_action: true\n")
    report = import_log(csv(tmp_path, plant(u=np.arange(8) * 1e-7)), ID, schema=clipped)
    assert report["clipped_actions"] == 4  # rows 2, 4, 5 and 6: the last ones of episodes are no steps


def test_a_trip_after_a_pause_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = plant(8, t=[0, 1, 2, 9, 20, 21, 22, 23], trip=[0, 0, 0, 1, 0, 0, 0, 1]).drop(columns="run")
    report = import_log(csv(tmp_path, table), ID, schema=schema(tmp_path, GAPS))
    assert (report["terminals"], report["lone_terminals"]) == (1, 1)
    assert "import: 1 times a terminal row stands alone between two gaps in time" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["druck °C", "x"])
def test_text_of_another_encoding_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.csv").write_bytes(f"run,t,{text},u,r\n0,0,°,0,0\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"log\.csv .*(not UTF-8|UTF8)"):
        import_log(tmp_path / "log.csv", ID, schema=schema(tmp_path, TIMED))


@pytest.mark.parametrize("blank", [float("nan"), None, " "])
def test_a_blank_is_no_category(tmp_path: Path, blank: Any) -> None:
    table = plant(mode=["a", "b", "a", blank, "a", "b", "a", "b"])
    table.to_parquet(tmp_path / "log.parquet")
    text = schema(tmp_path, TIMED.replace("observation: x", "observation: [x, mode]\ncategorical: [mode]"))
    with pytest.raises(ValueError, match="row 3, column 'mode' is empty"):
        import_log(tmp_path / "log.parquet", ID, schema=text)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ('t,run,x,u,r,note\n0,0,0,0,0,\n1,0,1,0,0,"ajar\n2,0,2,0,0,\n3,0,3,0,0,\n', 1),
        ('t,run,x,u,r,note\n0,0,0,0,0,"ajar\n1,0,1,0,0,\n2,0,2,0,0,fine"\n3,0,3,0,0,\n4,0,4,0,0,\n', 0),
        ('t,run,note,x,u,r\r\n0,0,,0,0,0\r\n1,0,,1,0,0\r\n2,0,"b,2,0,0\r\n3,0,c",3,0,0\r\n4,0,,4,0,0\r\n', 2),
    ],
    ids=["to the end of the file", "to the next quote", "in the middle of two rows"],
)
@pytest.mark.parametrize("gz", [False, True])
def test_a_stray_quote_swallows_no_row_in_silence(tmp_path: Path, text: str, row: int, gz: bool) -> None:
    path = tmp_path / ("log.csv.gz" if gz else "log.csv")
    path.write_bytes(gzip.compress(text.encode()) if gz else text.encode())
    with pytest.raises(ValueError, match=rf"row {row}, column 'note' begins with a quote, and \d more lines"):
        import_log(path, ID, schema=schema(tmp_path, TIMED))
    assert library.list_local_datasets() == {}


def test_inch_marks_and_empty_lines_are_no_stray_quotes(tmp_path: Path) -> None:
    text = 't,run,x,u,r,note\n0,0,0,0,0,3/4"\n\n1,0,1,0,0,"a ""b"", c"\n2,0,2,0,0,\n\n\n'
    (tmp_path / "log.csv").write_text(text)
    assert import_log(tmp_path / "log.csv", ID, schema=schema(tmp_path, TIMED))["rows"] == 2


def test_a_missing_list_drops_its_episode_as_a_missing_number_does(tmp_path: Path, toy_log: Maker) -> None:
    table = frame(toy_log(), next_obs=False)
    lists = pa.array([[k, 1.0] if k != 5 else None for k in range(12)])
    pa.parquet.write_table(pa.Table.from_pandas(table).append_column("state", lists), tmp_path / "log.parquet")
    text = schema(tmp_path, SCHEMA.replace("[angle, speed]", "state"))
    with pytest.raises(ValueError, match=r"row 5, column 'state.*' is empty or not a number"):
        import_log(tmp_path / "log.parquet", ID, schema=text)
    report = import_log(tmp_path / "log.parquet", ID, schema=text, on_bad_rows="drop-episode")
    assert [drop["row"] for drop in report["dropped"]] == [4]
    assert 5.0 not in minari.load(ID).obs[:, 0].tolist()


def test_lists_that_are_all_missing_are_named(tmp_path: Path, toy_log: Maker) -> None:
    table = pa.Table.from_pandas(frame(toy_log(), next_obs=False))
    lists = pa.array([None] * 12, pa.list_(pa.float64()))
    pa.parquet.write_table(table.append_column("state", lists), tmp_path / "log.parquet")
    with pytest.raises(ValueError, match="row 0, column 'state' is empty, and so are the 11 rows after it"):
        import_log(tmp_path / "log.parquet", ID, schema=schema(tmp_path, SCHEMA.replace("[angle, speed]", "state")))


def test_columns_that_occur_twice_are_refused_in_parquet_too(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["x", "x"])
    pa.parquet.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=r"columns \['x'\] occur twice"):
        import_log(tmp_path / "log.parquet", ID, schema=schema(tmp_path, TIMED))


def test_an_index_of_another_file_is_refused(tmp_path: Path, toy_log: Maker) -> None:
    with pytest.raises(ValueError, match="'index' has an episode begin in row 5000, and there are 12 rows"):
        import_log(npz(tmp_path, toy_log(), index=np.array([0, 4, 5000])), ID)
    assert library.list_local_datasets() == {}


def test_lines_within_quotes_are_no_rows_in_a_file_of_any_size(tmp_path: Path) -> None:
    """Blocks of a MiB end within a cell, and what stands there looks like a row."""
    rows = 40_000
    note = "first line\n0,0,99.5,99.5,0,\nlast line"
    at = np.arange(rows)
    table = plant(rows, t=at % 10_000, run=at // 10_000, note=[note * (1 + k % 3) for k in range(rows)])
    path = csv(tmp_path, table)
    assert path.stat().st_size > 3e6
    report = import_log(path, ID, schema=schema(tmp_path, TIMED))
    assert (report["rows"], report["episodes"]) == (rows - 4, 4)
    assert float(minari.load(ID).action.abs().max()) <= 1.0


def test_an_id_that_is_no_number_is_named(tmp_path: Path, toy_log: Maker) -> None:
    ids = np.repeat([0.0, np.nan, 2.0], 4)
    path = npz(tmp_path, toy_log(), done=None, truncated=None, run=ids)
    text = schema(tmp_path, "observation: obs\naction: action\nreward: reward\nepisode: run\n")
    with pytest.raises(ValueError, match="row 4, column 'run' is NaN"):
        import_log(path, ID, schema=text)


def test_arrays_that_are_no_columns_do_not_say_how_many_rows_there_are(tmp_path: Path, toy_log: Maker) -> None:
    log = toy_log() | {"done": np.zeros(12), "truncated": np.zeros(12)}
    for first in ({"index": np.array([0, 4, 7])}, {"about": np.zeros(99), "index": np.array([0, 4, 7])}):
        np.savez(tmp_path / "log.npz", **first, **log)
        assert open_source(tmp_path / "log.npz").rows == 12
        report = import_log(tmp_path / "log.npz", f"toy/first{len(first)}-v0")
        assert (report["rows"], report["episodes"]) == (12, 3)


@pytest.mark.parametrize("successors", [True, False])
def test_a_flag_that_stays_set_is_told(tmp_path: Path, successors: bool, capsys: pytest.CaptureFixture[str]) -> None:
    table = plant(10, t=np.arange(10), trip=[0, 0, 0, 1, 1, 1, 0, 0, 0, 1], x2=np.arange(1, 11) * 0.5)
    said = GAPS + ("next_observation: x2\n" if successors else "")
    report = import_log(csv(tmp_path, table.drop(columns="run")), ID, schema=schema(tmp_path, said))
    assert (report["episodes"], report["lone_terminals"]) == ((4, 0) if successors else (2, 2))
    told = capsys.readouterr().err
    assert "import: 2 times a row that ends the world comes right after another one" in told
    assert "raise max_gap" not in told


def test_a_width_that_changes_is_named(tmp_path: Path, toy_log: Maker) -> None:
    for name, width in ("a", 2), ("b", 3):
        table = frame(toy_log(), next_obs=False)
        table["state"] = [np.arange(width) * 1.0 + k for k in range(12)]
        table.to_parquet(tmp_path / f"{name}.parquet")
    text = schema(tmp_path, SCHEMA.replace("[angle, speed]", "state"))
    with pytest.raises(ValueError, match=r"b\.parquet: row 0, column 'state' holds 3 numbers, the rows before it 2"):
        import_log([tmp_path / "a.parquet", tmp_path / "b.parquet"], ID, schema=text)


def test_times_of_a_category_type_are_read(tmp_path: Path) -> None:
    table = plant(t=pd.Categorical([f"2024-01-01T00:00:{2 * (k % 4):02}Z" for k in range(8)]))
    table.to_parquet(tmp_path / "log.parquet")
    assert import_log(tmp_path / "log.parquet", ID, schema=schema(tmp_path, TIMED))["period"] == 2.0


def test_a_number_that_yaml_reads_as_text_is_told(tmp_path: Path) -> None:
    text = schema(tmp_path, TIMED + "resample: last\nperiod: 1e0\n")
    with pytest.raises(ValueError, match=r"period is '1e0', expected a number, and YAML takes 1e0 for one where"):
        import_log(csv(tmp_path, plant()), ID, schema=text)
