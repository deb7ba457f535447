"""A bench in a world that is counted by hand: member e steps from x to x + e + 1 and pays x + 10 e."""

import numpy as np
import torch
from dynamics_toys import Known, unit_spec
from evaluation_toys import Stepped
from torch import Tensor

from mbrl.core import Policy
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.bench import Bench
from mbrl.evaluation.grounds import disagreement
from mbrl.evaluation.modelbased import start_states
from mbrl.registry.gates import CANDIDATE, CLONING
from mbrl.simulator.simulator import Simulator

LENGTHS = (2, 5, 3, 4)


class Always(Policy):
    """One and the same action."""

    def __init__(self, spec: object, action: float = 0.0) -> None:
        super().__init__(spec)
        self.action = torch.nn.Parameter(torch.tensor(action))

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        del rng
        return obs[:, :1] * 0 + self.action.detach()


def log(lengths: tuple[int, ...] = LENGTHS, series: tuple[int, ...] = ()) -> TransitionDataset:
    """Four episodes of 0, 1, 2 ... that pay 1 a step; the last one terminates, the others are cut."""
    rows, count = sum(lengths), len(lengths)
    episode = torch.arange(count).repeat_interleave(torch.tensor(lengths))
    last = torch.cat([episode[:-1] != episode[1:], torch.tensor([True])])
    obs = torch.cat([torch.arange(float(n)) for n in lengths]).unsqueeze(-1)
    return TransitionDataset.create(
        "toy/count-v0",
        obs=obs,
        action=torch.zeros(rows, 1),
        reward=torch.ones(rows),
        next_obs=obs + 1,
        terminated=last & (episode == count - 1),
        truncated=last & (episode < count - 1),
        episode=episode,
        discrete=False,
        action_low=[-1.0],
        action_high=[1.0],
        series=series,
    )


def bench(trusted: int | None = 2, uncertain: bool = False) -> tuple[Bench, dict[str, Policy]]:
    data = log()
    spec = unit_spec()
    simulator = Simulator(Known(spec), spec, disagreement if uncertain else None, trusted_horizon=trusted)
    simulator.dynamics.elites = torch.tensor([2, 0])
    simulator.calibrated = True
    policies: dict[str, Policy] = {CLONING: Always(spec), CANDIDATE: Always(spec, 0.5)}
    made = {policy: Stepped() for policy in (*policies.values(), None)}
    starts = start_states(data, 4, seed=0)
    return Bench(data, torch.arange(4), simulator, starts, 0.5, 0.9, 0, 10, made), policies


def whole(limit: np.ndarray, member: int) -> np.ndarray:
    """From 0: sum over t < L of t (e + 1) + 10 e."""
    return (member + 1) * limit * (limit - 1) / 2 + 10 * member * limit
