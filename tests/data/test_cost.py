"""What a row costs beside its reward: from a column of the log to the data set, or a refusal."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from minari_toys import with_infos

from mbrl.data import minari
from mbrl.data.audit import audit
from mbrl.data.dataset import TransitionDataset
from mbrl.data.history import windowed
from mbrl.data.tables import import_log

SCHEMA = """
observation: angle
action: push
reward: reward
cost: wear
episode: run
"""
LOG = """run,t,angle,push,reward,wear,spare
a,0,0.0,0,0.0,0.5,1
a,1,0.1,1,0.1,2.0,1
a,2,0.2,1,0.2,9.0,1
b,0,0.3,0,0.3,0.0,1
b,1,0.4,1,0.3,0.25,1
b,2,0.5,1,0.3,9.0,1
"""


def imported(folder: Path, schema: str = SCHEMA, log: str = LOG) -> TransitionDataset:
    (folder / "log.csv").write_text(log)
    (folder / "schema.yaml").write_text(schema)
    import_log(folder / "log.csv", "plant/wear-v0", schema=folder / "schema.yaml")
    return minari.load("plant/wear-v0")


def test_a_column_of_costs_goes_with_its_rows(tmp_path: Path) -> None:
    data = imported(tmp_path)
    assert data.cost.tolist() == [0.5, 2.0, 0.0, 0.25]  # the last rows have no successor
    assert data.sums(data.cost).tolist() == [2.5, 0.25]
    again = minari.load("plant/wear-v0")  # from its cache
    assert torch.equal(again.cost, data.cost)
    assert again.fingerprint == data.fingerprint
    assert torch.equal(windowed(data, 2).cost, data.cost)


def test_an_npz_has_costs_by_a_schema(tmp_path: Path, toy_log: object) -> None:
    log = toy_log((2, 3))
    np.savez(tmp_path / "log.npz", **log, wear=np.arange(5.0))
    text = "observation: obs\naction: action\nreward: reward\nnext_observation: next_obs\nterminal: done\ncost: wear\n"
    (tmp_path / "schema.yaml").write_text(text + "truncated: truncated\n")
    import_log(tmp_path / "log.npz", "plant/wear-v0", schema=tmp_path / "schema.yaml")
    assert minari.load("plant/wear-v0").cost.tolist() == [0, 1, 2, 3, 4]


def test_costs_are_content(tmp_path: Path) -> None:
    data = imported(tmp_path)
    kept = {name: getattr(data, name) for name in ("discrete", "action_low", "action_high")}
    plain = {name: tensor for name, tensor in data.tensors.items() if name != "cost"}
    without = TransitionDataset.create("plant/wear-v0", **plain, **kept)
    other = TransitionDataset.create("plant/wear-v0", **plain, **kept, cost=data.cost + 1)
    assert len({data.fingerprint, without.fingerprint, other.fingerprint}) == 3
    assert without.cost is None
    with pytest.raises(ValueError, match=r"cost is \[2\] torch.float32, expected \[4\] torch.float32"):
        TransitionDataset.create("plant/wear-v0", **plain, **kept, cost=data.cost[:2])


def test_a_grid_in_time_takes_the_mean_cost_until_its_next_point(tmp_path: Path) -> None:
    """Rows 0 and 1 lie before the second point, at 2 s: (0.5 + 2) / 2; of b (0 + 0.25) / 2."""
    data = imported(tmp_path, SCHEMA + "time: t\nperiod: 2\nmax_gap: 4\nresample: last\n")
    assert data.cost.tolist() == [1.25, 0.125]


def test_a_fallback_fills_what_was_not_logged(tmp_path: Path) -> None:
    data = imported(tmp_path, SCHEMA + "fallback: {wear: spare}\n", LOG.replace("0.1,2.0", "0.1,"))
    assert data.cost.tolist() == [0.5, 1.0, 0.0, 0.25]


@pytest.mark.parametrize(
    ("schema", "log", "message"),
    [
        (SCHEMA, LOG.replace("2.0", ""), "row 1, column 'wear' is empty or not a number"),
        (SCHEMA, LOG.replace("2.0", "inf"), "row 1, column 'wear' is inf, which is not finite"),
        (SCHEMA, LOG.replace("2.0", "much"), "row 1, column 'wear' is 'much', expected a number"),
        (SCHEMA.replace("wear", "ware"), LOG, r"no column 'ware'.*did you mean 'wear'"),
        (SCHEMA.replace("wear", "reward"), LOG, "gives the column 'reward' two roles, reward and cost"),
        (SCHEMA.replace("wear", "[wear, spare]"), LOG, r"cost is \['wear', 'spare'\], expected the name of one column"),
    ],
)
def test_what_is_no_cost_is_named(tmp_path: Path, schema: str, log: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        imported(tmp_path, schema, log)


def test_infos_of_a_safe_environment_are_costs() -> None:
    """Safety-Gymnasium's name; a collector's infos begin with that of the reset."""
    data = with_infos({"cost": np.array([9.0, 1.0, 2.0])}, {"cost": np.array([3.0, 4.0])})
    assert data.cost.tolist() == [1, 2, 3, 4]
    assert data.propensity is None


@pytest.mark.parametrize(
    ("infos", "message"),
    [
        ((None, {"cost": np.zeros(2)}), "some episodes have 'cost' in their infos and some have not, first 1"),
        (({"cost": np.zeros(5)},), r"'cost' of episode 0 is \[5\], expected \[2\]"),
        (({"cost": np.array([0.0, np.inf])},), "the cost of episode 0 is not finite at step 1"),
    ],
)
def test_infos_that_do_not_fit_are_named(infos: tuple[dict[str, np.ndarray] | None, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_infos(*infos)


def test_an_audit_looks_at_costs(toy_data: object) -> None:
    def kinds(cost: float) -> list[str]:
        return [f.kind for f in audit(replace(toy_data((5, 5)), cost=torch.tensor([0.0, cost] * 5))).findings]

    assert "constant cost" in kinds(0.0)
    assert "constant cost" not in kinds(1.0)
    assert kinds(float("nan")) == ["not finite"]
