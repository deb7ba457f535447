"""A small training for tests of the loop: a learner, a simulator, their settings, and a learner that learns nothing."""

import torch
from torch import Tensor

from mbrl.bench import hopper_sized
from mbrl.core import Batch, Learner, Policy, Spec, World, seeded
from mbrl.simulator.simulator import Simulator
from mbrl.training.policy import fit_policy

SPEC, ROWS = hopper_sized(200, 0)
SHORT = {"batch_size": 16, "horizon": 2, "rollout_every": 7, "rollout_starts": 10, "keep_rollouts": 2}


def parts() -> tuple[Learner, Simulator]:
    from dynamics import ProbabilisticEnsemble
    from dynamics.uncertainty import ensemble_std
    from policies import SAC

    with seeded(0, "test"):
        learner = SAC(SPEC, hidden=(16, 16))
        model = ProbabilisticEnsemble(SPEC, members=3, elites=2, hidden=8, layers=1)
    simulator = Simulator(model, SPEC, ensemble_std)
    simulator.calibrate(ROWS)
    return learner, simulator


def weights(learner: Learner) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in learner.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def straight(updates: int) -> dict[str, Tensor]:
    learner, simulator = parts()
    fit_policy(learner, ROWS, simulator, updates=updates, **SHORT)
    return weights(learner)


class Constant(Policy):
    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        return obs.new_zeros(len(obs), self.spec.action_dim)


class Spy(Learner):
    """Learns nothing; remembers the rows it was shown."""

    def __init__(self, spec: Spec, poison: bool = False) -> None:
        super().__init__(spec)
        self.poison, self.seen = poison, []
        self._policy = Constant(spec)

    @property
    def policy(self) -> Policy:
        return self._policy

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        self.seen.append((len(real.reward), 0 if imagined is None else len(imagined.reward)))
        return {"loss": torch.tensor(float("nan") if self.poison else 0.0)}
