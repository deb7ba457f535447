import torch
from dynamics_toys import linear_world

from mbrl.core import Batch, generator
from mbrl.training.bootstrap import BootstrapBatches, bootstrap_rows

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
        assert bootstrap_rows(EPISODE, rng).tolist() == expected
        repeated += len(set(drawn)) < 4
    assert repeated > 10


def test_rows_of_an_episode_need_not_be_neighbours() -> None:
    rows = bootstrap_rows(torch.tensor([1, 0, 1, 0, 1]), generator(0, "test"))
    assert sorted(rows.tolist()) in ([1, 1, 3, 3], [0, 1, 2, 3, 4], [0, 0, 2, 2, 4, 4])


def test_an_epoch_is_each_members_rows_in_its_own_order() -> None:
    batches = BootstrapBatches(numbered(100), torch.arange(100), members=3, seed=1, batch_size=10)
    assert len(batches) == 10
    batch = [b.reward for b in batches]
    assert all(reward.shape == (3, 10) for reward in batch)
    seen = torch.cat(batch, 1)
    for member in range(3):
        assert sorted(seen[member].long().tolist()) == sorted(batches.rows[member].tolist())
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(batches.rows[0], batches.rows[1])


def test_columns_of_a_batch_belong_together() -> None:
    rows = numbered(50)
    batch = next(iter(BootstrapBatches(rows, torch.arange(50), members=2, seed=0, batch_size=8)))
    index = batch.reward.long()
    assert batch.obs.shape == (2, 8, 2)
    assert torch.equal(batch.obs, rows.obs[index])
    assert torch.equal(batch.next_obs, rows.next_obs[index])
    assert torch.equal(batch.action, rows.action[index])
    assert torch.equal(batch.terminated, rows.terminated[index])


def test_an_epoch_is_decided_by_its_number_alone() -> None:
    def epoch(number: int) -> torch.Tensor:
        batches = BootstrapBatches(numbered(30), torch.arange(30), members=2, seed=5, batch_size=7)
        batches.epoch = number
        return torch.cat([b.reward for b in batches], 1)

    assert torch.equal(epoch(4), epoch(4))
    assert not torch.equal(epoch(4), epoch(5))


def test_a_member_with_fewer_rows_than_an_epoch_sees_some_again() -> None:
    episode = torch.tensor([0] * 90 + [1] * 2)
    batches = BootstrapBatches(numbered(92), episode, members=40, seed=0, batch_size=46)
    shortest = min(range(40), key=lambda member: len(batches.rows[member]))
    assert len(batches.rows[shortest]) == 4  # the short episode twice
    seen = torch.cat([b.reward for b in batches], 1)[shortest]
    assert seen.long().bincount()[90:].tolist() == [46, 46]


def test_ranks_divide_the_rows_of_an_epoch() -> None:
    def seen(rank: int, world: int) -> list[int]:
        size = 10 // world
        batches = BootstrapBatches(numbered(20), torch.arange(20), 1, seed=2, batch_size=size, rank=rank, world=world)
        assert len(batches) == 2
        return torch.cat([b.reward for b in batches], 1)[0].long().tolist()

    assert sorted(seen(0, 2) + seen(1, 2)) == sorted(seen(0, 1))
