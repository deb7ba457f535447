import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import minari as library
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mbrl.data import minari, readers
from mbrl.data.dataset import TransitionDataset
from mbrl.data.tables import import_log

Log = dict[str, np.ndarray]
Maker = Callable[..., Log]
ID = "toy/log-v0"


def npz(tmp_path: Path, log: Log, **changes: Any) -> Path:
    """The log as a file; a change of None leaves an array out."""
    arrays = {name: values for name, values in {**log, **changes}.items() if values is not None}
    np.savez_compressed(tmp_path / "log.npz", **arrays)
    return tmp_path / "log.npz"


def frame(log: Log, next_obs: bool = True) -> pd.DataFrame:
    """The log as a table with other names, an episode id and a time."""
    ends = (log["done"] + log["truncated"]) > 0
    episode = np.concatenate([[0], np.cumsum(ends)[:-1]])
    columns = {
        "run": [f"run{e}" for e in episode],
        "t": np.arange(len(ends)) * 0.25,
        "angle": log["obs"][:, 0],
        "speed": log["obs"][:, 1],
        "torque": log["action"][:, 0],
        "cost": log["reward"],
        "fell": log["done"] > 0,
    }
    if next_obs:
        columns |= {"angle2": log["next_obs"][:, 0], "speed2": log["next_obs"][:, 1]}
    return pd.DataFrame(columns)


SCHEMA = """
observation: [angle, speed]
action: torque
reward: cost
terminal: fell
episode: run
time: t
"""
NEXT = "next_observation: [angle2, speed2]\n"


def schema(tmp_path: Path, text: str = SCHEMA + NEXT) -> Path:
    (tmp_path / "schema.yaml").write_text(text)
    return tmp_path / "schema.yaml"


def csv(tmp_path: Path, table: pd.DataFrame) -> Path:
    table.to_csv(tmp_path / "log.csv", index=False)
    return tmp_path / "log.csv"


def assert_is(data: TransitionDataset, log: Log) -> None:
    """The data set holds exactly this log."""
    wanted = {"obs": log["obs"], "action": log["action"], "reward": log["reward"], "next_obs": log["next_obs"]}
    for name, values in wanted.items():
        torch.testing.assert_close(data.tensors[name], torch.from_numpy(values).float(), rtol=0, atol=0)
    assert data.terminated.tolist() == (log["done"] > 0).tolist()
    assert data.truncated.tolist() == (log["truncated"] > 0).tolist()


def test_the_known_layout_needs_no_schema(tmp_path: Path, toy_log: Maker) -> None:
    log = toy_log()
    report = import_log(npz(tmp_path, log), ID)
    data = minari.load(ID)
    assert_is(data, log)
    assert data.lengths.tolist() == [4, 3, 5]
    assert (data.action_low, data.action_high) == (  # nothing is declared: the log's own range
        (float(log["action"].min()),),
        (float(log["action"].max()),),
    )
    wanted = {"id": ID, "episodes": 3, "rows": 12, "terminals": 2, "dropped_episodes": 0, "dropped": []}
    assert {k: report[k] for k in wanted} == wanted
    assert report["fingerprint"] == data.fingerprint
    assert report["mean_return"] == pytest.approx(log["reward"].sum() / 3, rel=1e-6)
    assert report["rows_without_successor"] == 0
    assert library.load_dataset(ID)[2].observations.shape == (6, 2)


@pytest.mark.parametrize("chunk", [1, 2, 4, 5, 100])
def test_chunks_do_not_show(tmp_path: Path, toy_log: Maker, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "CHUNK", chunk)
    log = toy_log()
    import_log(npz(tmp_path, log), ID)
    assert_is(minari.load(ID), log)
    pq.write_table(pa.Table.from_pandas(frame(log)), tmp_path / "log.parquet")
    import_log(tmp_path / "log.parquet", "toy/table-v0", schema=schema(tmp_path))
    assert_is(minari.load("toy/table-v0"), log)


def test_an_environment_gives_the_spaces(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(5, 3)).astype(np.float32)
    log = {
        "obs": obs[:-1],
        "action": np.array([[-2], [2], [2 + 1e-7], [0]], np.float64),
        "next_obs": obs[1:],
        "reward": np.ones(4),
        "done": np.zeros(4),
        "truncated": np.array([0, 0, 0, 1]),
    }
    import_log(npz(tmp_path, log), ID, env="Pendulum-v1")
    data = minari.load(ID)
    assert (data.action_low, data.action_high, data.env_id) == ((-2.0,), (2.0,), "Pendulum-v1")
    assert data.action.tolist() == [[-2], [2], [2], [0]]  # rounding is not out of bounds
    with pytest.raises(ValueError, match=r"observation has 3 channels and that of CartPole-v1 4: change"):
        import_log(npz(tmp_path, log), "toy/cart-v0", env="CartPole-v1")
    with pytest.raises(ValueError, match=r"row 1, column 'action' is 2\.5.*\[-2\.0, 2\.0\]"):
        import_log(npz(tmp_path, log, action=np.array([0, 2.5, 0, 0])), "toy/wild-v0", env="Pendulum-v1")


def test_discrete_actions_by_environment_or_by_schema(tmp_path: Path) -> None:
    obs = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    log = {
        "obs": obs[:-1],
        "action": np.array([1, 0]),
        "next_obs": obs[1:],
        "reward": np.ones(2),
        "done": np.array([False, True]),
        "truncated": np.zeros(2, bool),
    }
    path = npz(tmp_path, log)
    import_log(path, "toy/env-v0", env="CartPole-v1")
    text = (
        "observation: obs\naction: action\nreward: reward\nterminal: done\nnext_observation: next_obs\ndiscrete: true"
    )
    import_log(path, "toy/yaml-v0", schema=schema(tmp_path, text))
    for id in ("toy/env-v0", "toy/yaml-v0"):
        data = minari.load(id)
        assert (data.discrete, data.action.tolist()) == (True, [[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="array of integers: say what it is with --env"):
        import_log(path, "toy/which-v0")
    with pytest.raises(ValueError, match=r"row 1, column 'action' is 2\.0, expected an integer within.*\[0, 1\]"):
        import_log(npz(tmp_path, log, action=np.array([1, 2])), "toy/two-v0", env="CartPole-v1")
    with pytest.raises(ValueError, match=r"row 0, column 'action' is 0\.5, expected an integer"):
        import_log(npz(tmp_path, log, action=np.array([0.5, 1])), "toy/half-v0", schema=schema(tmp_path, text))
    with pytest.raises(ValueError, match="goes up to 5000"):
        import_log(npz(tmp_path, log, action=np.array([1, 5000])), "toy/many-v0", schema=schema(tmp_path, text))
    with pytest.raises(ValueError, match=r"`discrete: true`, and the action of Pendulum-v1"):
        import_log(
            npz(tmp_path, log, obs=log["obs"][:, :3], next_obs=log["next_obs"][:, :3]),
            "toy/box-v0",
            env="Pendulum-v1",
            schema=schema(tmp_path, text),
        )


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_tables_are_read_through_a_schema(tmp_path: Path, toy_log: Maker, suffix: str) -> None:
    log, path = toy_log(), tmp_path / f"log{suffix}"
    table = frame(log)
    if suffix == ".parquet":
        table.to_parquet(path)
    elif suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        path.write_bytes(gzip.compress(table.to_csv(index=False).encode()))
    report = import_log(path, ID, schema=schema(tmp_path))
    assert_is(minari.load(ID), log)
    assert (report["rows"], report["terminals"]) == (12, 2)


def test_without_next_observation_the_next_row_is_it(tmp_path: Path, toy_log: Maker) -> None:
    log = toy_log()
    report = import_log(csv(tmp_path, frame(log, next_obs=False)), ID, schema=schema(tmp_path, SCHEMA))
    data = minari.load(ID)
    kept = [0, 1, 2, 4, 5, 7, 8, 9, 10]  # the last row of each episode is its final observation
    assert data.obs.tolist() == log["obs"][kept].tolist()
    assert data.next_obs.tolist() == log["next_obs"][kept].tolist()
    assert data.reward.tolist() == log["reward"][kept].tolist()
    assert data.terminated.nonzero().flatten().tolist() == [2, 8]  # the flag went to the transition that leads there
    assert data.truncated.nonzero().flatten().tolist() == [4]
    assert report["rows_without_successor"] == 3


def test_a_parquet_list_column_and_timestamps(tmp_path: Path, toy_log: Maker) -> None:
    log = toy_log()
    table = frame(log)
    table["state"] = list(log["obs"])
    table["after"] = list(log["next_obs"])
    table["t"] = pd.to_datetime("2024-05-01") + pd.to_timedelta(table["t"], unit="s")
    table.to_parquet(tmp_path / "log.parquet")
    text = SCHEMA.replace("[angle, speed]", "state") + "next_observation: after\n"
    import_log(tmp_path / "log.parquet", ID, schema=schema(tmp_path, text))
    assert_is(minari.load(ID), log)
    import_log(csv(tmp_path, table.drop(columns=["state", "after"])), "toy/iso-v0", schema=schema(tmp_path))
    assert_is(minari.load("toy/iso-v0"), log)


def test_episodes_end_at_flags_ids_the_index_and_the_end(tmp_path: Path, toy_log: Maker) -> None:
    log = toy_log(lengths=(4, 3, 5))
    none = np.zeros(12, np.float32)
    index = np.array([0, 4, 7])
    import_log(npz(tmp_path, log, done=none, truncated=none, index=index), "toy/index-v0")
    data = minari.load("toy/index-v0")
    assert data.lengths.tolist() == [4, 3, 5]
    assert data.truncated.nonzero().flatten().tolist() == [3, 6, 11]
    assert not data.terminated.any()
    with pytest.raises(ValueError, match="first row of each episode"):
        import_log(npz(tmp_path, log, index=index[::-1]), "toy/wrong-v0")


def test_declared_bounds_of_the_schema(tmp_path: Path, toy_log: Maker) -> None:
    path = csv(tmp_path, frame(toy_log()))
    text = SCHEMA + NEXT
    import_log(path, ID, schema=schema(tmp_path, text + "action_low: -1\naction_high: [3]"))
    assert (minari.load(ID).action_low, minari.load(ID).action_high) == ((-1.0,), (3.0,))
    for bounds, message in {
        "action_low: 0\naction_high: 1": r"column 'torque' is -0\.\d+, expected a value within.*\[0\.0, 1\.0\]",
        "action_low: 1\naction_high: 1": "not below",
        "action_low: [0, 0]\naction_high: [1, 1]": "2 numbers for 1 action",
    }.items():
        with pytest.raises(ValueError, match=message):
            import_log(path, "toy/bounds-v0", schema=schema(tmp_path, text + bounds))


def spoiled(log: Log, name: str, row: int, value: float) -> Log:
    values = log[name].copy()
    values[row] = value
    return {**log, name: values}


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
        (lambda t: t.assign(speed=t["speed"].where(t.index != 8)), "row 8, column 'speed' is empty or NaN"),
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


def test_an_episode_of_one_row(tmp_path: Path, toy_log: Maker) -> None:
    log = toy_log(lengths=(1, 3))
    import_log(npz(tmp_path, log), ID)
    assert_is(minari.load(ID), log)
    path = csv(tmp_path, frame(log, next_obs=False))
    with pytest.raises(ValueError, match="row 0 is an episode of one row"):
        import_log(path, "toy/one-v0", schema=schema(tmp_path, SCHEMA))
    report = import_log(path, "toy/one-v0", schema=schema(tmp_path, SCHEMA), on_bad_rows="drop-episode")
    assert (report["episodes"], report["dropped_episodes"]) == (1, 1)


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


def test_an_array_in_fortran_order_is_the_same_log(tmp_path: Path, toy_log: Maker) -> None:
    log = toy_log()
    import_log(npz(tmp_path, log, obs=np.asfortranarray(log["obs"])), ID)
    assert_is(minari.load(ID), log)


def test_a_list_column_must_keep_its_width(tmp_path: Path, toy_log: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    table = frame(toy_log(), next_obs=False)
    text = schema(tmp_path, SCHEMA.replace("[angle, speed]", "state"))
    table["state"] = [[0.0, 1.0]] * 6 + [[0.0]] * 6
    table.to_parquet(tmp_path / "log.parquet")
    with pytest.raises(ValueError, match="row 6, column 'state' holds 1 numbers, the rows before it 2"):
        import_log(tmp_path / "log.parquet", ID, schema=text)
    monkeypatch.setattr(readers, "CHUNK", 6)
    with pytest.raises(ValueError, match=r"from row 6 on.*'obs': \['state'\].*'state\[1\]'"):
        import_log(tmp_path / "log.parquet", ID, schema=text)


def test_only_two_ways_with_bad_rows(tmp_path: Path, toy_log: Maker) -> None:
    with pytest.raises(ValueError, match="on_bad_rows is 'drop'"):
        import_log(npz(tmp_path, toy_log()), ID, on_bad_rows="drop")  # type: ignore[arg-type]


def test_a_file_that_is_damaged_or_unknown_is_named(tmp_path: Path, toy_log: Maker) -> None:
    path = npz(tmp_path, toy_log())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        import_log(tmp_path / "nowhere.npz", ID)
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
    with pytest.raises(ValueError, match="occur twice"):
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


def test_progress_is_lines_where_stderr_is_no_terminal(
    tmp_path: Path, toy_log: Maker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mbrl.data.tables.LINE_EVERY", 0.0)
    monkeypatch.setattr(readers, "CHUNK", 6)
    import_log(npz(tmp_path, toy_log()), ID)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["import: 6 rows of 12", "import: 12 rows of 12"]
    assert captured.out == ""
