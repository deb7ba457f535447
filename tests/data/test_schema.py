from pathlib import Path

import pytest

from mbrl.data.schema import Schema


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
        (LEAST + "time:", "time is None"),
        (LEAST + "action_low: 1", "give both or neither"),
        (LEAST + "action_low: low\naction_high: 1", "action_low is 'low', expected a number"),
        (LEAST + "discrete: 3", "discrete is 3, expected true or false"),
        (LEAST + "discrete: true\naction_low: 0\naction_high: 1", "has no action_low"),
        ("observation: x\naction: [a, b]\nreward: r\nepisode: e\ndiscrete: true", "is one column"),
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
