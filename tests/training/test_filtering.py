"""The best share of a log, by hand."""

import pytest
import torch

from mbrl.bench import hopper_sized
from mbrl.core import seeded
from mbrl.training.filtering import best_rows
from mbrl.training.policy import fit_policy
from policies import BC

# three episodes of 2, 3 and 5 rows with returns 3, 9 and 5
REWARD = torch.tensor([1.0, 2.0, 3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0])
ENDS = torch.tensor([0, 1, 0, 0, 1, 0, 0, 0, 0, 1], dtype=torch.bool)


@pytest.mark.parametrize(
    ("share", "rows"),
    [
        (0.01, [2, 3, 4]),  # at least one episode
        (0.3, [2, 3, 4]),
        (0.31, [2, 3, 4, 5, 6, 7, 8, 9]),  # whole episodes, until they hold the share
        (0.8, [2, 3, 4, 5, 6, 7, 8, 9]),
        (0.81, list(range(10))),
    ],
)
def test_whole_episodes_of_the_highest_return_until_they_hold_the_share(share: float, rows: list[int]) -> None:
    chosen = best_rows(REWARD, ENDS, share)
    assert chosen is not None
    assert chosen.tolist() == rows


def test_a_log_that_ends_within_an_episode_counts_its_rows() -> None:
    ends = ENDS.clone()
    ends[-1] = False
    chosen = best_rows(torch.where(torch.arange(10) > 4, 9.0, REWARD), ends, 0.2)
    assert chosen is not None
    assert chosen.tolist() == [5, 6, 7, 8, 9]


def test_the_whole_log_needs_no_ends_and_leaves_nothing_out() -> None:
    assert best_rows(REWARD, None, 1.0) is None


@pytest.mark.parametrize(("share", "ends"), [(0.0, ENDS), (1.5, ENDS), (float("nan"), ENDS), (0.5, None)])
def test_a_share_that_cannot_be_is_named(share: float, ends: torch.Tensor | None) -> None:
    with pytest.raises(ValueError, match=f"best is {share}"):
        best_rows(REWARD, ends, share)


def test_cloning_the_best_episodes_is_cloning_them() -> None:
    """Two drivers in one log, by turns of 20 rows: the better one steers to 0.5, the worse one to -0.5."""
    spec, rows = hopper_sized(400, 0)
    good = torch.arange(400) // 20 % 2 == 0
    action = torch.where(good, 0.5, -0.5).unsqueeze(-1).expand_as(rows.action)
    real = rows._replace(action=action, reward=torch.where(good, 1.0, 0.0))
    with seeded(0, "test"):
        learner = BC(spec, hidden=[16])
    ends = torch.arange(400) % 20 == 19
    fit_policy(learner, real, ends=ends, updates=300, batch_size=64, real_ratio=1.0, best=0.5)
    assert (learner.policy.act(rows.obs[good], None) - 0.5).abs().mean() < 0.1
