"""Planning Discrete actions by a search tree."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mbrl.core import Spec
from policies.functional import one_hot, puct, sample_categorical
from policies.planner import Planner

LIVING = 0.5  # least chance that the world goes on for a node whose critics are heard


class Tree(NamedTuple):
    """B trees side by side, of M nodes at most; node 0 is the root. Written in place."""

    obs: Tensor  # [B, M, O]
    prior: Tensor  # [B, M, A] of the choices, by the prior policy and the share that is uniform
    guess: Tensor  # [B, M, A] what the critics say of choices that were not tried
    visits: Tensor  # [B, M, A]
    total: Tensor  # [B, M, A] sum of the returns seen through a choice
    gain: Tensor  # [B, M, A] of the step, once tried
    living: Tensor  # [B, M, A]
    child: Tensor  # [B, M, A] long; 0: not tried
    low: Tensor  # [B] of all values in the tree
    high: Tensor  # [B]

    def values(self, rows: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
        """Value and visits [B, A] of the choices at one node [B] of each tree."""
        visits = self.visits[rows, node]
        seen = self.total[rows, node] / visits.clamp_min(1)
        return torch.where(visits > 0, seen, self.guess[rows, node]), visits

    def unit(self, values: Tensor) -> Tensor:
        """Values [B, A] from 0, the least in the tree, to 1, the largest (Schrittwieser et al. 2020, eq. 5)."""
        low, high = self.low.unsqueeze(-1), self.high.unsqueeze(-1)
        return ((values - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)


class MCTS(Planner):
    """Monte Carlo tree search by PUCT (Silver et al. 2018; Schrittwieser et al. 2020, eq. 2 to 5) in a foreseen world.

    Every simulation walks down from the root by `puct`, foresees one more step where it leaves the tree or is as deep
    as the horizon, and adds what it found to every choice on its way: penalised rewards, discounted, nothing beyond a
    terminal, and at the end the critics' value, the mean over the prior policy's choices. A choice that was not tried
    counts with the critics' own value of it. The mode is the choice tried most often, the more valuable one of equals;
    a sample is in proportion to how often.

    Args:
        spec: of the log, with Discrete actions.
        simulations: a call, at least 1.
        exploration: weight of prior and visits against value.
        uniform: share of the prior that is uniform, in the place of noise at the root.
        outlook: see `Planner`; its horizon is the depth of the tree.

    Raises:
        ValueError: an argument out of range, or the log's actions are Box.
    """

    other = "policies.CEM or policies.MPPI"

    def __init__(
        self,
        spec: Spec,
        simulations: int = 32,
        exploration: float = 1.25,
        uniform: float = 0.25,
        outlook: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(spec, True, outlook)
        if simulations < 1:
            raise ValueError(f"simulations is {simulations}, expected at least 1")
        if not exploration >= 0 or not 0 <= uniform <= 1:
            raise ValueError(
                f"exploration is {exploration} and uniform is {uniform}, expected 0 or more, and a share from 0 to 1"
            )
        self.simulations, self.exploration, self.uniform = simulations, exploration, uniform

    @property
    def candidates_at_once(self) -> int:
        return self.spec.action_dim

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        visits, value = self._in_parts(self.search, obs).unbind(1)
        chosen = (visits + 0.5 * value).argmax(-1) if rng is None else sample_categorical(visits.log(), rng)
        return one_hot(chosen, self.spec.action_dim)

    def search(self, obs: Tensor) -> Tensor:
        """Visits of the choices at the root, and their value between the least and the largest found: [B, 2, A]."""
        # not len(): an exported program would be for that number of rows alone
        rows = torch.arange(obs.shape[0], device=obs.device)
        tree = self._planted(obs)
        for number in range(1, self.simulations + 1):
            tree = self._simulated(tree, rows, number)
        value, visits = tree.values(rows, torch.zeros_like(rows))
        return torch.stack([visits, tree.unit(value)], 1)

    def _planted(self, obs: Tensor) -> Tree:
        count, choices = self.simulations + 1, self.spec.action_dim
        prior, guess, _ = self._judged(obs)
        edges = obs.new_zeros(obs.shape[0], count, choices)
        tree = Tree(
            obs=obs.new_zeros(obs.shape[0], count, obs.shape[-1]),
            prior=edges,
            guess=edges.clone(),
            visits=edges.clone(),
            total=edges.clone(),
            gain=edges.clone(),
            living=edges.clone(),
            child=torch.zeros_like(edges, dtype=torch.long),
            low=guess.amin(-1),
            high=guess.amax(-1),
        )
        for column, first in (tree.obs, obs), (tree.prior, prior), (tree.guess, guess):
            column[:, 0] = first
        return tree

    def _judged(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prior probabilities and the least critic's values [B, A] of the choices at obs [B, O], and their mean [B]."""
        outlook, choices = self.outlook, self.spec.action_dim
        guess = outlook.critics.every(obs).amin(0)
        every = torch.eye(choices, device=obs.device).expand(obs.shape[0], -1, -1)
        there = obs.unsqueeze(1).expand(-1, choices, -1)
        log_prob = outlook.prior.log_prob(there.flatten(0, 1), every.flatten(0, 1))
        if log_prob is None:  # a policy without a density has a mode: it is the prior's only choice
            prior = outlook.prior.act(obs, None)
        else:
            prior = torch.softmax(log_prob.unflatten(0, (-1, choices)), -1)
        mixed = (1 - self.uniform) * prior + self.uniform / choices
        return mixed, guess, (prior * guess).sum(-1)

    def _simulated(self, tree: Tree, rows: Tensor, number: int) -> Tree:
        """One more simulation, which makes the node `number` of every tree."""
        node, going = torch.zeros_like(rows), torch.ones_like(rows, dtype=torch.bool)
        path = []
        for _ in range(min(number, self.outlook.horizon)):
            value, visits = tree.values(rows, node)
            choice = puct(tree.unit(value), visits, tree.prior[rows, node], self.exploration).argmax(-1)
            path.append((node, choice, going))
            below = tree.child[rows, node, choice]
            going = going & (below > 0)
            node = torch.where(going, below, node)
        parent, taken = path[0][:2]
        for at, choice, reached in path[1:]:
            parent, taken = torch.where(reached, at, parent), torch.where(reached, choice, taken)
        next_obs, gain, living = self.outlook.step(tree.obs[rows, parent], one_hot(taken, self.spec.action_dim))
        prior, guess, found = self._judged(next_obs)
        for column, value in (tree.obs, next_obs), (tree.prior, prior), (tree.guess, guess):
            column[:, number] = value
        edge = (rows, parent, taken)
        tree.gain[edge], tree.living[edge], tree.child[edge] = gain, living, torch.full_like(rows, number)
        alive = [torch.ones_like(found)]  # at each node of the path, and at the new one
        for at, choice, reached in path:
            alive.append(alive[-1] * tree.living[rows, at, choice].where(reached, 1.0))
        heard = alive[-1].unsqueeze(-1) > LIVING  # what critics say of a world that has ended means nothing
        low = torch.minimum(tree.low, guess.where(heard, torch.inf).amin(-1))
        high = torch.maximum(tree.high, guess.where(heard, -torch.inf).amax(-1))
        for (at, choice, reached), there in zip(reversed(path), reversed(alive[:-1]), strict=True):
            edge = (rows, at, choice)
            further = tree.gain[edge] + self.outlook.discount * tree.living[edge] * found
            found = torch.where(reached, further, found)
            tree.visits[edge] = tree.visits[edge] + reached
            tree.total[edge] = tree.total[edge] + torch.where(reached, found, 0.0)
            low = torch.minimum(low, found.where(there > LIVING, torch.inf))
            high = torch.maximum(high, found.where(there > LIVING, -torch.inf))
        return tree._replace(low=low, high=high)
