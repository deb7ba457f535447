import torch
from dynamics_toys import linear_world

from mbrl.core import Batch, generator
from mbrl.data.source import Whole
from mbrl.training.bootstrap import BootstrapBatches, Dealt, Spans, held_runs

EPISODE = torch.tensor([5, 5, 7, 9, 9, 9, 2, 2, 2, 2])


def numbered(rows: int) -> Batch:
    """Rows that carry their own number as the reward."""
    return linear_world(rows, 0)._replace(reward=torch.arange(float(rows)))


def test_whole_episodes_are_drawn_with_replacement() -> None:
    rng, same = generator(3, "test"), generator(3, "test")
    spans = {2: [6, 7, 8, 9], 5: [0, 1], 7: [2], 9: [3, 4, 5]}
    repeated = 0
    for _ in range(20):
        drawn = [(2, 5, 7, 9)[i] for i in torch.randint(4, (4,), generator=same).tolist()]
        expected = [row for number in drawn for row in spans[number]]
        rows, place = Spans(EPISODE).rows(torch.tensor([2, 5, 7, 9])[torch.randint(4, (4,), generator=rng)])
        assert rows.tolist() == expected
        assert place.tolist() == [i for number in drawn for i in range(len(spans[number]))]
        repeated += len(set(drawn)) < 4
    assert repeated > 10


def test_rows_of_an_episode_need_not_be_neighbours() -> None:
    rows, _ = Spans(torch.tensor([1, 0, 1, 0, 1])).rows(torch.randint(2, (2,), generator=generator(0, "test")))
    assert sorted(rows.tolist()) in ([1, 1, 3, 3], [0, 1, 2, 3, 4], [0, 0, 2, 2, 4, 4])


def test_an_epoch_is_each_members_rows_in_its_own_order() -> None:
    batches = BootstrapBatches(Whole(numbered(100)), members=3, seed=1, batch_size=10)
    assert len(batches) == 10
    batch = [b.rows.reward for b in batches]
    assert all(reward.shape == (3, 10) for reward in batch)
    seen = torch.cat(batch, 1)
    for member in range(3):
        assert sorted(seen[member].long().tolist()) == sorted(batches.drawn[member][0].tolist())
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(batches.drawn[0][0], batches.drawn[1][0])


def test_a_short_epoch_is_several_permutations() -> None:
    batches = BootstrapBatches(Whole(numbered(100)), members=2, seed=1, batch_size=10, epoch_updates=25)
    assert len(batches) == 30
    seen = torch.cat([b.rows.reward for b in batches], 1).long()
    assert seen.shape == (2, 300)
    for member in range(2):
        drawn = sorted(batches.drawn[member][0].tolist())
        assert all(sorted(part) == drawn for part in seen[member].view(3, 100).tolist())
    assert not torch.equal(seen[:, :100], seen[:, 100:200])


def test_columns_of_a_batch_belong_together() -> None:
    rows = numbered(50)
    batch = next(iter(BootstrapBatches(Whole(rows), members=2, seed=0, batch_size=8))).rows
    index = batch.reward.long()
    assert batch.obs.shape == (2, 8, 2)
    assert torch.equal(batch.obs, rows.obs[index])
    assert torch.equal(batch.next_obs, rows.next_obs[index])
    assert torch.equal(batch.action, rows.action[index])
    assert torch.equal(batch.terminated, rows.terminated[index])


def test_an_epoch_is_decided_by_its_number_alone() -> None:
    def epoch(number: int) -> torch.Tensor:
        batches = BootstrapBatches(Whole(numbered(30)), members=2, seed=5, batch_size=7)
        batches.epoch = number
        return torch.cat([b.rows.reward for b in batches], 1)

    assert torch.equal(epoch(4), epoch(4))
    assert not torch.equal(epoch(4), epoch(5))


def test_a_member_with_fewer_rows_than_an_epoch_sees_some_again() -> None:
    episode = torch.tensor([0] * 90 + [1] * 2)
    batches = BootstrapBatches(Whole(numbered(92), episode), members=40, seed=0, batch_size=46)
    shortest = min(range(40), key=lambda member: len(batches.drawn[member][0]))
    assert len(batches.drawn[shortest][0]) == 4  # the short episode twice
    seen = torch.cat([b.rows.reward for b in batches], 1)[shortest]
    assert seen.long().bincount()[90:].tolist() == [46, 46]


def test_ranks_divide_the_rows_of_an_epoch() -> None:
    def seen(rank: int, world: int) -> list[int]:
        size = 10 // world
        batches = BootstrapBatches(Whole(numbered(20)), 1, seed=2, batch_size=size, rank=rank, world=world)
        assert len(batches) == 2
        return torch.cat([b.rows.reward for b in batches], 1)[0].long().tolist()

    assert sorted(seen(0, 2) + seen(1, 2)) == sorted(seen(0, 1))


LENGTHS = torch.tensor([7, 1, 12, 3, 20, 7])


def dealt(epoch: int = 0, horizon: int = 5, members: int = 2) -> tuple[BootstrapBatches, list[Dealt]]:
    """Batches of 10 of 50 rows in six episodes."""
    episode = torch.arange(6).repeat_interleave(LENGTHS)
    batches = BootstrapBatches(Whole(numbered(50), episode), members, seed=0, batch_size=10, horizon=horizon)
    batches.epoch = epoch
    return batches, list(batches)


def lines(batch: Dealt, member: int) -> list[list[int]]:
    """The row numbers in each run of a member."""
    assert batch.runs is not None
    rows, valid = batch.runs.rows.reward[member].long(), batch.runs.valid[member]
    return [line[kept].tolist() for line, kept in zip(rows, valid, strict=True) if kept.any()]


def test_one_step_ahead_an_epoch_is_a_plain_permutation() -> None:
    batches, epoch = dealt(horizon=1, members=3)
    rng = generator(0, "batches/0")
    for member in range(3):
        rows = batches.drawn[member][0]
        rounds = -(-50 // len(rows))
        order = torch.cat([torch.randperm(len(rows), generator=rng) for _ in range(rounds)])[:50]
        assert torch.cat([b.rows.reward[member] for b in epoch]).long().equal(rows[order])
    assert [b.runs for b in epoch] == [None] * 5


def test_with_a_horizon_the_rows_are_dealt_as_without_and_once_more_as_runs() -> None:
    (batches, epoch), (_, plain) = dealt(), dealt(horizon=1)
    episode, whole = torch.arange(6).repeat_interleave(LENGTHS), 0
    for batch, other in zip(epoch, plain, strict=True):
        assert batch.rows.reward.equal(other.rows.reward)
        assert batch.runs is not None
        assert batch.runs.rows.obs.shape == (2, *epoch[0].runs.valid.shape[1:], 2)
    for member in range(2):
        drawn = batches.drawn[member][0].tolist()
        runs = [run for batch in epoch for run in lines(batch, member)]
        for run in runs:
            assert run == list(range(run[0], run[0] + len(run)))
            assert len(episode[run].unique()) == 1
        seen = [row for run in runs for row in run]
        assert all(seen.count(row) >= drawn.count(row) for row in range(50))
        whole += sum(len(run) == 5 for run in runs)
    assert whole >= 6


def test_padding_repeats_the_last_row_of_a_run() -> None:
    for batch in dealt()[1]:
        assert batch.runs is not None
        rows, valid = batch.runs.rows.reward, batch.runs.valid
        last = rows.gather(-1, valid.sum(-1, keepdim=True) - 1)
        assert torch.where(valid, last, rows).equal(last.expand_as(rows))


def test_episodes_are_cut_elsewhere_in_every_epoch() -> None:
    starts = [{run[0] for batch in dealt(number)[1] for run in lines(batch, 0)} for number in range(2)]
    assert starts[0] != starts[1]
    assert [lines(b, 0) for b in dealt(3)[1]] == [lines(b, 0) for b in dealt(3)[1]]


def test_ranks_divide_the_runs_of_an_epoch() -> None:
    def seen(rank: int, world: int) -> list[list[int]]:
        episode = torch.arange(6).repeat_interleave(LENGTHS)
        batches = BootstrapBatches(Whole(numbered(50), episode), 1, 0, 10 // world, horizon=5, rank=rank, world=world)
        return [run for batch in batches for run in lines(batch, 0)]

    assert sorted(seen(0, 2) + seen(1, 2)) == sorted(seen(0, 1))


def test_held_runs_begin_with_the_episode_and_are_padded_at_its_end() -> None:
    runs = held_runs(numbered(7), torch.tensor([4, 4, 4, 4, 4, 1, 1]), 3)
    assert runs.valid.tolist() == [[True, True, False], [True, True, True], [True, True, False]]
    assert runs.rows.reward[runs.valid].tolist() == [5, 6, 0, 1, 2, 3, 4]
    assert runs.rows.obs.shape == (3, 3, 2)
    one = held_runs(numbered(3), torch.tensor([0, 0, 1]), 1)
    assert one.rows.reward.tolist() == [[0], [1], [2]]
    assert one.valid.all()
