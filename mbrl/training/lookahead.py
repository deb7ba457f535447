"""How far a model's mean goes astray when it is followed along logged actions: as a loss, and as a score."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from mbrl.core import Batch, Dynamics, Spec
from mbrl.simulator.filling import Filling
from mbrl.simulator.ranges import ranges
from mbrl.simulator.recall import Recall
from mbrl.training.bootstrap import Runs
from mbrl.training.processes import summed

MARGIN = 0.1  # how far a followed state may leave the log's range, as a share of it: what simulators do by default
FLOOR = 1e-8  # of a channel's mean squared error: what float32 can tell apart from exact
NEGLIGIBLE = 1e-4  # squared error that is as good as none beside a channel that is less well known: 1 % of the spread
SCORE_ROWS = 8192  # predicted at once, which bounds the memory of a score


@final
class Lookahead(nn.Module):
    """Errors of models for one problem over runs of logged rows; C channels are the predicted ones and the reward.

    A member starts in the first observation of a run and goes on from its own mean, clipped and completed as a
    simulator does it, with channels that it neither predicts nor carries on as they were logged. So are those that may
    rest (`Spec.resting`): the mean of rest and jump is neither, and a fit that had to go on from it learned that
    nothing ever jumps (meals of a patient, 5 % a step of some hours, came out at 0.002 %).

    Args:
        spec: the problem.
        horizon: h, the most steps of a run.
    """

    low: Tensor  # [S] of the channels that are followed: see `ranges`
    high: Tensor  # [S]
    followed: Tensor  # [S] long
    targets: Tensor  # [C] long: which of (next observation, reward) are counted

    def __init__(self, spec: Spec, horizon: int) -> None:
        super().__init__()
        self.horizon = horizon
        followed = tuple(k for k in spec.predicted if k not in spec.resting)
        given = tuple(k for k in range(spec.frame_dim) if k not in {*followed, *spec.carried, *spec.clocks})
        low, high = (bound[:-1] for bound in ranges(spec, MARGIN))
        self.filling = None  # where nothing is followed
        if horizon > 1 and followed:
            self.filling = Filling(replace(spec, predicted=followed, exogenous=given), limits=(low, high))
        places = torch.tensor(followed, dtype=torch.long)
        columns = {
            "low": low[places],
            "high": high[places],
            "followed": places,
            "targets": torch.tensor(spec.targets),
        }
        for name, column in columns.items():
            self.register_buffer(name, column, persistent=False)

    def squares(self, dynamics: Dynamics, runs: Runs, hidden: Tensor | None = None) -> Tensor:
        """Squared error of each member's means at each step, in units of the log's spread (`Prediction.scale`).

        Args:
            dynamics: E members.
            runs: [S, h, ...], the same for every member, or [E, S, h, ...].
            hidden: [E, S, H], the states of a model that remembers, with which the runs begin.

        Returns:
            [E, S, h, C].
        """
        rows, obs, squares = runs.rows, runs.rows.obs[..., 0, :], []
        for step in range(self.horizon):
            action, seen = rows.action[..., step, :], rows.next_obs[..., step, :]
            prediction = dynamics.predict(obs, action.expand(*obs.shape[:-1], -1), None, hidden)
            mean, _ = prediction.normalised()
            reward = rows.reward[..., step]
            if dynamics.ends_apart:  # what an end pays is learned from ends alone
                reward = torch.where(rows.terminated[..., step], prediction.reward.detach(), reward)
            truth = torch.cat([seen.expand(*reward.shape, -1), reward.unsqueeze(-1)], -1) / prediction.scale
            squares.append((mean - truth).square().index_select(-1, self.targets))
            if self.filling is None:
                obs = rows.next_obs[..., step, :]
            else:
                values = torch.clamp(prediction.obs.index_select(-1, self.followed), self.low, self.high)
                before, taken = (x.expand(*values.shape[:-1], -1) for x in (obs, action))
                obs = self.filling.complete(before, taken, values, seen.index_select(-1, self.filling.exogenous))
        return torch.stack(squares, -2)

    def loss(self, dynamics: Dynamics, runs: Runs, processes: int = 1) -> Tensor:
        """What the steps after the first cost each member, [E], for runs [E, S, h, ...], with gradients through them.

        Of several `processes` that share a fit each has runs of its own, and all of them have the loss of all runs.

        The mean over channels and steps of log(mean squared error), a step weighing as many rows as reach it. That is
        twice the Gaussian negative log-likelihood of the followed mean with one variance per step and channel at its
        maximum-likelihood value, so a constant aside in the unit of the one-step likelihood: noise that adds up over
        the steps, or a channel that nobody can predict, sets its own weight, and no gradient grows with the length of
        the run. The first step is left to the model's own loss, which also fits its variance.

        Simulation error as a fit's criterion: Abbeel & Ng 2004 ("Learning first-order Markov models for control");
        backpropagated through a network and averaged over steps: Benechehab et al. 2024 ("A Multi-step Loss Function
        for Robust Learning of the Dynamics in Model-based RL"), with weights of its own in place of the likelihood's.

        Raises:
            ValueError: the model's `predict` passes no gradient on.
        """
        squares, valid = self.squares(dynamics, runs)[..., 1:, :], runs.valid[..., 1:]
        if not squares.requires_grad:
            name = type(dynamics).__name__
            raise ValueError(
                f"predict of {name} passes no gradient on, and a multi-step fit learns through it: leave its means"
                " attached (no torch.no_grad, no detach), or set multistep to 1"
            )
        total = summed(torch.where(valid.unsqueeze(-1), squares, 0.0).sum(-3), processes)
        return _mean_log(total, summed(valid.sum(-2), processes), FLOOR)

    @torch.no_grad()
    def score(self, dynamics: Dynamics, runs: Runs, recall: Recall | None = None) -> Tensor:
        """Error of each member on held-out runs [S, h, ...], [E]: how well its typical channel is known.

        The geometric mean, over channels and steps, of `NEGLIGIBLE` and the mean squared error in units of the log's
        spread: neither a channel of large scale nor one that nobody can predict (noise, a set-point that jumps)
        decides, nor one that is known almost exactly (a position, from the speed), and an improvement by 1 % is one by
        1 % of the average channel. With h above 1 it is what the fit minimises, the first
        step included: weights that are best one step ahead need not be the best to follow.
        """
        lines = max(1, SCORE_ROWS // self.horizon)
        total = runs.rows.obs.new_zeros(dynamics.members, self.horizon, len(self.targets))
        for start in range(0, len(runs.valid), lines):
            part = slice(start, start + lines)
            rows, valid = Batch(*(column[part] for column in runs.rows)), runs.valid[part]
            index = torch.arange(start, start + len(valid), device=valid.device)
            hidden = None if recall is None else recall(dynamics, index)
            squares = self.squares(dynamics, Runs(rows, valid), hidden)
            total += torch.where(valid.unsqueeze(-1), squares, 0.0).sum(-3)
        return _mean_log(total, runs.valid.sum(-2), NEGLIGIBLE).exp()


def _mean_log(total: Tensor, count: Tensor, least: float) -> Tensor:
    """log(least + total / count), averaged over channels and, by count, steps: [E, h, C] and [E, h] or [h] -> [E]."""
    error = total / count.clamp_min(1).unsqueeze(-1)
    share = count / count.sum(-1, keepdim=True).clamp_min(1)
    return (share * (error + least).log().mean(-1)).sum(-1)
