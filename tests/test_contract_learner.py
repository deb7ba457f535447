"""The checkers of learners and policies find broken promises, and say which."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rehearsal_toys import SPEC
from torch import Tensor, nn

from mbrl.core import Batch, Learner, Policy, Spec, World, descend
from mbrl.testing import check_learner, check_policy


class Squashed(Policy):
    """tanh of a linear layer, to the bounds."""

    reach: Tensor

    def __init__(self, spec: Spec, act: Any = "tanh") -> None:
        super().__init__(spec)
        self.layer = nn.Linear(spec.obs_dim, spec.action_dim)
        self.squash = act
        self.register_buffer("reach", torch.tensor(spec.action_high))

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        del rng
        return torch.tanh(self.layer(obs)) * self.reach


class Loose(Squashed):
    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        del rng
        return 0.1 * self.layer(obs)


class Lost(Squashed):
    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        return super().act(obs, rng) * torch.nan


class Fine(Learner):
    """Climbs to actions of which the reward is the first channel, by nobody's reason."""

    def __init__(self, spec: Spec, fused: bool = True) -> None:
        super().__init__(spec)
        self._policy = Squashed(spec)
        self.optimizers["actor"] = torch.optim.Adam(self._policy.parameters(), 1e-3, fused=fused)

    @property
    def policy(self) -> Policy:
        return self._policy

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del imagined, rng, simulator
        loss = (self._policy.act(real.obs, None) - real.action).square().mean()
        descend(self.optimizers["actor"], loss)
        return {"loss": loss.detach()}


class ReadsDreams(Fine):
    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        assert imagined is not None, "this learner needs imagined rows"
        return super().update(real, imagined, rng, simulator)


class Waking(ReadsDreams):
    imagines = False


class Scribbling(Fine):
    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        real.reward.mul_(0.5)
        return super().update(real, imagined, rng, simulator)


class Silent(Fine):
    def update(self, *arguments: Any) -> Any:
        super().update(*arguments)


def test_good_ones_pass() -> None:
    check_policy(Squashed(SPEC))
    check_learner(Fine, SPEC)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Loose, "mode 100 times as far out: outside the bounds, .*clamp it, or squash"),
        (Lost, "mode: not finite"),
        (
            lambda spec: Squashed(spec, act=nn.Tanh),
            "the argument act is <class .*Tanh'>, and a checkpoint holds numbers",
        ),
    ],
)
def test_a_broken_promise_of_a_policy_is_named(policy: Callable[[Spec], Policy], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_policy(policy(SPEC))


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (
            lambda spec: Fine(spec, fused=False),
            "makes the host wait for the device: .*give an optimiser of torch fused",
        ),
        (ReadsDreams, "this learner needs imagined rows"),
        (Waking, "this learner needs imagined rows"),
        (Scribbling, "update changes reward of the rows that it is given"),
        (Silent, "update returns NoneType, expected a dict of metrics"),
        (Fine(SPEC), "check_learner takes the class, or a function"),
    ],
)
def test_a_broken_promise_of_a_learner_is_named(learner: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_learner(learner, SPEC)
