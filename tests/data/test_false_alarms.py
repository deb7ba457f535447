"""What a deterministic world, a grid or a rare event leaves in a log is not held against its logger."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from audit_toys import STEPS, fahrenheit, kinds, plant, put, repeated, rule, sensor, twice, unsighted
from torch import Tensor

from mbrl.core import generator
from mbrl.data import suspicions
from mbrl.data.audit import audit
from mbrl.data.behaviour import freedom
from mbrl.data.channels import Past, sensors
from mbrl.data.checks import copied_episodes, duplicate_rows
from mbrl.data.dataset import TransitionDataset
from mbrl.data.findings import Finding
from mbrl.data.levels import levels
from mbrl.data.outliers import Odd
from mbrl.data.suspicions import Refit, missing_ends, rewards

pytestmark = pytest.mark.usefixtures("coarse")
__all__ = ["unsighted"]


@pytest.fixture(scope="module")
def clean() -> TransitionDataset:
    return plant()


def grid(side: int, slip: float, start: int | None = None, episodes: int = 40, steps: int = 50) -> TransitionDataset:
    """A walk on side x side cells; now and then the cell aside is entered instead of the one that was chosen."""
    rng = generator(0, "grid")
    moves = torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]])
    chosen = torch.multinomial(torch.tensor([0.35, 0.15, 0.35, 0.15]), episodes * steps, True, generator=rng)
    slips = torch.rand(episodes * steps, generator=rng) < slip
    entered = torch.where(slips, torch.randint(4, (episodes * steps,), generator=rng), chosen)
    here, rows = torch.zeros(2, dtype=torch.long), []
    for k in range(episodes * steps):
        if k % steps == 0:
            here = torch.randint(side, (2,), generator=rng) if start is None else torch.full((2,), start)
        after = (here + moves[entered[k]]).clamp(0, side - 1)
        rows.append((here, after))
        here = after
    obs, next_obs = (torch.stack(column).float() for column in zip(*rows, strict=True))
    last = torch.arange(len(obs)) % steps == steps - 1
    return TransitionDataset.create(
        "toy/grid-v0", obs=obs, action=torch.nn.functional.one_hot(chosen, 4).float(),
        reward=torch.where((next_obs == side - 1).all(1), 1.0, -0.01), next_obs=next_obs,
        terminated=torch.zeros_like(last), truncated=last, episode=torch.arange(len(obs)) // steps,
        discrete=True, action_low=[0.0] * 4, action_high=[1.0] * 4,
    )  # fmt: skip


def severities(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.kind, finding.severity) for finding in found]


def test_a_grid_whose_walks_begin_alike_holds_no_episode_twice() -> None:
    data = grid(8, 0.0, start=0)
    starts = [tuple(data.action[k * 50 : k * 50 + 2].flatten().tolist()) for k in range(40)]
    assert len(set(starts)) < 40
    assert list(copied_episodes(data, ())) == []


def test_a_cut_copy_is_found_among_episodes_that_begin_alike(clean: TransitionDataset) -> None:
    """Episodes of 8 rows: 1 goes on otherwise after 6 of them, 2 is a part of 0, and 3 is the whole of it."""
    rows = torch.cat([torch.arange(8), torch.arange(8), torch.arange(7), torch.arange(8)])
    columns = {name: tensor[rows] for name, tensor in clean.tensors.items()}
    columns["reward"] = put(columns["reward"], [14, 15], 7.0)
    columns["episode"] = torch.arange(4).repeat_interleave(torch.tensor([8, 8, 7, 8]))
    (found,) = copied_episodes(replace(clean, **columns), ())
    assert found.found.startswith("2 episode(s) repeat an earlier one, such as episode 2 episode 0")
    assert (found.count, found.rows) == (15, tuple(range(16, 31)))


def test_a_world_that_comes_back_to_a_state_is_a_note() -> None:
    (found,) = duplicate_rows(grid(60, 0.0))
    assert (found.severity, found.effect[:4]) == ("note", "none")


def test_single_returns_are_a_note_and_what_was_written_twice_is_serious(clean: TransitionDataset) -> None:
    columns = {n: t for n, t in clean.tensors.items() if n in ("obs", "action", "reward")}
    back = {n: put(t, list(range(300, 330, 3)), t[100]) for n, t in columns.items()}
    assert severities(list(duplicate_rows(replace(clean, **back)))) == [("duplicate rows", "note")]
    overlap = {n: put(t, slice(300, 310), t[100:110]) for n, t in columns.items()}
    for data in (replace(clean, **overlap), repeated(clean)):
        assert severities(list(duplicate_rows(data))) == [("duplicate rows", "serious")]
    assert list(duplicate_rows(twice(clean))) == []  # told as a copied episode


@pytest.mark.parametrize(
    ("rows", "value", "severity"), [([7], 60.0, "warning"), ([7], 1e5, "serious"), ([7, 90, 700], 60.0, "serious")]
)
def test_few_rows_that_are_far_are_a_warning(
    clean: TransitionDataset, rows: list[int], value: float, severity: str
) -> None:
    """One row in 2,400 is below 0.1 %, three are not."""
    data = sensor(clean, lambda column: put(column, rows, value + torch.arange(len(rows))))
    assert severities(list(Odd.of(data, Past((), (), {})).findings)) == [("outliers", severity)]


@pytest.mark.parametrize("paid", [True, False])
def test_a_fine_that_the_plant_pays_is_a_note(paid: bool, clean: TransitionDataset) -> None:
    """Beyond a limit that one row in 120 passes, or at random."""
    over = clean.next_obs[:, 0] > clean.next_obs[:, 0].quantile(0.992)
    over = over if paid else over[torch.randperm(len(over), generator=torch.Generator().manual_seed(0))]
    (found,) = Odd.of(replace(clean, reward=torch.where(over, -500.0, clean.reward)), Past((), (), {})).findings
    assert (found.severity, found.channels) == ("note" if paid else "serious", ("reward",))
    assert ("the rest of the row foretells" in found.found) == paid


@pytest.mark.parametrize(("slope", "severity"), [(3.0, "note"), (12.0, "serious")])
def test_where_the_plant_goes_step_by_step_is_a_note(slope: float, severity: str, clean: TransitionDataset) -> None:
    """Up to 50 and back within one episode, in steps that are small or large beside the 4 that nearly all span."""
    peak = (50 - slope * (torch.arange(len(clean)) - 330).abs()).clamp(min=0)
    (found,) = Odd.of(sensor(clean, lambda column: column + peak[: len(column)]), Past((), (), {})).findings
    assert (found.severity, "step by step" in found.found) == (severity, severity == "note")


def test_pieces_of_a_series_are_one_in_which_the_plant_goes_step_by_step(clean: TransitionDataset) -> None:
    """Cut after every five steps (`cut_every`), so that some pieces are far from end to end."""
    peak = (50 - 3 * (torch.arange(len(clean)) - 330).abs()).clamp(min=0)
    high = sensor(clean, lambda column: column + peak[: len(column)])
    (found,) = Odd.of(replace(high, episode=torch.arange(len(clean)) // 5), Past((), (), {})).findings
    assert found.severity == "note"


def test_an_episode_in_another_unit_is_serious_beside_what_goes_step_by_step(clean: TransitionDataset) -> None:
    peak = (50 - 3 * (torch.arange(len(clean)) - 330).abs()).clamp(min=0)
    peak[-3:] = 50
    parts = replace(clean, episode=clean.episode + (torch.arange(len(clean)) >= len(clean) - 3))
    (found,) = Odd.of(sensor(parts, lambda column: column + peak[: len(column)]), Past((), (), {})).findings
    assert found.severity == "serious"


@pytest.mark.parametrize(("share", "severity"), [(0.3, "serious"), (0.6, "warning")])
def test_an_end_that_holds_most_rows_is_likely_one_of_rest(
    clean: TransitionDataset, share: float, severity: str
) -> None:
    data = sensor(clean, lambda column: column.clamp(min=float(column.quantile(share))))
    assert severities(list(sensors(data, Past((), (), {})))) == [("saturated sensor", severity)]


def test_what_every_episode_begins_with_is_no_end_of_a_sensor(clean: TransitionDataset) -> None:
    """No product yet, in the first row of a batch; but episodes of one row have no other."""
    rows = torch.arange(len(clean))
    batches, single = replace(clean, episode=rows // 20), replace(clean, episode=rows)
    column = clean.obs[:, 0] - clean.obs[:, 0].min() + 0.01
    column[batches.first] = 0.0
    empty = replace(batches, obs=torch.cat([column[:, None], clean.obs[:, 1:]], 1))
    assert list(sensors(empty, Past((), (), {}))) == []
    cut = sensor(single, lambda column: column.clamp(min=float(column.quantile(0.3))))
    assert severities(list(sensors(cut, Past((), (), {})))) == [("saturated sensor", "serious")]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (fahrenheit, True),
        (lambda c: put(fahrenheit(c), slice(595, 605), torch.linspace(40, 70, 10)), False),  # it goes there by itself
        (lambda c: torch.where(torch.arange(len(c)) % 400 < 200, c, c + 100), False),  # and does so often
        (lambda c: fahrenheit(c).round(decimals=-1), False),  # these are no measurements
        (lambda c: put(c, slice(600, 615), c[600:615] + 100), False),  # and these are outliers, if anything
    ],
)
def test_two_levels_are_far_apart_and_seldom_change(
    clean: TransitionDataset, change: Callable[[Tensor], Tensor], found: bool
) -> None:
    seen = list(levels(sensor(clean, change), Past((), (), {})))
    assert severities(seen) == ([("two levels", "warning")] if found else [])
    assert not seen or (seen[0].count, seen[0].rows[0]) == (300, 600)


def test_a_command_has_levels_too_but_a_choice_has_not(clean: TransitionDataset) -> None:
    action = put(clean.action, slice(600, 900), clean.action[600:900] + 100)
    found = list(levels(replace(clean, action=action), Past((), (), {})))
    assert [name for finding in found for name in finding.channels] == list(clean.action_channels)
    assert all("goes from one to the other 2 time(s) only" in finding.found for finding in found)
    assert list(levels(replace(clean, action=action, discrete=True), Past((), (), {}))) == []


def odd(data: TransitionDataset, reward: Tensor) -> list[tuple[str, str]]:
    found = rewards(Refit.of(replace(data, reward=reward), 0))
    return [pair for pair in severities(list(found)) if pair[0] == "inconsistent reward"]


def test_a_step_reward_s_rounding_is_not_odd(clean: TransitionDataset) -> None:
    last = torch.arange(1, len(clean) + 1) % STEPS == 0
    goal = replace(clean, terminated=last, truncated=torch.zeros_like(last))
    assert odd(goal, torch.where(last, 1.0, -0.1)) == []


def test_a_rare_event_that_pays_is_at_most_a_warning(clean: TransitionDataset) -> None:
    level = clean.obs[:, 0]
    paid = (level > level.quantile(0.985)).float()
    assert odd(clean, paid) == [("inconsistent reward", "warning")]
    plain = -0.1 * clean.action.square().sum(1)
    assert odd(clean, put(plain, slice(1210, 1230), plain[1210:1230] + 10)) == [("inconsistent reward", "serious")]


def test_a_step_of_one_cell_is_no_missing_end() -> None:
    assert list(missing_ends(Refit.of(grid(8, 0.1), 0))) == []


def test_short_walks_on_a_small_grid_are_bound_to_be_alike(clean: TransitionDataset) -> None:
    data = grid(3, 0.0, episodes=400, steps=4)
    assert severities(list(copied_episodes(data, ()))) == [("same episode twice", "note")]
    assert severities(list(copied_episodes(twice(clean), ()))) == [("same episode twice", "serious")]


def test_a_channel_that_changes_with_the_last_observation_is_no_constant_sensor(clean: TransitionDataset) -> None:
    """A trip that ends the episode stands in no row's own observation."""
    last = torch.cat([clean.episode.diff() != 0, torch.tensor([True])])
    obs, next_obs = sensor(clean, torch.zeros_like).obs, clean.next_obs.clone()
    next_obs[:, 0] = last.float()
    tripped = replace(clean, obs=obs, next_obs=next_obs)
    none = Past((), (), {})
    assert "constant sensor" not in {finding.kind for finding in sensors(tripped, none)}
    resting = replace(tripped, next_obs=torch.where(torch.tensor([True, *[False] * (obs.shape[1] - 1)]), 0.0, next_obs))
    assert "constant sensor" in {finding.kind for finding in sensors(resting, none)}


def test_actions_by_chance_are_free_whether_they_are_choices_or_not(clean: TransitionDataset) -> None:
    rng = generator(0, "chance")
    rare = torch.nn.functional.one_hot((torch.rand(len(clean), generator=rng) < 0.1).long(), 2).float()
    choice = replace(clean, action=rare, discrete=True, action_channels=("close", "open"))
    moved = replace(clean, action=torch.randn(clean.action.shape, generator=rng))
    for data in choice, moved:
        assert freedom(Refit.of(data, 0)).whole == pytest.approx(1.0, abs=0.15)


def test_a_share_of_a_part_of_the_rows_says_that_it_is_one(
    clean: TransitionDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Refit.of(clean, 0).share(np.arange(len(clean)) < 3).startswith("3 rows (")
    monkeypatch.setattr("mbrl.data.suspicions.MOST_ROWS", 100)
    assert Refit.of(clean, 0).share(np.arange(100) < 3) == "3 rows (3 %) of the 100 that were looked at"


def controlled(late: bool, gain: float = 1.0, noise: float = 0.05, rows: int = 200) -> TransitionDataset:
    """x' = 0.95 x + 0.2 u + w under u = -gain x + e: a controller that answers each disturbance in the next row."""
    rng = np.random.default_rng(0)
    x, u, after = (np.zeros((30, rows)) for _ in range(3))
    for here, taken, then in zip(x, u, after, strict=True):
        now, own = rng.normal(), gain * rng.uniform(0.7, 1.3)
        for k in range(rows):
            here[k], taken[k] = now, -own * now + noise * rng.normal()
            now = then[k] = 0.95 * now + 0.2 * taken[k] + 0.05 * rng.normal()
    logged = np.roll(u, 1, 1) if late else u
    obs, action, next_obs = (torch.tensor(column.reshape(-1, 1)).float() for column in (x, logged, after))
    return TransitionDataset.create(
        "toy/loop-v0", obs=obs, action=action, reward=-obs[:, 0].square(), next_obs=next_obs,
        terminated=torch.zeros(len(obs), dtype=torch.bool), truncated=torch.arange(len(obs)) % rows == rows - 1,
        episode=torch.arange(len(obs)) // rows, discrete=False, action_low=[-9.0], action_high=[9.0],
    )  # fmt: skip


@pytest.mark.parametrize(("gain", "noise"), [(1.0, 0.05), (1.0, 0.03), (2.0, 0.1)])
def test_a_controller_that_answers_disturbances_is_no_column_that_is_a_row_late(gain: float, noise: float) -> None:
    assert list(suspicions.shifted_action(Refit.of(controlled(False, gain, noise), 0))) == []
    (found,) = suspicions.shifted_action(Refit.of(controlled(True, gain, noise), 0))
    assert "one row late" in found.remedy


def test_steps_that_all_pay_the_same_are_not_held_against_each_other(clean: TransitionDataset) -> None:
    last = torch.arange(1, len(clean) + 1) % STEPS == 0
    batch = replace(clean, terminated=last, truncated=torch.zeros_like(last), reward=(1 + clean.obs[:, 0]) * last)
    for scale in 1.0, 100.0:
        assert "inconsistent reward" not in kinds(audit(replace(batch, reward=scale * batch.reward)))


def test_an_action_that_never_moves_hides_nothing_of_the_others(clean: TransitionDataset) -> None:
    still = torch.full((len(clean), 1), 0.3)
    free = freedom(Refit.of(clean, 0)).whole
    both = replace(
        clean,
        action=torch.cat([clean.action, still], 1),
        action_channels=(*clean.action_channels, "lamp"),
        action_low=(*clean.action_low, 0.0),
        action_high=(*clean.action_high, 1.0),
    )
    assert freedom(Refit.of(both, 0)).whole == pytest.approx(free, rel=0.2)
    ruled = plant(rule)
    ruled = replace(
        ruled,
        action=torch.cat([ruled.action, torch.full((len(ruled), 1), 0.3)], 1),
        action_channels=(*ruled.action_channels, "lamp"),
        action_low=(*ruled.action_low, 0.0),
        action_high=(*ruled.action_high, 1.0),
    )
    assert {"constant action", "rule-based logger"} <= kinds(audit(ruled))


def test_a_machine_that_is_off_is_neither_a_copy_nor_a_stuck_sensor(clean: TransitionDataset) -> None:
    rest = torch.full_like(clean.obs, 0.1), torch.zeros_like(clean.action)
    some = clean.episode % 5 == 4
    obs, action = torch.where(some[:, None], rest[0], clean.obs), torch.where(some[:, None], rest[1], clean.action)
    resting = replace(
        clean,
        obs=obs,
        action=action,
        next_obs=torch.where(some[:, None], rest[0], clean.next_obs),
        reward=clean.reward.where(~some, 0.0),
    )
    found = audit(resting)
    assert not {"same episode twice", "stuck sensor"} & kinds(found)
    assert not [f for f in found.findings if f.severity == "serious"]
