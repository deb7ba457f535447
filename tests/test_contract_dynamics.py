"""The contract tester accepts a good model and names the promise that a bad one breaks."""

from collections.abc import Callable

import pytest
import torch
from dynamics_toys import Known, unit_spec
from torch import Tensor, nn

from mbrl.core import Batch, Dynamics, Prediction, Spec
from mbrl.testing import check_dynamics

SPEC = unit_spec(2, terminals=True)


class Fine(Known):
    """`Known`, with a loss that moves each member's own parameter."""

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        return (self.weight - batch.reward.mean(-1, keepdim=True)).square().squeeze(-1)


class Shared(Fine):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.common = nn.Parameter(torch.zeros(2))


class RepeatedElites(Fine):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.elites = torch.tensor([1, 1])


class MeanLoss(Fine):
    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        return super().loss(batch).mean()


class EntangledLoss(Fine):
    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        losses = super().loss(batch)
        return losses + losses.sum()


class BranchingLoss(Fine):
    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        losses = super().loss(batch)
        return losses if losses.sum() > 0 else -losses


class DeafToMembers(Fine):
    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        return super().predict(obs, action, None if members is None else torch.arange(len(members)))


class OneRowForAll(Fine):
    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        return super().predict(obs if obs.dim() == 2 else obs[:1].expand_as(obs), action, members)


class Flat(Fine):
    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        prediction = super().predict(obs, action, members)
        return prediction._replace(reward=prediction.reward.unsqueeze(-1))


class Random(Fine):
    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        return super().predict(obs + torch.rand(()), action, members)


class Logit(Fine):
    def termination(
        self, obs: Tensor, action: Tensor, next_obs: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        return super().termination(obs, action, next_obs, members) - 1


class Forgetful(Fine):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.secret = torch.rand(())  # in no buffer, so in no checkpoint

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        return super().predict(obs + self.secret, action, members)


class Closed(Fine):
    """A model in closed form, which nothing can be fitted of."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.requires_grad_(False)


def test_a_good_model_passes_as_a_class_and_as_an_instance() -> None:
    check_dynamics(Fine, SPEC)
    check_dynamics(Fine(SPEC, members=1), SPEC)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Shared, r"parameter common has shape \[2\], expected \[3, ...\]"),
        (RepeatedElites, r"elites \[1, 1\] repeat a member"),
        (MeanLoss, r"loss has shape \[\], expected \[3\]"),
        (EntangledLoss, "moves the other members' part of parameter weight"),
        (BranchingLoss, "makes the host wait"),
        (DeafToMembers, "predict with `members` is not what these members say"),
        (OneRowForAll, "a member does not read its own rows"),
        (Flat, r"Prediction.reward has shape \[3, 6, 1\], expected \[3, 6\]"),
        (Random, "predict differs between two equal calls"),
        (Logit, "termination is not a probability"),
        (Forgetful, "rebuilt from config and state_dict differs"),
        (Closed, "there is no parameter to train, and a fit is gradient descent"),
    ],
)
def test_a_broken_promise_is_named(model: Callable[[Spec], Dynamics], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_dynamics(model, SPEC)
