"""A learner of your own is one file anywhere on the path, used by its dotted path:

    cp examples/03_write_your_own_learner.py my_learner.py
    PYTHONPATH=. mbrl run --learner my_learner.WeightedCloning --data mbrl/pendulum-mediocre-v0

This one clones the better actions of the log: rows are weighted by how much more reward they earned than usual.
Run as a script it checks itself against the contract that every learner has to pass.
"""

import torch
from torch import Tensor

from mbrl.core import Batch, Learner, Policy, Spec, World
from mbrl.testing import check_learner
from policies.actors import Deterministic


class WeightedCloning(Learner):
    """Imitation weighted by exp(sharpness * standardised reward), a one-step form of advantage weighting."""

    imagines = False  # it learns from logged rows only

    def __init__(self, spec: Spec, sharpness: float = 1.0, lr: float = 1e-3) -> None:
        super().__init__(spec)
        self.sharpness = sharpness
        self.actor = Deterministic(spec)
        self.optimizers = {"actor": torch.optim.Adam(self.actor.parameters(), lr, fused=True)}

    @property
    def policy(self) -> Policy:
        return self.actor

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del imagined, rng, simulator
        better = (real.reward - self.spec.reward_mean) / self.spec.reward_std
        weight = torch.softmax(self.sharpness * better, 0)
        error = (self.actor.act(real.obs, None) - real.action).square().sum(-1)
        loss = (weight * error).sum()
        self.optimizers["actor"].zero_grad()
        loss.backward()
        self.optimizers["actor"].step()
        return {"loss": loss.detach()}


if __name__ == "__main__":
    from mbrl.bench import hopper_sized

    check_learner(WeightedCloning, hopper_sized(1, 0)[0])
    print("WeightedCloning honours the learner's contract")
