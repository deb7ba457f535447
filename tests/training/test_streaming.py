"""Training on a log of which one group of episodes is in memory at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from dynamics_toys import linear_world, spec_of
from torch import Tensor

from dynamics import DeterministicEnsemble
from mbrl.core import Batch, Dynamics, Learner, seeded
from mbrl.data.dataset import TransitionDataset
from mbrl.data.source import Streamed
from mbrl.training.bootstrap import BootstrapBatches
from mbrl.training.dynamics import fit_dynamics
from mbrl.training.policy import fit_policy
from policies import AWR, BC

EPISODES, STEPS = 24, 20


def log() -> TransitionDataset:
    """Episodes of a linear world; each row's reward is its number."""
    rows = linear_world(EPISODES * STEPS, 0)
    number = torch.arange(EPISODES * STEPS)
    return TransitionDataset.create(
        "toy/linear-v0",
        **rows._replace(reward=number.float(), terminated=torch.zeros(len(number), dtype=torch.bool))._asdict(),
        truncated=number % STEPS == STEPS - 1,
        episode=number // STEPS,
        discrete=False,
        action_low=[-1.0] * rows.action.shape[1],
        action_high=[1.0] * rows.action.shape[1],
    )


def streamed(data: TransitionDataset, groups: int = 3) -> Streamed:
    a_row = sum(column[:1].nbytes for column in data.batch())
    source = Streamed(data, torch.arange(EPISODES), -(-a_row * len(data) // groups), seed=1)
    assert source.groups == groups
    return source


def test_an_epoch_is_of_one_group_and_a_pass_deals_each_member_its_own_bootstrap() -> None:
    source = streamed(log())
    batches = BootstrapBatches(source, members=3, seed=0, batch_size=10)
    assert len(batches) == 16  # a third of 480 rows
    drawn: list[list[int]] = [[], [], []]
    for epoch in range(3):
        batches.epoch = epoch
        seen = torch.cat([dealt.rows.reward for dealt in batches], 1).long()
        here = set(source.group(epoch).rows.reward.long().tolist())
        for member in range(3):
            own = [int(source.group(epoch).rows.reward[row]) for row in batches.drawn[member][0]]
            assert set(seen[member].tolist()) <= set(own) <= here
            drawn[member] += own
    for member, bootstrap in enumerate(batches.bootstraps):
        expected = [row for e in bootstrap.tolist() for row in range(STEPS * e, STEPS * (e + 1))]
        assert sorted(drawn[member]) == sorted(expected)
    batches.epoch = 0
    first = [dealt.rows.reward for dealt in batches]
    assert all(torch.equal(a, b.rows.reward) for a, b in zip(first, batches, strict=True))


def test_a_member_that_has_drawn_nothing_of_a_group_learns_from_all_of_it() -> None:
    source = streamed(log(), groups=12)  # two episodes each
    batches = BootstrapBatches(source, members=4, seed=0, batch_size=10)
    lacking = [
        (member, group)
        for member, bootstrap in enumerate(batches.bootstraps)
        for group in range(12)
        if not torch.isin(source.group(group).episode, bootstrap).any()
    ]
    assert lacking
    member, batches.epoch = lacking[0]
    rows = torch.cat([dealt.rows.reward[member] for dealt in batches])
    assert sorted(rows.tolist()) == sorted(source.group(batches.epoch).rows.reward.tolist())


def fitted(data: TransitionDataset, source: Streamed, **settings: Any) -> tuple[Dynamics, Any]:
    with seeded(0, "test"):
        model = DeterministicEnsemble(spec_of(data.batch()), members=2, elites=2, hidden=16, layers=0)
    held = linear_world(200, 1)
    return model, fit_dynamics(model, source, held, seed=0, lr=1e-2, batch_size=32, patience=90, **settings)


def test_dynamics_learn_from_all_groups_and_go_on_where_they_stopped(tmp_path: Path) -> None:
    data = log()
    whole, report = fitted(data, streamed(data), max_epochs=9)
    assert report.updates == 9 * 5
    fitted(data, streamed(data), max_epochs=4, folder=tmp_path)
    again, _ = fitted(data, streamed(data), max_epochs=9, folder=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    with pytest.raises(ValueError, match="groups was 3, is 2"):
        fitted(data, streamed(data, 2), max_epochs=9, folder=tmp_path)


class Watching(Learner):
    """Notes the rows that it is given."""

    imagines = False

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self.inner = BC(spec, hidden=(4,))
        self.optimizers = self.inner.optimizers
        self.seen: list[list[int]] = []

    @property
    def policy(self) -> Any:
        return self.inner.policy

    def update(self, real: Batch, imagined: Any, rng: torch.Generator, simulator: Any = None) -> dict[str, Tensor]:
        self.seen.append(real.reward.long().tolist())
        return self.inner.update(real, imagined, rng, simulator)


def test_a_learner_sees_one_group_after_the_other(tmp_path: Path) -> None:
    data = log()
    with seeded(0, "test"):
        learner = Watching(spec_of(data.batch()))
    fit_policy(learner, streamed(data), updates=12, batch_size=40)  # a group's 160 rows are 4 updates
    source = streamed(data)
    for update, rows in enumerate(learner.seen):
        assert set(rows) <= set(source.group(update // 4).rows.reward.long().tolist())
    halves = []
    for stop in (7, 12):
        with seeded(0, "test"):
            halves.append(Watching(spec_of(data.batch())))
        path = tmp_path / "policy.ckpt"
        fit_policy(halves[-1], streamed(data), updates=stop, batch_size=40, checkpoint=path)
    assert halves[0].seen + halves[1].seen == learner.seen
    assert all(torch.equal(a, b) for a, b in zip(halves[1].parameters(), learner.parameters(), strict=True))


def test_the_best_episodes_and_learners_of_whole_ones_have_all_rows_at_once() -> None:
    data = log()
    with seeded(0, "test"):
        best = Watching(spec_of(data.batch()))
    fit_policy(best, streamed(data), updates=12, batch_size=40, best=0.1)
    assert min(min(rows) for rows in best.seen) >= STEPS * (EPISODES - 3)
    made = []
    for rows, ends in ((streamed(data), None), (data.batch(), data.ends(torch.arange(len(data))))):
        with seeded(0, "test"):
            made.append(AWR(spec_of(data.batch()), hidden=(4,)))
        fit_policy(made[-1], rows, ends=ends, updates=12, batch_size=40)
    assert all(torch.equal(a, b) for a, b in zip(*(learner.parameters() for learner in made), strict=True))
