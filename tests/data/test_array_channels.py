"""`obs[4]` in a schema: one channel of an array column."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from mbrl.data import minari
from mbrl.data.tables import import_log

SCHEMA = """
observation: ["obs[0]", "obs[1]"]
exogenous: ["obs[2]"]
next_observation: ["next[0]", "next[1]", "next[2]"]
action: act
action_low: -1
action_high: 1
reward: "rew[1]"
episode: ep
units: {"obs[2]": degC}
bounds: {"obs[0]": [-10, 10]}
"""
OBS = np.arange(4.0)[:, None] + [0.0, 3.0, 6.0]
COLUMNS = {
    "obs": OBS,
    "next": OBS + 1,
    "act": np.full((4, 1), 0.5),
    "rew": np.array([[9.0, 1.0], [9.0, 2.0], [9.0, 3.0], [9.0, 4.0]]),
    "ep": np.array([0, 0, 1, 1]),
}


def imported(folder: Path, suffix: str, schema: str = SCHEMA, **changed: np.ndarray) -> None:
    columns = COLUMNS | changed
    path = folder / f"log.{suffix}"
    if suffix == "npz":
        np.savez(path, **columns)
    else:
        listed = {k: list(v) if v.ndim > 1 else v for k, v in columns.items()}
        pa.parquet.write_table(pa.table({k: pa.array(v) for k, v in listed.items()}), path)
    (folder / "schema.yaml").write_text(schema)
    import_log(path, "plant/array-v0", schema=folder / "schema.yaml")


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_channels_of_one_array_have_roles_of_their_own(tmp_path: Path, suffix: str) -> None:
    imported(tmp_path, suffix)
    data = minari.load("plant/array-v0")
    assert data.channels == ("obs[0]", "obs[1]", "obs[2]")
    assert data.exogenous == (2,)
    assert data.units == ("", "", "degC")
    assert data.bound_high == (10.0, None, None, None)
    assert data.obs.tolist() == OBS.tolist()
    assert data.next_obs.tolist() == (OBS + 1).tolist()
    assert data.reward.tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_a_channel_that_the_array_lacks_is_refused(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ValueError, match=r"there is no rew\[2\]"):
        imported(tmp_path, suffix, SCHEMA.replace("rew[1]", "rew[2]"))


def test_an_array_beside_one_of_its_channels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"names 'obs' and 'obs\[2\]', which is part of it"):
        imported(tmp_path, "npz", SCHEMA.replace('["obs[0]", "obs[1]"]', "obs").split("units")[0])


def test_a_column_of_that_name_comes_first(tmp_path: Path) -> None:
    own = {"obs[0]": np.array([5.0, 6.0, 5.0, 6.0]), "next[0]": np.array([6.0, 7.0, 6.0, 7.0])}
    imported(tmp_path, "npz", **own)
    assert minari.load("plant/array-v0").obs[:, 0].tolist() == [5.0, 6.0, 5.0, 6.0]
