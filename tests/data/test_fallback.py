"""What was applied where it was logged, else the command as the amplifier limited it."""

from pathlib import Path

import numpy as np
import pytest

from mbrl.data import minari
from mbrl.data.tables import import_log

SCHEMA = """
observation: angle
action: applied
fallback: {applied: command}
clip_action: true
action_low: -4
action_high: 4
reward: reward
episode: run
"""
LOG = """run,angle,command,applied,reward
a,0.0,6.0,3.5,0.0
a,0.1,-7.0,,0.1
a,0.2,1.0,,0.2
a,0.3,0.0,0.5,0.3
"""


def imported(folder: Path, schema: str = SCHEMA, log: str = LOG) -> dict:
    (folder / "log.csv").write_text(log)
    (folder / "schema.yaml").write_text(schema)
    return import_log(folder / "log.csv", "qube/real-v0", schema=folder / "schema.yaml")


def test_a_missing_number_is_read_from_the_fallback_and_a_command_is_limited(tmp_path: Path) -> None:
    answer = imported(tmp_path)
    assert minari.load("qube/real-v0").action.flatten().tolist() == [3.5, -4.0, 1.0]
    assert answer["clipped_actions"] == 1


def test_without_clip_action_a_command_beyond_the_bounds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 1, column 'applied' is -7.0, expected a value within .*\[-4.0, 4.0\]"):
        imported(tmp_path, SCHEMA.replace("clip_action: true\n", ""))


def test_a_number_that_both_lack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 1, column 'applied' is empty or not a number"):
        imported(tmp_path, log=LOG.replace("a,0.1,-7.0,,", "a,0.1,,,"))


def test_a_constant_column_with_a_fallback_that_varies_is_kept(tmp_path: Path) -> None:
    schema = SCHEMA.replace("observation: angle", "observation: [angle, level]") + "fallback: {level: other}\n"
    schema = schema.replace("fallback: {applied: command}\n", "").replace("action: applied", "action: command")
    log = "run,angle,command,level,other,reward\na,0.0,1,5,0,0\na,0.1,2,,6,0\na,0.2,3,5,0,0\n"
    imported(tmp_path, schema, log)
    assert minari.load("qube/real-v0").obs[:, 1].tolist() == [5.0, 6.0]


def test_an_infinite_command_is_not_one_that_was_limited(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 1, column 'applied' is -inf, which is not finite"):
        imported(tmp_path, log=LOG.replace("-7.0", "-inf"))


def test_a_number_whose_square_is_infinite_is_refused(tmp_path: Path) -> None:
    """As those are that stand for a reading that failed."""
    with pytest.raises(ValueError, match=r"row 2, column 'angle' is 1e\+20, whose square is not finite in float32"):
        imported(tmp_path, log=LOG.replace("0.2,1.0", "1e20,1.0"))


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("{applied: command}", "{applied: comand}", "no column 'comand' .*did you mean 'command'"),
        ("{applied: command}", "{run: command}", "fallback names 'run', expected a column of observation"),
        ("{applied: command}", "[applied]", r"fallback is \['applied'\], expected a mapping from columns to columns"),
        ("action_low: -4\naction_high: 4\n", "", "says `clip_action: true`, .* give action_low and action_high"),
        ("reward: reward", "reward: reward\ndiscrete: true", "a discrete action is one column and has no action_low"),
        ("clip_action: true", "clip_action: 1", "clip_action is 1, expected true or false"),
    ],
)
def test_a_schema_that_cannot_be_meant_is_refused(tmp_path: Path, old: str, new: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        imported(tmp_path, SCHEMA.replace(old, new))


def test_a_fallback_stands_for_as_many_channels(tmp_path: Path) -> None:
    file = tmp_path / "log.npz"
    arrays = {"angle": np.zeros((3, 1)), "applied": np.full((3, 1), np.nan), "command": np.ones((3, 2))}
    np.savez(file, **arrays, reward=np.zeros(3), run=np.zeros(3, int))
    (tmp_path / "schema.yaml").write_text(SCHEMA + "keep_constant: true\n")
    with pytest.raises(ValueError, match=r"fallback 'command' of 'applied' has 2 channels, expected .*: 1"):
        import_log(file, "qube/real-v0", schema=tmp_path / "schema.yaml")
