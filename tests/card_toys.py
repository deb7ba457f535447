"""A report card of a small world, whose channel has a name that is markup."""

import torch
from dynamics_toys import Known, unit_spec

from mbrl.core import generator
from mbrl.data.dataset import TransitionDataset
from mbrl.simulator.card import Card, report_card
from mbrl.simulator.simulator import Simulator

ABOUT = {
    "simulator": "mill-simulator/3",
    "model": "dynamics.ProbabilisticEnsemble",
    "members": 3,
    "elites": 3,
    "recalibration": "isotonic",
    "fitted_on": "acme/mill-v0",
    "fitted_on_fingerprint": "f" * 64,
    "seed": 0,
    "versions": {"torch": "2.13.0"},
}


def mill_card() -> Card:
    count, rng = 60, generator(0, "test")
    obs = torch.randn(count, 1, generator=rng)
    data = TransitionDataset.create(
        "acme/mill-v0",
        obs=obs,
        action=torch.zeros_like(obs),
        reward=obs[:, 0],
        next_obs=obs + 2 + torch.randn(count, 1, generator=rng),
        terminated=torch.arange(count) % 20 == 19,
        truncated=torch.zeros(count, dtype=torch.bool),
        episode=torch.arange(count) // 20,
        discrete=False,
        action_low=[-1.0],
        action_high=[1.0],
        channels=["<b>level</b> $\\x$"],
        units=["m"],
    )
    spec = unit_spec(terminals=True)
    simulator = Simulator(Known(spec, chances=(0.1, 0.2, 0.3)), spec)
    simulator.calibrate(data.batch(data.rows(torch.tensor([0]))))
    about = dict(ABOUT)
    return report_card(
        simulator, data, torch.tensor([1, 2]), calibrated_on=torch.tensor([0]), seed=0, about=about, horizon=5
    )
