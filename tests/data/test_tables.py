"""Logs as files that can be read: what comes out of npz, CSV and Parquet."""

import gzip
from pathlib import Path

import minari as library
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_toys import ID, NEXT, SCHEMA, Maker, assert_is, csv, frame, npz, schema

from mbrl.data import minari, readers
from mbrl.data.tables import import_log


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
    import_log(path, "toy/layout-v0", schema=schema(tmp_path, "discrete: true"))
    for id in ("toy/env-v0", "toy/yaml-v0", "toy/layout-v0"):
        data = minari.load(id)
        assert (data.discrete, data.action.tolist()) == (True, [[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="array of integers: say what it is with --env"):
        import_log(path, "toy/which-v0")
    with pytest.raises(ValueError, match="array of integers: say what it is with --env"):
        import_log(path, "toy/which-v0", schema=schema(tmp_path, "cut_every: 30"))
    with pytest.raises(ValueError, match=r"row 1, column 'action' is 2\.0, expected an integer within.*\[0, 1\]"):
        import_log(npz(tmp_path, log, action=np.array([1, 2])), "toy/two-v0", env="CartPole-v1")
    with pytest.raises(ValueError, match=r"row 0, column 'action' is 0\.5, expected an integer.*is not discrete"):
        import_log(npz(tmp_path, log, action=np.array([0.5, 1])), "toy/half-v0", schema=schema(tmp_path, text))
    with pytest.raises(ValueError, match=r"row 1, column 'action' is -1\.0, .*; number the choices from 0 \("):
        import_log(npz(tmp_path, log, action=np.array([1, -1])), "toy/sign-v0", schema=schema(tmp_path, text))
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


def test_an_episode_of_one_row(tmp_path: Path, toy_log: Maker) -> None:
    log = toy_log(lengths=(1, 3))
    import_log(npz(tmp_path, log), ID)
    assert_is(minari.load(ID), log)
    path = csv(tmp_path, frame(log, next_obs=False))
    with pytest.raises(ValueError, match="row 0 is an episode of one row"):
        import_log(path, "toy/one-v0", schema=schema(tmp_path, SCHEMA))
    report = import_log(path, "toy/one-v0", schema=schema(tmp_path, SCHEMA), on_bad_rows="drop-episode")
    assert (report["episodes"], report["dropped_episodes"]) == (1, 1)


def test_an_array_in_fortran_order_is_the_same_log(tmp_path: Path, toy_log: Maker) -> None:
    log = toy_log()
    import_log(npz(tmp_path, log, obs=np.asfortranarray(log["obs"])), ID)
    assert_is(minari.load(ID), log)


def test_progress_is_lines_where_stderr_is_no_terminal(
    tmp_path: Path, toy_log: Maker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mbrl.data.tables.LINE_EVERY", 0.0)
    monkeypatch.setattr(readers, "CHUNK", 6)
    import_log(npz(tmp_path, toy_log()), ID)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["import: 6 rows of 12", "import: 12 rows of 12"]
    assert captured.out == ""
