"""Exogenous columns and physical bounds, from the schema to the data set and its spec, and in the audit."""

import math
from pathlib import Path
from typing import Any

import minari as library
import numpy as np
import pandas as pd
import pytest
import torch

from mbrl.core import generator
from mbrl.data import minari
from mbrl.data.audit import audit
from mbrl.data.dataset import TransitionDataset
from mbrl.data.schema import Schema
from mbrl.data.tables import import_log

ID = "toy/weather-v0"
SCHEMA = "observation: [x, y]\nexogenous: [w, mode]\naction: a\nreward: r\nepisode: e\ncategorical: [mode]\n"


def table(**columns: Any) -> pd.DataFrame:
    """Two episodes of three rows."""
    rows = {"x": range(6), "y": [0.5, 0.25, 0.0, 1.0, 0.75, 0.5], "w": [7, 8, 9, 5, 4, 3], "a": [0, 1, 0, 1, 0, 1]}
    rows |= {"mode": list("nndddn"), "r": [1, 2, 3, 4, 5, 6], "e": [0, 0, 0, 1, 1, 1]}
    return pd.DataFrame({**rows, **columns})


def load(folder: Path, rows: pd.DataFrame, schema: str) -> TransitionDataset:
    rows.to_csv(folder / "log.csv", index=False)
    (folder / "schema.yaml").write_text(schema)
    report, data = import_log(folder / "log.csv", ID, schema=folder / "schema.yaml"), minari.load(ID)
    assert report["exogenous"] == [data.channels[k] for k in data.exogenous]
    return data


def refused(folder: Path, rows: pd.DataFrame, schema: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(folder, rows, schema)
    assert library.list_local_datasets() == {}


def test_they_stand_behind_the_others_and_are_known_to_the_spec(tmp_path: Path) -> None:
    data = load(tmp_path, table(), SCHEMA + "units: {w: degC}\n")
    for again in data, minari.load(ID):  # the second time from the cache
        assert again.channels == ("x", "y", "w", "mode=d", "mode=n")
        assert (again.units[2], again.exogenous) == ("degC", (2, 3, 4))
        assert again.obs[:, 2:].tolist() == [[7, 0, 1], [8, 0, 1], [5, 1, 0], [4, 1, 0]]
        assert again.next_obs[:, 2].tolist() == [8, 9, 4, 3]
    spec = data.spec(torch.arange(2))
    assert (spec.exogenous, spec.predicted) == ((2, 3, 4), (0, 1))
    assert data.fingerprint == minari.load(ID).fingerprint


def test_what_is_exogenous_is_content(tmp_path: Path) -> None:
    data = load(tmp_path, table(), SCHEMA)
    columns = {**data.tensors, "discrete": False, "action_low": data.action_low, "action_high": data.action_high}
    prints = {TransitionDataset.create("toy/x-v0", **columns, exogenous=e).fingerprint for e in ((), (2,), (2, 3, 4))}
    assert len(prints) == 3
    assert data.fingerprint in prints


def test_next_observations_name_them_too(tmp_path: Path) -> None:
    after = {"x2": range(1, 7), "y2": [0.25, 0, 9, 0.75, 0.5, 8], "w2": [8, 9, 1, 4, 3, 2]}
    schema = "observation: [x, y]\nexogenous: w\nnext_observation: [x2, y2, w2]\naction: a\nreward: r\nepisode: e\n"
    data = load(tmp_path, table(**after), schema)
    assert (len(data), data.exogenous) == (6, (2,))
    assert data.next_obs[:, 2].tolist() == [8, 9, 1, 4, 3, 2]


def test_constant_ones_are_dropped_and_alone_they_are_no_plant(tmp_path: Path) -> None:
    refused(
        tmp_path, table(x=1, y=2), SCHEMA, r"no column of the observation ever changes: x, y; w, mode are exogenous"
    )
    data = load(tmp_path, table(w=20), SCHEMA)
    assert (data.channels, data.exogenous) == (("x", "y", "mode=d", "mode=n"), (2, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[w, mode]", "[w, x]"), r"gives the column 'x' two roles, observation and exogenous: a column has one"),
        (("[w, mode]", "[w, a]"), r"gives the column 'a' two roles, exogenous and action"),
        (("[w, mode]", "[w, wind]"), r"has no column 'wind' .*did you mean"),
        (("[w, mode]", "{w: 1}"), r"exogenous is \{'w': 1\}, expected one name, or a list of different names"),
    ],
)
def test_a_wrong_role_is_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    schema = SCHEMA.replace(*change).replace("categorical: [mode]\n", "")
    refused(tmp_path, table(wynd=1), schema, message)


def test_without_a_column_of_its_own_there_is_no_observation(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(SCHEMA.replace("observation: [x, y]\n", ""))
    with pytest.raises(ValueError, match="names no observation"):
        Schema.read(tmp_path / "schema.yaml")


def test_physical_bounds_are_kept_and_reach_the_spec(tmp_path: Path) -> None:
    data = load(tmp_path, table(), SCHEMA + "bounds: {y: [0, null], w: [-50, 60], r: [null, 10]}\n")
    for again in data, minari.load(ID):
        assert again.bound_low == (None, 0.0, -50.0, None, None, None)
        assert again.bound_high == (None, None, 60.0, None, None, 10.0)
    spec = data.spec(torch.arange(2))
    assert (spec.bound_low, spec.bound_high) == (data.bound_low, data.bound_high)
    columns = {**data.tensors, "discrete": False, "action_low": data.action_low, "action_high": data.action_high}
    bare = TransitionDataset.create("toy/x-v0", **columns, exogenous=data.exogenous)
    assert bare.bound_low == (None,) * 6
    assert bare.fingerprint != data.fingerprint


def test_the_tighter_of_two_bounds_counts(tmp_path: Path) -> None:
    schema = (
        "observation: x\nnext_observation: x2\naction: a\nreward: r\nepisode: e\nbounds: {x: [0, 50], x2: [-5, 9]}\n"
    )
    data = load(tmp_path, table(x2=range(1, 7)), schema)
    assert (data.bound_low, data.bound_high) == ((0.0, None), (9.0, None))


def test_a_data_set_beyond_its_bounds_is_refused(toy_data: Any) -> None:
    data = toy_data()
    columns = {**data.tensors, "discrete": False, "action_low": [-1.0], "action_high": [1.0]}
    least, most = float(torch.minimum(data.obs, data.next_obs)[:, 1].min()), float(data.reward.max())
    inside = [None, math.nextafter(least, -math.inf), None], [None, None, most]
    TransitionDataset.create("toy/x-v0", **columns, bound_low=inside[0], bound_high=inside[1])
    with pytest.raises(ValueError, match=r"toy/x-v0: observation 1 is beyond its bound_low .* first row \d+: correct"):
        TransitionDataset.create("toy/x-v0", **columns, bound_low=[None, least + 0.01, None])
    with pytest.raises(ValueError, match=r"the reward is beyond its bound_high .* in \d+ rows, first row"):
        TransitionDataset.create("toy/x-v0", **columns, bound_high=[None, None, most - 0.01])
    with pytest.raises(ValueError, match="bound_high has 1 values, expected 3"):
        TransitionDataset.create("toy/x-v0", **columns, bound_high=[1.0])


def tracked(exogenous: tuple[int, ...]) -> TransitionDataset:
    """A temperature led to a set-point that is announced by the action before, under a sun that sets at night."""
    rng, episodes, steps = generator(0, "tracked"), 20, 60
    sun = torch.sin(0.15 * torch.arange(steps + 1) + 6 * torch.rand(episodes, 1, generator=rng)).clamp_min(0)
    target = torch.randn(episodes, steps + 1, generator=rng).repeat_interleave(6, 1)[:, : steps + 1]
    x, rows = torch.randn(episodes, generator=rng), []
    for t in range(steps):
        action = 0.5 * (target[:, t] - x) + 0.3 * torch.randn(episodes, generator=rng)
        after = x + 0.4 * action + 0.1 * sun[:, t] + 0.02 * torch.randn(episodes, generator=rng)
        seen = [torch.stack([v, sun[:, k], target[:, k]], 1) for v, k in ((x, t), (after, t + 1))]
        rows.append((seen[0], action[:, None], -((after - target[:, t]) ** 2), seen[1]))
        x = after
    obs, action, reward, next_obs = (torch.stack(column, 1).flatten(0, 1) for column in zip(*rows, strict=True))
    last = torch.arange(episodes * steps) % steps == steps - 1
    return TransitionDataset.create(
        "toy/tracked-v0",
        obs=obs,
        action=action,
        reward=reward,
        next_obs=next_obs,
        terminated=torch.zeros_like(last),
        truncated=last,
        episode=torch.arange(episodes).repeat_interleave(steps),
        discrete=False,
        action_low=[-np.inf],
        action_high=[np.inf],
        channels=["temperature", "sun", "target"],
        exogenous=exogenous,
    )


@pytest.mark.usefixtures("coarse")
def test_the_audit_calls_no_weather_faulty() -> None:
    kinds = {finding.kind for finding in audit(tracked(())).findings}
    assert "saturated sensor" in kinds  # were it a sensor of the plant
    found = audit(tracked((1, 2)))
    assert not {"saturated sensor", "stuck sensor", "missing end", "shifted actions"} & {f.kind for f in found.findings}
    assert found.to_dict()["exogenous"] == ["sun", "target"]


@pytest.mark.parametrize(("bound", "start", "after"), [("x", 0.0, 5.0), ("after", 5.0, 1.0)])
def test_what_binds_a_channel_binds_its_next_value_as_well(
    tmp_path: Path, bound: str, start: float, after: float
) -> None:
    schema = "observation: x\nnext_observation: after\naction: a\nreward: r\nepisode: e\n"
    rows = table(x=[start, 1, 2, 0, 1, 2], after=[1, 2, after, 1, 2, 1])
    message = rf"column '{bound}' leaves its bounds \[0, 2\] in 1 rows, such as row {2 if start == 0 else 0} "
    refused(tmp_path, rows, f"{schema}bounds: {{{bound}: [0, 2]}}\n", message)


@pytest.mark.parametrize("unit", [1.0, 1e-7, 1e7])
def test_next_observations_are_compared_in_the_size_of_their_channel(tmp_path: Path, unit: float) -> None:
    schema = "observation: x\nnext_observation: after\naction: a\nreward: r\nepisode: e\n"
    rows = table(x=[0, unit, 2 * unit] * 2, after=[unit, unit, unit] * 2)
    message = r"row 1, column 'after' is .* and the next row has 'x' .*: rows are missing or an episode ends here"
    refused(tmp_path, rows, schema, message)
    data = load(tmp_path, rows.assign(after=[unit, 2 * unit, 2 * unit] * 2), schema)
    assert data.obs[1].item() == pytest.approx(unit)


def test_one_huge_value_does_not_hide_that_others_disagree(tmp_path: Path) -> None:
    schema = "observation: x\nnext_observation: after\naction: a\nreward: r\nepisode: e\n"
    rows = table(x=[0, 1, 2, 0, 1, 1e9], after=[1, 3, 3, 1, 1e9, 2])
    refused(tmp_path, rows, schema, r"row 1, column 'after' is 3.* and the next row has 'x' 2")


def test_a_column_that_is_called_like_a_channel_keeps_its_unit_and_its_bounds(tmp_path: Path) -> None:
    rows = table().rename(columns={"x": "q[0]", "y": "q[1]"})
    schema = "observation: ['q[0]', 'q[1]']\naction: a\nreward: r\nepisode: e\n"
    data = load(tmp_path, rows, schema + "units: {'q[0]': rad}\nbounds: {'q[1]': [0, 2]}\n")
    assert (data.units, data.bound_high) == (("rad", ""), (None, 2.0, None))


def test_an_environment_has_to_end_with_what_is_exogenous(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table().drop(columns="mode").assign(v=0.0)
    rows.to_csv(tmp_path / "log.csv", index=False)
    schema = "observation: [x, y]\nexogenous: w\naction: a\nreward: r\nepisode: e\n"
    (tmp_path / "schema.yaml").write_text(schema)
    import_log(tmp_path / "log.csv", ID, schema=tmp_path / "schema.yaml", env="Pendulum-v1")
    assert "the observation of Pendulum-v1 has to be x, y, w, in this order: exogenous last" in capsys.readouterr().err
