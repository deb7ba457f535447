"""Pieces of one series keep together: in blocks, when a log is divided, and in who learns from what."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mbrl.core import generator
from mbrl.data.dataset import TransitionDataset
from mbrl.data.division import divide, halves
from mbrl.data.history import windowed
from mbrl.data.series import Pieces, blocks, evenly, shuffled
from mbrl.data.source import Streamed
from mbrl.evaluation.fitting import Folds
from mbrl.training.bootstrap import BootstrapBatches

Maker = Callable[..., TransitionDataset]


def test_runs_become_equal_parts_of_at_least_a_length() -> None:
    """Of 7, 2 and 4 in parts of 3 or more: 4 and 3, and the shorter ones whole."""
    run = torch.tensor([0] * 7 + [1] * 2 + [2] * 4)
    assert evenly(run, 3).tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3]
    assert evenly(run, 1).tolist() == list(range(13))


def test_a_block_is_the_cubic_root_of_the_pieces_and_ends_with_its_series(toy_data: Maker) -> None:
    data = replace(toy_data((3,) * 27), series=(1, 7, 19))
    assert data.series_of.tolist() == [0] + [1] * 7 + [2] * 19
    found = blocks(data, torch.arange(27))
    assert torch.bincount(found).tolist() == [1, 4, 3, 4, 3, 3, 3, 3, 3]
    assert found.sort().values.equal(found)


def test_a_block_ends_where_other_pieces_lie_between(toy_data: Maker) -> None:
    data = replace(toy_data((3,) * 60), series=(60,))
    some = torch.tensor([*range(10), *range(20, 30), *range(40, 47)])  # 27: blocks of three or more, and whole runs
    assert torch.bincount(blocks(data, some)).tolist() == [4, 3, 3, 4, 3, 3, 4, 3]


def test_blocks_are_as_many_as_critics_need_where_there_are_so_many_pieces(toy_data: Maker) -> None:
    """Blocks of two would be three here, and four folds of two need eight."""
    data = replace(toy_data((3,) * 40), series=(40,))
    assert blocks(data, torch.tensor([0, 1, 2, 10, 11, 12, 20, 21])).tolist() == list(range(8))
    for pieces in range(8, 200, 3):
        for start in (0, 1, 2):
            whole = replace(toy_data((1,) * pieces), series=(pieces - start, start) if start else (pieces,))
            judge = whole.split((0.5, 0.5), seed=pieces)[1]
            assert int(blocks(whole, judge)[-1]) + 1 >= min(8, len(judge))


def test_episodes_that_are_no_pieces_are_blocks_of_their_own(toy_data: Maker) -> None:
    data = toy_data((3,) * 30)
    some = torch.tensor([3, 4, 5, 9])
    assert blocks(data, some).tolist() == [0, 1, 2, 3]
    assert shuffled(data, some, generator(1, "x")).equal(some[torch.randperm(4, generator=generator(1, "x"))])
    assert Pieces.of(data) is None


def test_a_division_keeps_neighbours_together(toy_data: Maker) -> None:
    """Of 64 pieces in blocks of 4, at most one block for each border between two sides is divided."""
    data = replace(toy_data((3,) * 64), series=(64,))
    for seed in range(5):
        sides = data.split((0.7, 0.1, 0.2), seed)
        assert [len(side) for side in sides] == [45, 6, 13]
        assert torch.cat(sides).sort().values.tolist() == list(range(64))
        side = torch.empty(64, dtype=torch.long)
        for k, own in enumerate(sides):
            side[own] = k
        split = [len(block.unique()) > 1 for block in side.view(16, 4)]
        assert sum(split) <= 2
        division = divide(data, (0.2, 0.3, 0.5), seed, needs_terminals=False)
        assert torch.cat(division).sort().values.tolist() == list(range(64))
    one, other = halves(data, torch.arange(20, 36), 0)  # blocks of two
    for side in (one.view(4, 2), other.view(4, 2)):
        assert side.diff().tolist() == [[1]] * 4
        assert (side[:, 0] % 2).tolist() == [0] * 4


def test_members_of_an_ensemble_draw_whole_blocks(toy_data: Maker) -> None:
    data = replace(toy_data((2,) * 64), series=(64,))
    streamed = Streamed(data, torch.arange(64), resident=1 << 20, seed=0)
    dealt = BootstrapBatches(streamed, 5, seed=0, batch_size=16)
    for drawn in dealt.bootstraps:
        counts = torch.bincount(drawn, minlength=64).view(16, 4)
        assert counts.eq(counts[:, :1]).all()
        assert 4 * 8 < len(drawn.unique()) * 2 < 4 * 32
    alone = BootstrapBatches(Streamed(toy_data((2,) * 64), torch.arange(64), resident=1 << 20, seed=0), 1, 0, 16)
    assert alone.bootstraps[0].equal(torch.randint(64, (64,), generator=generator(0, "bootstrap")))


def test_critics_are_kept_from_whole_blocks() -> None:
    block = torch.arange(8).repeat_interleave(3)
    folds = Folds.drawn(block, 8, 4, seed=0)
    for column in (folds.episode, *folds.counts):
        assert column.view(8, 3).eq(column.view(8, 3)[:, :1]).all()
    assert torch.bincount(folds.episode).tolist() == [6, 6, 6, 6]
    assert folds.counts.sum(1).tolist() == [18] * 8
    assert not folds.counts[folds.held(torch.arange(24))].any()


def test_a_log_knows_its_series_with_windows_too_and_by_its_fingerprint(toy_data: Maker) -> None:
    plain = toy_data((3,) * 5)
    data = replace(plain, series=(2, 3))
    assert windowed(data, 2).series == (2, 3)
    assert data._digest() != plain._digest() == plain.fingerprint


def test_a_count_that_is_not_that_of_the_episodes_is_refused(toy_data: Maker) -> None:
    data = toy_data((3, 3))
    fields = {name: getattr(data, name) for name in ("obs", "action", "reward", "next_obs", "terminated")}
    for series in ((1,), (3, -1)):
        with pytest.raises(ValueError, match=r"toy/log-v0: series are of \d episodes, expected counts of 1 or more"):
            TransitionDataset.create(
                data.id,
                **fields,
                truncated=data.truncated,
                episode=data.episode,
                discrete=False,
                action_low=[-1.0],
                action_high=[1.0],
                series=series,
            )
