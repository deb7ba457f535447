"""How a model that remembers is fitted: which rows count, with which states, and what it is worth."""

import math

import pytest
import torch
from dynamics_toys import linear_world, unit_spec
from memory_toys import Summing, oscillator, sums
from torch import Tensor

from dynamics import ProbabilisticEnsemble, RecurrentEnsemble
from dynamics.uncertainty import ensemble_std
from mbrl.core import Batch, Dynamics, generator, seeded
from mbrl.data.source import Whole
from mbrl.simulator.onestep import look, one_step
from mbrl.simulator.openloop import open_loop, start_rows
from mbrl.simulator.recall import Recall
from mbrl.simulator.simulator import Simulator
from mbrl.training.bootstrap import BootstrapBatches, Runs, held_runs
from mbrl.training.dynamics import fit_dynamics
from mbrl.training.lookahead import NEGLIGIBLE, Lookahead
from mbrl.training.recurrence import remembered_loss, states

LENGTHS = torch.tensor([7, 1, 12, 3, 20, 7])
EPISODE = torch.arange(6).repeat_interleave(LENGTHS)
PLACE = torch.cat([torch.arange(n) for n in LENGTHS.tolist()])


def dealt(memory: int, members: int = 2, epoch: int = 0) -> tuple[BootstrapBatches, list[Runs]]:
    """Runs of 50 numbered rows in six episodes, in five updates."""
    rows = linear_world(50, 0)._replace(reward=torch.arange(50.0))
    batches = BootstrapBatches(Whole(rows, EPISODE), members, seed=0, batch_size=10, memory=memory)
    batches.epoch = epoch
    return batches, [batch for batch in batches if isinstance(batch, Runs)]


def test_each_run_has_the_rows_before_it_as_far_as_the_episode_has_them() -> None:
    batches, epoch = dealt(4)
    assert len(epoch) == 5
    for member in range(2):
        counted = []
        for runs in epoch:
            assert (runs.before, runs.valid.shape[-1]) == (4, 8)
            for line, kept in zip(runs.rows.reward[member].long(), runs.valid[member], strict=True):
                warm, run = line[:4][kept[:4]], line[4:][kept[4:]]
                both = torch.cat([warm, run])
                assert both.tolist() == list(range(int(both[0]), int(both[-1]) + 1))
                assert len(EPISODE[both].unique()) == 1
                assert len(warm) == min(4, int(PLACE[run[0]]))
                counted += run.tolist()
        drawn = batches.drawn[member][0].tolist()
        assert all(counted.count(row) >= drawn.count(row) for row in range(50))


def runs_of(batch: Batch, valid: list[list[bool]], before: int) -> Runs:
    """Lines of consecutive rows, the same for two members."""
    table = torch.arange(len(batch.obs)).view(len(valid), -1)
    rows = Batch(*(column[table].expand(2, *table.shape, *column.shape[1:]) for column in batch))
    return Runs(rows, torch.tensor(valid).expand(2, *table.shape), before)


def test_states_of_a_run_by_hand_find_the_initial_state_at_the_beginning() -> None:
    obs = torch.tensor([9.0, 1, 2, 3, 1, 1, 1, 1]).unsqueeze(-1)
    nothing = torch.zeros(8)
    rows = Batch(obs, 0 * obs, nothing, obs, nothing.bool())
    runs = runs_of(rows, [[False, True, True, True], [True, True, True, False]], 2)
    found = states(Summing(unit_spec(), 2), runs)
    # the first run begins with its second row: 1 before 2, 1 + 2 before 3; halved, and doubled for member 1
    assert found[0, :, :, 0].tolist() == [[0.5, 1.5], [1.0, 1.5]]
    assert found[1, :, :, 0].tolist() == [[1.0, 3.0], [2.0, 3.0]]


class Counting(Summing):
    """Notes what its loss is given."""

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        assert hidden is not None
        self.told = batch.reward, hidden[..., 0]
        return super().loss(batch, hidden)


def test_the_loss_is_of_rows_that_count_each_with_its_own_state() -> None:
    rows = linear_world(8, 0)._replace(reward=torch.arange(8.0))
    rows = rows._replace(obs=torch.ones(8, 1), next_obs=torch.ones(8, 1))
    model = Counting(unit_spec(), 2)
    runs = runs_of(rows, [[True, True, True, True], [False, True, True, False]], 2)
    loss = remembered_loss(model, runs)
    assert loss.shape == (2,)
    reward, hidden = model.told
    assert sorted(reward[0].tolist()) == [2.0, 2.0, 3.0, 6.0]  # row 2 again in the place of padding
    expected = {2.0: 1.0, 3.0: 1.5, 6.0: 0.5}
    assert hidden[0].tolist() == [expected[row] for row in reward[0].tolist()]
    assert hidden[1].tolist() == [2 * expected[row] for row in reward[1].tolist()]


def test_gradients_reach_the_unit_through_the_rows_before() -> None:
    data = oscillator(4, 12, 0)
    with seeded(0, "test"):
        model = RecurrentEnsemble(data.spec(torch.arange(4)), members=2, elites=1, state=3, hidden=4, layers=1)
    batches = BootstrapBatches(Whole(data.batch(), data.episode), 2, seed=0, batch_size=12, memory=4)
    runs = next(iter(batches))
    assert isinstance(runs, Runs)
    remembered_loss(model, runs)[0].backward()
    for parameter in model.gru.parameters():
        assert parameter.grad is not None
        assert parameter.grad[0].abs().sum() > 0
        assert parameter.grad[1].eq(0).all()


def test_holdout_score_by_hand_uses_the_states() -> None:
    data = sums([4, 1, 3])
    model = Summing(data.spec(torch.arange(3)), 2)
    runs, recall = held_runs(data.batch(), data.episode, 1), Recall(data.batch(), data.episode)
    score = Lookahead(model.spec, 1).score(model, runs, recall)
    errors = [0.0, 0.5, 0.75, 1.25, 0.0, 0.0, 1.5, 1.75]  # of member 1, which says twice the state
    mean = sum(e * e for e in errors) / 8
    assert score.tolist() == pytest.approx([NEGLIGIBLE, math.sqrt((mean + NEGLIGIBLE) * NEGLIGIBLE)], rel=1e-4)


def test_what_cannot_be_fitted_is_refused() -> None:
    data = sums([4, 1, 3])
    rows = data.batch()
    model = Summing(data.spec(torch.arange(3)))
    with pytest.raises(ValueError, match="multistep is 5, and Summing remembers: it is fitted one step ahead"):
        fit_dynamics(model, Whole(rows, data.episode), rows, data.episode, seed=0, multistep=5)
    with pytest.raises(ValueError, match="Summing remembers and holdout_episode is not given"):
        fit_dynamics(model, Whole(rows, data.episode), rows, seed=0)
    model.initial = lambda rows: None  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(TypeError, match="memory of Summing is 4, and it gives no state"):
        fit_dynamics(model, Whole(rows, data.episode), rows, data.episode, seed=0)


def fitted(model: type[Dynamics], **arguments: int) -> tuple[Simulator, float, float]:
    """A fit on the oscillator: its error 5 steps on, and the coverage of its 90 % interval for the position."""
    data = oscillator(90, 40, 0)
    learn, held, measure = data.split((0.5, 0.25, 0.25), 0)
    spec, rows, other, rest = data.spec(learn), *(data.rows(side) for side in (learn, held, measure))
    with seeded(0, "test"):
        made = model(spec, members=2, elites=2, hidden=32, layers=1, reward_network=[8], **arguments)
    sides = (Whole(data.batch(rows), data.episode[rows]), data.batch(other), data.episode[other])
    fit_dynamics(made, *sides, seed=0, lr=5e-3, batch_size=256, max_epochs=20, patience=20)
    simulator = Simulator(made, spec, ensemble_std)
    simulator.calibrate(data.batch(other), data.episode[other])
    rng = generator(0, "test")
    followed = open_loop(simulator, data, start_rows(data, measure, 100, 5, rng), 5, 10, rng)
    seen = one_step(simulator, [(simulator.recalibration, look(simulator, data.batch(rest), rng, data.episode[rest]))])
    return simulator, float(followed.error()[-1, 0]), float(seen["coverage"]["90%"][0])


def test_what_was_not_logged_is_remembered() -> None:
    _, blind, _ = fitted(ProbabilisticEnsemble)
    _, error, covered = fitted(RecurrentEnsemble, state=8, memory=6)
    assert blind > 0.5  # of a position that varies by 0.8
    assert error < 0.3 * blind
    assert 0.86 < covered < 0.94
