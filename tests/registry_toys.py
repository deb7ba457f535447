"""A tiny policy and dynamics model that another process can import, and a store of runs and models per test."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mbrl.core import Batch, Dynamics, Policy, Prediction, Spec
from mbrl.registry import promotion
from mbrl.registry.decisions import Decision
from mbrl.registry.lineage import Lineage
from mbrl.registry.runs import RunLog
from mbrl.simulator.simulator import Simulator

LINEAGE = Lineage("toy/line-v0", "f" * 64)


def spec(discrete: bool = False, terminals: bool = True) -> Spec:
    """Three observations, two actions; bounds [-1, 3] and [0, 4] (Box)."""
    return Spec(
        obs_dim=3,
        action_dim=2,
        discrete=discrete,
        action_low=(0.0, 0.0) if discrete else (-1.0, 0.0),
        action_high=(1.0, 1.0) if discrete else (3.0, 4.0),
        action_mean=(0.5, 0.5),
        action_std=(1.0, 1.0),
        obs_mean=(10.0, -5.0, 0.0),
        obs_std=(2.0, 1.0, 0.5),
        obs_low=(6.0, -8.0, -1.0),
        obs_high=(14.0, -2.0, 1.0),
        delta_mean=(0.0, 0.0, 0.0),
        delta_std=(1.0, 1.0, 1.0),
        reward_mean=0.0,
        reward_std=1.0,
        reward_low=-2.0,
        reward_high=2.0,
        terminals=terminals,
        max_episode_steps=10,
    )


class Line(Policy):
    """Action = middle + half range * tanh(gain * first two normalised observations)."""

    def __init__(self, spec: Spec, gain: float = 1.0) -> None:
        super().__init__(spec)
        self.gain = torch.nn.Parameter(torch.tensor(gain))
        for name in ("obs_mean", "obs_std", "action_low", "action_high"):
            self.register_buffer(name, torch.tensor(getattr(spec, name)))

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        del rng
        z = torch.tanh(self.gain * ((obs - self.obs_mean) / self.obs_std)[:, :2])
        if self.spec.discrete:
            return torch.nn.functional.one_hot(z.argmax(-1), 2).float()
        return (self.action_low + self.action_high) / 2 + (self.action_high - self.action_low) / 2 * z


def remembering_spec(discrete: bool = False) -> Spec:
    """Windows of three, of two observations and one action (Discrete: two choices); all moments are 0 and 1."""
    actions = 2 if discrete else 1
    width = 3 * 2 + 2 * actions
    return Spec(
        obs_dim=width,
        action_dim=actions,
        discrete=discrete,
        action_low=(0.0 if discrete else -1.0,) * actions,
        action_high=(1.0,) * actions,
        action_mean=(0.0,) * actions,
        action_std=(1.0,) * actions,
        obs_mean=(0.0,) * width,
        obs_std=(1.0,) * width,
        obs_low=(-9.0,) * width,
        obs_high=(9.0,) * width,
        delta_mean=(0.0,) * width,
        delta_std=(1.0,) * width,
        reward_mean=0.0,
        reward_std=1.0,
        reward_low=-9.0,
        reward_high=9.0,
        terminals=False,
        max_episode_steps=10,
        history=3,
    )


class Recall(Policy):
    """Tells every channel of its window from the others: tanh of their weighted sum, or the larger of two of them."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        weights = torch.linspace(0.1, 0.9, spec.obs_dim * spec.action_dim).view(spec.action_dim, -1)
        self.weights = torch.nn.Parameter(weights * torch.tensor([1.0, -1.0]).repeat(weights.shape[1] // 2))

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        del rng
        score = obs @ self.weights.T
        if self.spec.discrete:
            choice = (torch.tensor([[1.0, 1.4]]) * score).argmax(-1)
            return torch.nn.functional.one_hot(choice, self.spec.action_dim).float()
        return torch.tanh(score)


class Overshoot(Line):
    """Leaves its bounds."""

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        return super().act(obs, rng) + 10


class Fickle(Line):
    """Branches on a number in Python, which no exported program can do."""

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        return super().act(obs, rng) if float(obs.sum()) > 0 else super().act(-obs, rng)


class Rounding(Line):
    """Whose program says something else than the module, by `off` halves of the action's range."""

    def __init__(self, spec: Spec, off: float) -> None:
        super().__init__(spec)
        self.off = off

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        half = (torch.tensor(self.spec.action_high) - torch.tensor(self.spec.action_low)) / 2
        return super().act(obs, rng) * 0.9 + (self.off * half if torch.compiler.is_exporting() else 0 * half)


class Drift(Dynamics):
    """Member e says: next_obs = obs + (e + 1) * sum(action) * speed, reward = e; ends with probability (e + 1) / 10."""

    def __init__(self, spec: Spec, members: int = 3, elites: int = 2, speed: float = 0.1) -> None:
        super().__init__(spec, members)
        self.elites = torch.arange(elites)
        self.speed = torch.nn.Parameter(torch.tensor(speed))
        self.register_buffer("scale", torch.ones(spec.obs_dim + 1))

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        return batch.reward.mean(-1) * self.speed

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        ids = torch.arange(self.members, device=obs.device) if members is None else members
        push = (ids + 1).view(-1, 1, 1) * action.sum(-1, keepdim=True) * self.speed
        mean = obs + push
        reward = ids.view(-1, 1).float().expand(mean.shape[:-1])
        return Prediction(mean, torch.ones_like(mean), reward, torch.ones_like(reward), self.scale)

    def termination(
        self, obs: Tensor, action: Tensor, next_obs: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        del action, next_obs
        ids = torch.arange(self.members, device=obs.device) if members is None else members
        return ((ids + 1).view(-1, 1) / 10).expand(len(ids), obs.shape[-2])


class Slip(Drift):
    """Whose program says something else than the module, by `off` spreads of the reward."""

    def __init__(self, spec: Spec, off: float) -> None:
        super().__init__(spec)
        self.off = off * spec.reward_std

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        said = super().predict(obs, action, members, hidden)
        return said._replace(reward=said.reward + (self.off if torch.compiler.is_exporting() else 0))


def spread(prediction: Prediction) -> Tensor:
    """Largest minus smallest member reward."""
    return prediction.reward.amax(0) - prediction.reward.amin(0)


def far(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The world ends where the first observation exceeds 11."""
    del obs, action
    return next_obs[..., 0] > 11


def simulator(**arguments: object) -> Simulator:
    """Three members, of which 0 and 2 are elites; uncertainty in units of 4."""
    the_spec = arguments.pop("spec", spec())
    made = Simulator(Drift(the_spec), the_spec, uncertainty=spread, **arguments)
    made.dynamics.elites = torch.tensor([0, 2])
    made.uncertainty_scale.fill_(4.0)
    made.calibrated = True
    return made


DECISION = Decision("promote", "1", "e" * 64, ("it is better",))


def crown(name: str, version: str) -> None:
    """Make a version champion by a verdict in its favour."""
    promotion.judge(name, version, DECISION)
    promotion.promote(name, version)


@pytest.fixture
def home(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `MBRL_HOME` of the test's own with an empty store in it."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(template, folder / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MBRL_HOME", str(folder))
    return folder


@pytest.fixture
def log(home: Path) -> RunLog:
    """An open run."""
    return RunLog.open("tests", "a run")


def environment(**variables: str) -> dict[str, str]:
    """The environment of a fresh process that can import mbrl and this file."""
    root = Path(__file__).resolve().parents[1]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]), **variables}
