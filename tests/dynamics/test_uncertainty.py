import pytest
import torch

from dynamics.uncertainty import ensemble_std, max_aleatoric, max_pairwise, mixture_std
from mbrl.core import Prediction

# two members, one row, one observation; scale 10 of the observation and 0.5 of the reward
PREDICTION = Prediction(
    obs=torch.tensor([[[10.0]], [[40.0]]]),  # 1 and 4 in units of the scale
    obs_std=torch.tensor([[[30.0]], [[20.0]]]),  # 3 and 2
    reward=torch.tensor([[2.0], [4.0]]),  # 4 and 8
    reward_std=torch.tensor([[2.0], [0.0]]),  # 4 and 0
    scale=torch.tensor([10.0, 0.5]),
)


def test_by_hand() -> None:
    assert max_aleatoric(PREDICTION).tolist() == pytest.approx([5.0])  # (3, 4) against (2, 0)
    assert ensemble_std(PREDICTION).tolist() == pytest.approx([2.5])  # (1.5, 2) about (2.5, 6)
    assert max_pairwise(PREDICTION).tolist() == pytest.approx([5.0])  # (1, 4) to (4, 8)
    # the mean of 9 and 4, the variance of 1 and 4; the mean of 16 and 0, the variance of 4 and 8
    assert mixture_std(PREDICTION).tolist() == pytest.approx([(6.5 + 2.25 + 8.0 + 4.0) ** 0.5])


@pytest.mark.parametrize("uncertainty", [max_aleatoric, ensemble_std, max_pairwise, mixture_std])
def test_units_of_a_channel_do_not_matter(uncertainty) -> None:
    factor = 1e4
    scaled = PREDICTION._replace(
        obs=PREDICTION.obs * factor, obs_std=PREDICTION.obs_std * factor, scale=torch.tensor([10.0 * factor, 0.5])
    )
    torch.testing.assert_close(uncertainty(scaled), uncertainty(PREDICTION))


def test_rows_are_compared_with_themselves_only() -> None:
    # both members agree on each of two rows that differ from each other: no disagreement
    obs = torch.tensor([[[1.0], [100.0]], [[1.0], [100.0]]])
    agreed = Prediction(obs, 0 * obs, obs[..., 0], 0 * obs[..., 0], torch.ones(2))
    assert max_pairwise(agreed).tolist() == [0.0, 0.0]
    assert ensemble_std(agreed).tolist() == [0.0, 0.0]


def test_one_member_never_disagrees() -> None:
    alone = Prediction(*(t[:1] for t in PREDICTION[:4]), PREDICTION.scale)
    assert ensemble_std(alone).tolist() == [0.0]
    assert max_pairwise(alone).tolist() == [0.0]
