import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from audit_toys import FAULTS, STEPS, kinds, merged, plant, put, rule, sensor, set_point, single, twice, unsighted
from torch import Tensor

from mbrl import demonstration
from mbrl.data import minari, suspicions
from mbrl.data.audit import Audit, audit
from mbrl.data.channels import Past, untried_choices
from mbrl.data.checks import ends_at_a_limit
from mbrl.data.dataset import TransitionDataset
from mbrl.data.sight import hidden_state
from mbrl.data.suspicions import Refit

pytestmark = pytest.mark.usefixtures("coarse")
__all__ = ["unsighted"]

Maker = Callable[..., TransitionDataset]


@pytest.fixture
def sighted(unsighted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    del unsighted
    monkeypatch.setattr("mbrl.data.audit.hidden_state", hidden_state)


@pytest.fixture(scope="module")
def clean() -> TransitionDataset:
    return plant()


@cache
def faulty(planted: str) -> Audit:
    """The audit of the clean log with a fault of `FAULTS` in it; several tests read what the same one says."""
    return audit(FAULTS[planted][1](plant()))


@pytest.mark.usefixtures("sighted")
def test_a_clean_log_has_no_finding(clean: TransitionDataset) -> None:
    found = audit(clean, sides=clean.split((0.7, 0.1, 0.2), 0))
    assert found.findings == ()
    assert found.freedom is not None
    assert 0.5 < found.freedom.whole < 1.5  # mostly noise


@pytest.mark.parametrize("planted", FAULTS)
def test_each_planted_fault_is_found(planted: str) -> None:
    kind, found = FAULTS[planted][0], faulty(planted)
    assert kind in kinds(found)
    finding = next(f for f in found.findings if f.kind == kind)
    assert all((finding.found, finding.effect, finding.remedy))
    assert finding.severity in ("serious", "warning")


@pytest.mark.parametrize(
    ("planted", "rows", "channels"),
    [
        ("rows written twice", (6, 56, 106), ()),
        ("next_obs of other rows", (100, 101, 102), ()),
        ("a sensor that hangs", (606, 607, 608), ("level",)),
        ("wild values", (40, 900, 1700), ("level",)),
        ("rows after an end", (30, 90), ()),
        ("the same episode twice", (2400, 2401, 2402), ()),
    ],
)
def test_a_finding_names_the_rows_and_the_channel(
    planted: str, rows: tuple[int, ...], channels: tuple[str, ...]
) -> None:
    finding = next(f for f in faulty(planted).findings if f.kind == FAULTS[planted][0])
    assert finding.rows[: len(rows)] == rows
    assert finding.channels == channels
    assert finding.count >= len(finding.rows)


def test_a_refit_looks_at_a_part_of_an_episode_that_is_too_long(
    clean: TransitionDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Refit.of(clean, 0)
    assert len(whole.rows) == len(clean)
    monkeypatch.setattr(suspicions, "MOST_ROWS", 40)
    part = Refit.of(clean, 0)
    assert len(part.rows) == 40 < STEPS
    assert np.diff(part.rows).tolist() == [1] * 39
    assert len(set(clean.episode[part.rows].tolist())) == 1


@pytest.mark.usefixtures("sighted")
def test_a_wide_log_is_looked_at_without_a_regression_wider_than_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 18 choices and 100 channels there are 5,400 products, and 900 rows to learn from."""
    rng, rows = np.random.default_rng(0), 900
    obs = torch.tensor(rng.normal(size=(rows + 1, 100)), dtype=torch.float32)
    last = torch.arange(rows) % 30 == 29
    choice = torch.nn.functional.one_hot(torch.tensor(rng.integers(0, 18, rows)), 18).float()
    data = TransitionDataset.create(
        "toy/wide-v0", obs=obs[:-1], action=choice, reward=choice[:, 3], next_obs=obs[1:],
        terminated=torch.zeros(rows, dtype=torch.bool), truncated=last, episode=torch.arange(rows) // 30,
        discrete=True, action_low=[0.0] * 18, action_high=[1.0] * 18,
    )  # fmt: skip
    widths: list[int] = []
    solve = np.linalg.lstsq
    monkeypatch.setattr(np.linalg, "lstsq", lambda x, *a, **k: widths.append(x.shape[1]) or solve(x, *a, **k))
    assert "shifted actions" not in kinds(audit(data))
    assert max(widths) == 3 * 18 + 1


def test_a_set_point_is_not_a_sensor_that_hangs(clean: TransitionDataset) -> None:
    assert "stuck sensor" not in kinds(audit(sensor(clean, set_point)))


def test_a_channel_that_rests_between_events_is_not_a_clipped_sensor(clean: TransitionDataset) -> None:
    def meals(column: Tensor) -> Tensor:
        rng = np.random.default_rng(0)
        return torch.tensor(np.where(rng.random(len(column)) < 0.1, rng.uniform(30, 90, len(column)), 0.0)).float()

    assert "saturated sensor" not in kinds(audit(sensor(clean, meals)))
    assert "saturated sensor" in kinds(audit(sensor(clean, lambda column: (meals(column) - 60).clamp(min=0))))


def test_a_reward_for_reaching_the_goal_is_neither_an_outlier_nor_unexplained(clean: TransitionDataset) -> None:
    last = torch.arange(1, len(clean) + 1) % STEPS == 0
    reached = last & (clean.episode % 2 == 0)
    reward = -0.1 * clean.action.square().sum(1) + 100.0 * reached
    goal = replace(clean, terminated=reached, truncated=last & ~reached, reward=reward)
    assert not {"outliers", "unexplained reward", "inconsistent reward"} & kinds(audit(goal))
    (found,) = (f for f in audit(replace(goal, reward=put(reward, [70], 100.0))).findings if f.kind == "outliers")
    assert (found.rows, found.channels) == ((70,), ("reward",))


def test_a_missing_end_is_found_where_it_is() -> None:
    finding = next(f for f in faulty("ends that are not marked").findings if f.kind == "missing end")
    assert set(finding.rows) <= {239, 659, 1079, 1499, 1979}  # a start may happen to be near, so not all of them
    assert finding.count >= 2
    unmarked = FAULTS["ends that are not marked"][1](plant())
    marked = replace(unmarked, terminated=put(unmarked.terminated, list(finding.rows), True))
    assert "missing end" not in kinds(audit(marked))


def test_what_ends_pay_is_not_held_against_what_steps_do(clean: TransitionDataset) -> None:
    last = torch.arange(1, len(clean) + 1) % STEPS == 0
    paid = torch.tensor(np.random.default_rng(0).normal(40, 20, len(clean))).float()
    reward = torch.where(last, paid, -0.1 * clean.action.square().sum(1))
    service = replace(clean, terminated=last, truncated=torch.zeros_like(last), reward=reward)
    assert "inconsistent reward" not in kinds(audit(service))
    odd = replace(service, reward=put(reward, slice(1210, 1230), reward[1210:1230] + 1.0))
    (found,) = (f for f in audit(odd).findings if f.kind == "inconsistent reward")
    assert not set(found.rows) & set(last.nonzero().flatten().tolist())


def test_an_odd_reward_is_found_where_it_is() -> None:
    found = faulty("another reward for a while").findings
    (finding,) = (f for f in found if f.kind == "inconsistent reward")
    assert set(finding.rows) <= set(range(1210, 1230))
    assert finding.count >= 15


def test_the_direction_of_a_shift_is_told() -> None:
    remedies = {}
    for planted in ("action a row late", "action a row early", "reward a row late"):
        remedies[planted] = next(f for f in faulty(planted).findings if f.kind == FAULTS[planted][0]).remedy
    assert "one row late" in remedies["action a row late"]
    assert "one row early" in remedies["action a row early"]
    assert "one row late" in remedies["reward a row late"]


def test_a_plant_that_answers_late_is_told_from_a_column_that_is_a_row_off() -> None:
    finding = next(f for f in audit(plant(lag=0.65)).findings if f.kind == "shifted actions")
    assert finding.severity == "warning"
    assert "and less, as in a plant with a dead time" in finding.found
    shifted = next(f for f in faulty("action a row early").findings if f.kind == "shifted actions")
    assert shifted.severity == "serious"


def test_a_rule_is_told_from_a_controller_with_noise() -> None:
    found = audit(plant(rule))
    finding = next(f for f in found.findings if f.kind == "rule-based logger")
    assert "importance sampling will refuse" in finding.effect
    assert found.freedom is not None
    assert found.freedom.whole < 0.02


def test_one_policy_is_told_from_several() -> None:
    finding = next(f for f in audit(plant(single)).findings if f.kind == "one policy")
    assert finding.severity == "warning"
    assert "one policy" not in {f.kind for f in audit(plant(restless)).findings}


def restless(episode: int, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two gains in turn on the first actuator, and a second one that moves about whatever happens."""
    return np.array([-(0.2, 0.6)[episode % 2] * x[1] + 0.1 * rng.normal(), rng.normal()])


def test_copies_on_different_sides_of_the_split_are_counted(clean: TransitionDataset) -> None:
    data = twice(clean)
    apart = (torch.arange(data.episodes - 1), torch.tensor([data.episodes - 1]))
    together = (torch.arange(1, data.episodes), torch.tensor([0]))
    for sides, count in ((apart, 1), (together, 0)):
        finding = next(f for f in audit(data, sides=sides).findings if f.kind == "same episode twice")
        assert f"{count} of them lie on another side" in finding.found
        assert "episode 40 episode 3" in finding.found


def test_ends_that_a_clock_does_not_explain_are_a_warning(clean: TransitionDataset) -> None:
    short = clean.rows(torch.arange(1, 40))
    rows = torch.cat([torch.arange(20), short])
    columns = {name: tensor[rows] for name, tensor in clean.tensors.items()}
    columns["truncated"][19] = True
    finding = next(f for f in audit(replace(clean, **columns)).findings if f.kind == "episodes without an end")
    assert (finding.severity, finding.rows) == ("warning", (19,))
    assert "20 to 60 rows" in finding.found


def test_time_limits_that_are_flagged_as_terminals_are_a_warning(clean: TransitionDataset) -> None:
    """All episodes of `clean` are cut after 60 rows; here a row of half of them is said to be the end of the world."""
    last = clean.first + clean.lengths - 1
    flagged, few = clean.terminated.clone(), clean.terminated.clone()
    flagged[last[::2]], few[last[:2]] = True, True
    (finding,) = [f for f in audit(replace(clean, terminated=flagged)).findings if f.kind == "ends at a limit"]
    assert finding.severity == "warning"
    assert "20 of 20 episodes that end in a terminal are exactly 60 rows long" in finding.found
    assert "ends at a limit" not in kinds(audit(replace(clean, terminated=few)))
    assert "ends at a limit" not in kinds(audit(clean))


def test_a_time_limit_that_the_observation_tells_is_a_note(clean: TransitionDataset) -> None:
    """A clock that begins with the episode; not one that some rows before the last one show, too."""
    last = clean.first + clean.lengths - 1
    flagged = clean.terminated.clone()
    flagged[last] = True
    for stays, severity in ((59.0, "note"), (58.0, "warning")):
        clock = (torch.arange(len(clean)) - clean.first[clean.episode]).float().clamp(max=stays)
        obs, after = torch.cat([clean.obs, clock[:, None]], 1), torch.cat([clean.next_obs, clock[:, None] + 1], 1)
        timed = replace(clean, obs=obs, next_obs=after, channels=(*clean.channels, "minute"), terminated=flagged)
        (finding,) = ends_at_a_limit(timed)
        assert (finding.severity, "minute tells when" in finding.found) == (severity, severity == "note")


@pytest.mark.usefixtures("sighted")
def test_an_action_that_never_changes_is_serious(clean: TransitionDataset) -> None:
    finding = next(
        f for f in audit(replace(clean, action=clean.action * torch.tensor([1.0, 0.0]))).findings if "action" in f.kind
    )
    assert (finding.kind, finding.channels, finding.severity) == ("constant action", ("heater",), "serious")


def test_a_reward_that_nothing_explains_is_a_warning(clean: TransitionDataset) -> None:
    noise = torch.randn(len(clean), generator=torch.Generator().manual_seed(0))
    assert "unexplained reward" in kinds(audit(replace(clean, reward=noise)))


@pytest.mark.usefixtures("sighted")
def test_returns_without_a_spread_are_a_warning(clean: TransitionDataset) -> None:
    flat = replace(clean, reward=torch.full_like(clean.reward, -1.0))
    found = [f for f in audit(flat).findings if f.kind == "equal returns"]
    assert [f.severity for f in found] == ["warning"]
    assert "each of the 40 episodes earned -60" in found[0].found


@pytest.mark.usefixtures("sighted")
def test_one_episode_cannot_be_split(clean: TransitionDataset) -> None:
    rows = torch.arange(STEPS)
    one = replace(clean, **{name: tensor[rows] for name, tensor in clean.tensors.items()})
    found = audit(one)
    assert "one episode" in kinds(found)
    assert found.freedom is None  # the refits, for which it is too short, are left out
    long = replace(clean, episode=torch.zeros_like(clean.episode), truncated=torch.arange(len(clean)) == len(clean) - 1)
    assert "one episode" in kinds(audit(long))


@pytest.mark.parametrize("value", [math.nan, -math.inf, 2e19])  # the square of the last one is infinite in float32
def test_what_is_not_finite_is_said_first_and_alone(clean: TransitionDataset, value: float) -> None:
    obs = clean.obs.clone()
    obs[7, 1] = value
    (finding,) = audit(replace(clean, obs=obs)).findings
    assert (finding.kind, finding.severity, finding.rows, finding.count) == ("not finite", "serious", (7,), 1)


@pytest.mark.usefixtures("sighted")
def test_findings_are_worst_first_plain_values_and_repeatable(clean: TransitionDataset) -> None:
    data = replace(merged(clean), reward=torch.zeros(len(clean)), action=FAULTS["action a row late"][1](clean).action)
    first, second = audit(data).to_dict(), audit(data).to_dict()
    assert json.loads(json.dumps(first)) == json.loads(json.dumps(second))
    severities = [finding["severity"] for finding in first["findings"]]
    assert severities == sorted(severities, key=["serious", "warning", "note"].index)
    assert first["counts"]["serious"] == severities.count("serious") > 0


@pytest.mark.usefixtures("sighted")
def test_nothing_is_serious_in_a_log_of_pendulum() -> None:
    demonstration.log_pendulum("toy/pendulum-v0", 16, seed=0)
    found = audit(minari.load("toy/pendulum-v0"))
    assert found.serious == ()
    assert kinds(found) <= {"saturated sensor", "thin coverage", "one policy"}  # its speed stops at 8 rad/s


def test_a_log_of_too_few_episodes_for_a_run_is_told(toy_data: Maker) -> None:
    assert "few episodes" in kinds(audit(toy_data((9, 9, 9))))
    assert "few episodes" not in kinds(audit(toy_data((9, 9, 9, 9))))


def test_actions_that_are_whole_numbers_are_told(clean: TransitionDataset) -> None:
    valve = clean.action.clone()
    valve[:, 0] = valve[:, 0].round()
    (found,) = (f for f in audit(replace(clean, action=valve)).findings if f.kind == "whole actions")
    assert (found.severity, found.channels) == ("note", ("valve",))
    assert "from -2 to 2" in found.found
    switch = replace(clean, action=clean.action.sign())  # on and off are a matter of degree as well
    assert "whole actions" not in kinds(audit(switch))


def test_choices_that_were_never_taken_are_told(clean: TransitionDataset) -> None:
    """Labels 10 and 20 of an import are 21 choices, of which two were taken."""
    taken = torch.nn.functional.one_hot(torch.where(clean.action[:, 0] > 0, 20, 10), 21).float()
    names = tuple(f"valve={k}" for k in range(21))
    choice = replace(clean, action=taken, discrete=True, action_channels=names)
    (found,) = untried_choices(choice, Past((), (), {}))
    assert found.severity == "warning"
    assert found.found == "19 of 21 choices were never taken: valve=0 to valve=9, valve=11 to valve=19"
    assert found.channels == (*names[:10], *names[11:20])
    both = replace(choice, action=taken[:, [10, 20]], action_channels=("close", "open"))
    for data in (both, clean):
        assert list(untried_choices(data, Past((), (), {}))) == []
    only = replace(both, action=taken[:, [10, 11]])
    assert [f.found for f in untried_choices(only, Past((), (), {}))] == ["1 of 2 choices were never taken: open"]
