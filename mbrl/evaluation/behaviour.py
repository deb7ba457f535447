"""Who made the log, as a distribution over actions: what importance sampling divides by where no propensity was logged.

Fitted by maximum likelihood on some episodes, stopped and calibrated on others. A mixture of Gaussians for Box actions
(Bishop 1994), a categorical distribution for Discrete ones.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, final

import torch
from scipy import optimize
from torch import Tensor, nn

from mbrl.core import generator, seeded
from mbrl.data.audit import LEAST_ROWS
from mbrl.data.behaviour import LEAST_PAIRS, freedom
from mbrl.data.dataset import TransitionDataset
from mbrl.data.series import shuffled
from mbrl.data.suspicions import Refit
from mbrl.evaluation.densities import Support
from mbrl.evaluation.estimates import Refused

HELD = 0.2  # share of the episodes that stop the fit and calibrate it
LOG_STD = (-6.0, 1.0)  # of a component, in units of half the action's range
BEYOND = 3.0  # units of half the range that a mean may lie from the middle on the side of a bound with mass
JUDGED_ROWS = 20_000  # of the held episodes, at most
TEMPERATURE = (-2.0, 2.0)  # bounds of its logarithm


class Training(NamedTuple):
    """How a behaviour model is fitted."""

    hidden: tuple[int, ...] = (64, 64)
    components: int = 5  # of the mixture
    lr: float = 1e-3
    batch: int = 256
    steps: int = 4000  # at most
    every: int = 100  # steps between two looks at the held episodes
    patience: int = 5  # looks without improvement that end the fit


DEFAULT = Training()


@final
class Behaviour(nn.Module):
    """A distribution of the logged action given the observation."""

    mean: Tensor
    std: Tensor
    temperature: Tensor  # multiplies the components' stds, or divides the logits

    def __init__(self, data: TransitionDataset, rows: Tensor, training: Training) -> None:
        super().__init__()
        obs, action = data.obs[rows], data.action[rows]
        self.discrete, self.actions, self.components = data.discrete, action.shape[1], training.components
        low, high = torch.tensor(data.action_low), torch.tensor(data.action_high)
        self.support = Support.plain(low, high) if self.discrete else Support.of(action, low, high)
        self.register_buffer("mean", obs.double().mean(0).float())
        spread = obs.double().std(0, correction=0).float()
        self.register_buffer("std", spread.where(spread > 0, torch.ones_like(spread)))
        self.register_buffer("temperature", torch.ones(()))
        outputs = self.actions if self.discrete else self.components * (1 + 2 * self.actions)
        widths = [obs.shape[1], *training.hidden]
        layers = [f for a, b in itertools.pairwise(widths) for f in (nn.Linear(a, b), nn.SiLU())]
        self.network = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
        self.diagnostics: dict[str, Any] = {}  # plain values: how the fit went

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log density of `action` [B, A] at `obs` [B, O] with respect to `mbrl.evaluation.densities`: [B].

        Discrete: the log probability of a one-hot row.
        """
        raw = self.network((obs - self.mean) / self.std)
        if self.discrete:
            return (torch.log_softmax(raw / self.temperature, -1) * action).sum(-1)
        logits, means, log_std = raw.split([self.components, *[self.components * self.actions] * 2], -1)
        shape = (*raw.shape[:-1], self.components, self.actions)
        half = (self.support.high - self.support.low) / 2
        unit = torch.tanh(means.view(shape))
        reach = torch.where(unit > 0, self._reach(self.support.mass_high), self._reach(self.support.mass_low))
        low, high = LOG_STD
        std = (low + (high - low) * torch.sigmoid(log_std.view(shape))).exp() * self.temperature
        centre = (self.support.high + self.support.low) / 2 + half * reach * unit
        parts = self.support.log_normal(action.unsqueeze(-2), centre, std * half).sum(-1)
        return torch.logsumexp(torch.log_softmax(logits, -1) + parts, -1)

    @staticmethod
    def _reach(mass: Tensor) -> Tensor:
        return torch.where(mass, BEYOND, 1.0)


def fit_behaviour(data: TransitionDataset, episodes: Tensor, *, seed: int, training: Training = DEFAULT) -> Behaviour:
    """Fit the distribution of the logged actions on episodes [n] long of a log on the CPU.

    A fifth of them stops the fit (the parameters of the best look are kept) and sets the temperature, both by their
    mean log likelihood.

    Raises:
        Refused: there are too few rows or episodes to say, or too few alike states in different episodes; or the action
            is a function of the observation: the log has no chance in it, and no policy but the logger's has a weight.
            The audit says so as well.
        ValueError: the log is empty.
    """
    if len(episodes) < 2 or len(data) < LEAST_ROWS:
        raise Refused(
            f"no behaviour model can be fitted on {len(episodes)} episode(s) of {len(data)} rows: it needs at least 2"
            f" and {LEAST_ROWS}"
        )
    free = freedom(Refit.of(data, seed))
    if math.isnan(free.whole):
        raise Refused(
            f"nobody can say whether the logged action of {data.id} is a function of the observation, as its episodes"
            f" have fewer than {LEAST_PAIRS} states alike: log more of them, log the propensities, or use estimators"
            " without weights (FQE, the simulator)"
        )
    if free.is_rule:
        raise Refused(
            f"the logged action of {data.id} is a function of the observation (pairs of alike states differ by"
            f" {free.whole:.1%} of the action's spread): no other policy can be weighed against it. Log with some"
            " exploration, log the propensities, or use estimators without weights (FQE, the simulator)"
        )
    order = shuffled(data, episodes, generator(seed, "behaviour/split"))
    count = max(1, round(HELD * len(episodes)))
    held, rows = data.rows(order[:count]), data.rows(order[count:])
    rng = generator(seed, "behaviour/rows")
    held = held[torch.randperm(len(held), generator=rng)[:JUDGED_ROWS]]
    with seeded(seed, "behaviour/network"):
        model = Behaviour(data, data.rows(episodes), training)

    def judged() -> float:
        with torch.no_grad():
            return -float(model.log_prob(data.obs[held], data.action[held]).mean())

    steps = _descend(model, data, rows, rng, training, judged)
    before = judged()

    def at(log_temperature: float) -> float:
        model.temperature.fill_(math.exp(log_temperature))
        return judged()

    best = optimize.minimize_scalar(at, bounds=TEMPERATURE, method="bounded")
    after = at(float(best.x) if best.fun < before else 0.0)
    model.diagnostics = {
        "family": "categorical" if data.discrete else f"mixture of {training.components} Gaussians",
        "rows": len(rows),
        "held_rows": len(held),
        "steps": steps,
        "held_nll": before,
        "calibrated_nll": after,
        "temperature": float(model.temperature),
        "freedom": free.whole,
    }
    return model.eval().requires_grad_(False)


def _descend(
    model: Behaviour,
    data: TransitionDataset,
    rows: Tensor,
    rng: torch.Generator,
    training: Training,
    judged: Callable[[], float],
) -> int:
    """Maximise the likelihood of `rows`, and leave the parameters that judged best; the step that they are of."""
    optimizer = torch.optim.Adam(model.parameters(), training.lr)
    least, best, kept = judged(), 0, copy.deepcopy(model.state_dict())
    for step in range(1, training.steps + 1):
        some = rows[torch.randint(len(rows), (training.batch,), generator=rng)]
        optimizer.zero_grad(set_to_none=True)
        (-model.log_prob(data.obs[some], data.action[some]).mean()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        if step % training.every == 0:
            if (now := judged()) < least:
                least, best, kept = now, step, copy.deepcopy(model.state_dict())
            elif step - best >= training.patience * training.every:
                break
    model.load_state_dict(kept)
    return best
