"""How likely the logger was to act as it did: from a column of the log to the trajectories, or a refusal."""

from pathlib import Path

import numpy as np
import pytest
import torch
from minari_toys import with_infos

from mbrl.data import minari
from mbrl.data.dataset import TransitionDataset
from mbrl.data.history import windowed
from mbrl.data.tables import import_log
from mbrl.evaluation.trajectories import Trajectories

SCHEMA = """
observation: angle
action: choice
discrete: true
propensity: chance
reward: reward
episode: run
"""
LOG = """run,angle,choice,chance,reward
a,0.0,0,-0.5,0.0
a,0.1,1,-1.5,0.1
a,0.2,1,-0.25,0.2
b,0.3,0,-0.75,0.3
b,0.4,1,-2.0,0.3
b,0.5,1,-1.0,0.3
"""


def imported(folder: Path, schema: str = SCHEMA, log: str = LOG) -> TransitionDataset:
    (folder / "log.csv").write_text(log)
    (folder / "schema.yaml").write_text(schema)
    import_log(folder / "log.csv", "plant/chance-v0", schema=folder / "schema.yaml")
    return minari.load("plant/chance-v0")


def test_a_column_of_propensities_goes_with_its_rows(tmp_path: Path) -> None:
    data = imported(tmp_path)
    assert data.propensity is not None
    assert data.propensity.tolist() == [-0.5, -1.5, -0.75, -2.0]  # the last rows have no successor
    again = minari.load("plant/chance-v0")  # from its cache
    assert again.propensity is not None
    assert torch.equal(again.propensity, data.propensity)
    assert again.fingerprint == data.fingerprint
    seen = Trajectories.of(data, torch.tensor([1, 0]))
    assert seen.propensity is not None
    assert seen.propensity.tolist() == [[-0.75, -2], [-0.5, -1.5]]
    assert torch.equal(windowed(data, 2).propensity, data.propensity)


def test_propensities_are_content(tmp_path: Path) -> None:
    data = imported(tmp_path)
    kept = {name: getattr(data, name) for name in ("discrete", "action_low", "action_high")}
    plain = {name: tensor for name, tensor in data.tensors.items() if name != "propensity"}
    without = TransitionDataset.create("plant/chance-v0", **plain, **kept)
    other = TransitionDataset.create("plant/chance-v0", **plain, **kept, propensity=data.propensity - 1)
    assert len({data.fingerprint, without.fingerprint, other.fingerprint}) == 3
    assert without.propensity is None
    with pytest.raises(ValueError, match=r"propensity is \[2\] torch.float32, expected \[4\] torch.float32"):
        TransitionDataset.create("plant/chance-v0", **plain, **kept, propensity=data.propensity[:2])


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (LOG.replace("-1.5", "0.25"), r"row 1, column 'chance' is 0\.25, expected the natural logarithm of a probab"),
        (LOG.replace("-1.5", ""), "row 1, column 'chance' is empty or not a number"),
        (LOG.replace("-1.5", "-inf"), "row 1, column 'chance' is -inf, which is not finite"),
    ],
)
def test_what_is_no_logarithm_of_a_chance_is_refused(tmp_path: Path, log: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        imported(tmp_path, log=log)
    assert not minari.exists("plant/chance-v0")


def test_a_certain_choice_may_be_a_rounding_above_certain(tmp_path: Path) -> None:
    data = imported(tmp_path, log=LOG.replace("-1.5", "1e-7"))
    assert data.propensity is not None
    assert data.propensity.tolist() == [-0.5, 0.0, -0.75, -2.0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("clip_action: true\naction_low: -1\naction_high: 1\n", "has a propensity and clip_action, which changes"),
        ("time: clock\nperiod: 1\nmax_gap: 2\nresample: last\n", "has a propensity and resample"),
    ],
)
def test_what_changes_the_action_leaves_no_propensity(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        imported(tmp_path, SCHEMA.replace("discrete: true\n", "") + more)
    with pytest.raises(ValueError, match="gives the column 'chance' two roles, propensity and reward"):
        imported(tmp_path, SCHEMA.replace("reward: reward", "reward: chance"))


def test_infos_of_a_collector_begin_with_the_reset() -> None:
    data = with_infos({"log_propensity": np.array([9.0, 1.0, 2.0])}, {"log_propensity": np.array([3.0, 4.0])})
    assert data.propensity is not None
    assert data.propensity.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("infos", "message"),
    [
        ((None, {"log_propensity": np.zeros(2)}), "some episodes have 'log_propensity' in their infos.*first 1"),
        (({"log_propensity": np.zeros(2)}, {"other": np.zeros(2)}), "some have not, first 1"),
        (({"log_propensity": np.zeros(7)},), r"'log_propensity' of episode 0 is \[7\], expected \[2\]"),
        (({"log_propensity": np.array([0.0, np.nan])},), "the log_propensity of episode 0 is not finite at step 1"),
    ],
)
def test_infos_that_do_not_fit_are_named(infos: tuple[dict[str, np.ndarray] | None, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_infos(*infos)


def test_other_infos_are_left_alone() -> None:
    assert with_infos({"other": np.zeros(3)}).propensity is None
