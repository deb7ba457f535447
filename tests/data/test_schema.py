from dataclasses import replace
from pathlib import Path

import pytest

from mbrl.data.schema import STANDARD, Schema


def read(tmp_path: Path, text: str) -> Schema:
    path = tmp_path / "schema.yaml"
    path.write_text(text)
    return Schema.read(path)


WHOLE = """
observation: [angle, speed]
action: torque
reward: r
terminal: fell
truncated: cut
episode: run
time: t
next_observation: [angle2, speed2]
action_low: -2
action_high: [2.5]
"""


def test_a_schema_without_columns_is_of_the_layout_that_needs_none(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    path.write_text("action_low: -1\naction_high: 1\nbounds: {obs: [0, 1]}\n")
    layout = replace(STANDARD, index="index")
    found = Schema.read(path, layout)
    assert found == replace(layout, action_low=(-1.0,), action_high=(1.0,), bounds={"obs": (0.0, 1.0)})
    with pytest.raises(ValueError, match="names no observation"):
        Schema.read(path)  # a table has no such layout
    path.write_text("action: torque\ndiscrete: true\n")
    with pytest.raises(ValueError, match="names no observation"):
        Schema.read(path, layout)


def test_a_schema_names_every_column(tmp_path: Path) -> None:
    schema = read(tmp_path, WHOLE)
    assert schema == Schema(
        observation=("angle", "speed"),
        action=("torque",),
        reward="r",
        terminal="fell",
        truncated="cut",
        episode="run",
        time="t",
        next_observation=("angle2", "speed2"),
        action_low=(-2.0,),
        action_high=(2.5,),
        discrete=False,
    )
    assert schema.columns() == ["angle", "speed", "torque", "angle2", "speed2", "r", "fell", "cut", "run", "t"]


LEAST = "observation: x\naction: a\nreward: r\nepisode: e\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LEAST + "rewards: r", "unknown key 'rewards': did you mean 'reward'"),
        (LEAST + "index: i", "unknown key 'index'"),
        ("observation: x\naction: a\nepisode: e", "names no reward.*cannot be learned from"),
        ("observation: []\naction: a\nreward: r\nepisode: e", "names no observation"),
        ("observation: x\naction: a\nreward: r", "cannot tell episodes apart"),
        ("observation: x\naction: a\nreward: [r]\nepisode: e", r"reward is \['r'\], expected the name of one column"),
        ("observation: [x, x]\naction: a\nreward: r\nepisode: e", "list of different names"),
        ("observation: {x: y}\naction: a\nreward: r\nepisode: e", "observation is .*expected one name, or a list"),
        ("observation: [x, on]\naction: a\nreward: r", r"is \['x', True\], .*; in quotes, as in \['on', '7'\]"),
        ("observation: 7\naction: a\nreward: r", "observation is 7, .*; in quotes"),
        (LEAST + "time:", "time is None"),
        (LEAST + "action_low: 1", "give both or neither"),
        (LEAST + "action_low: low\naction_high: 1", "action_low is 'low', expected a number"),
        (LEAST + "discrete: 3", "discrete is 3, expected true or false"),
        (LEAST + "discrete: true\naction_low: 0\naction_high: 1", "has no action_low"),
        ("observation: x\naction: [a, b]\nreward: r\nepisode: e\ndiscrete: true", "is one column"),
        (LEAST + "bounds: {x: [1]}", r"bounds is .*expected \[low, high\]"),
        (LEAST + "bounds: {x: [2, 1]}", r"bounds of 'x' are \[2.0, 1.0\]"),
        (LEAST + "bounds: {y: [0, 1]}", "bounds names 'y', expected a column of observation"),
        (LEAST + "bounds: {a: [0, 1]}", "the bounds of an action are action_low and action_high"),
        (LEAST + "units: {y: m}", "units names 'y', expected a column of observation, exogenous, action"),
        (LEAST + "units: m", "units is 'm', expected a mapping from columns"),
        (LEAST + "categorical: [a]", "categorical names 'a', expected a column of observation"),
        (LEAST + "categorical: {x: [on]}", "two or more different categories"),
        (LEAST + "period: 1", "has period and no time"),
        (LEAST + "time: t\nperiod: 0", "period is 0.0, expected a number above 0"),
        (LEAST + "time: t\nperiod: true", "period is True, expected a number"),
        (LEAST + "time: t\nperiod: 2\nmax_gap: 1", "max_gap 1.0 is below the period 2.0"),
        (LEAST + "time: t\nresample: last", "resample needs `period: NUMBER`"),
        (LEAST + "time: t\nresample: last\nperiod: 1", "resample needs `max_gap: NUMBER`"),
        (LEAST + "time: t\nresample: cubic\nperiod: 1\nmax_gap: 2", "resample is 'cubic', expected one of last"),
        (LEAST + "time: t\nresample: last\nperiod: 1\nmax_gap: 2\nnext_observation: n", "drop next_observation"),
        (LEAST + "reward_function: m.f", "has a reward and a reward_function"),
        (LEAST + "terminal: r", "gives the column 'r' two roles, reward and terminal"),
        (LEAST + "next_observation: x", "gives the column 'x' two roles, observation and next_observation"),
        ("observation: [x", "is not YAML"),
        ("- observation", "must be a mapping"),
        ("", "must be a mapping"),
    ],
)
def test_a_wrong_schema_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_a_missing_schema_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"schema\.yaml"):
        Schema.read(tmp_path / "schema.yaml")


def test_a_schema_grows(tmp_path: Path) -> None:
    schema = read(
        tmp_path,
        "observation: [level, mode]\naction: a\nreward_function: rules.profit\ntime: t\nperiod: 2\nmax_gap: 10\n"
        "resample: linear\nunits: {level: m, a: kW}\nbounds: {level: [0, null]}\ncategorical: [mode]\n",
    )
    assert (schema.reward, schema.reward_function, schema.keep_constant) == (None, "rules.profit", False)
    assert (schema.period, schema.max_gap, schema.resample, schema.gap) == (2.0, 10.0, "linear", 10.0)
    assert schema.units == {"level": "m", "a": "kW"}
    assert schema.bounds == {"level": (0.0, float("inf"))}
    assert schema.categorical == {"mode": ()}
    listed = read(tmp_path, LEAST + "categorical: {x: [idle, 2]}\ntime: t\nperiod: 2")
    assert listed.categorical == {"x": ("idle", "2")}
    assert listed.gap == 3.0
