"""What a learner is left with goes on on another device than the one it was trained on."""

from dataclasses import replace
from typing import Any

import torch
from weather_world import Rest, driven

from mbrl.core import Batch, Learner, Policy, Spec, World, descend, generator
from mbrl.heritage import Heritage, _restore

DATA = driven()


class Single(Learner):
    """A number that becomes the mean reward, by an Adam that is not fused."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.level = torch.nn.Parameter(torch.zeros(()))
        self.optimizers["level"] = torch.optim.Adam([self.level], 0.1)
        self._policy = Rest(spec)

    @property
    def policy(self) -> Policy:
        return self._policy

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, torch.Tensor]:
        loss = (real.reward - self.level).square().mean()
        descend(self.optimizers["level"], loss)
        return {"loss": loss.detach()}


def test_a_learner_whose_updates_were_cuda_graphs_goes_on_without_them() -> None:
    first, second = (Single(DATA.spec(torch.arange(DATA.episodes))) for _ in range(2))
    first.update(DATA.batch(), None, generator(0, "update"))
    state: dict[str, Any] = first.optimizers["level"].state_dict()
    state["param_groups"][0]["capturable"] = True  # as `mbrl.training.capture.CudaGraphs` leaves it
    content = {"state_dict": first.state_dict(), "optimizers": {"level": state}}
    _restore(second, content, DATA, torch.arange(DATA.episodes), None)
    assert second.optimizers["level"].state_dict()["state"][0]["step"] == 1
    before = second.level.detach().clone()
    second.update(DATA.batch(), None, generator(0, "update"))
    assert not torch.equal(second.level, before)


def test_what_was_learned_from_the_best_episodes_goes_on_with_these() -> None:
    """Episode 3 is the best of all, and was not learned from."""
    data, episodes = driven((6, 4, 9, 5)), torch.tensor([0, 1, 2])
    data = replace(data, reward=torch.tensor([1.0, 3.0, 2.0, 4.0])[data.episode] / data.lengths[data.episode])

    def lessons(best: float) -> list[int]:
        left: Any = Heritage(*[None] * 4, {"best": best}, {}, None, data, episodes, "")  # type: ignore[arg-type]
        return left.lessons().tolist()

    assert lessons(1.0) == [0, 1, 2]
    assert lessons(4 / 19) == [1]
    assert lessons(5 / 19) == [1, 2]
