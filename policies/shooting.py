"""Planning Box actions by sampling sequences of them: CEM, iCEM and MPPI."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mbrl.core import Spec, generator
from policies.functional import coloured, elite_weights, path_weights
from policies.planner import Planner

TIE = 1e-4  # of the log's reward spread: sequences that differ by less in value are alike
SOFTNESS = 0.05  # of the elites' edge, see `elite_weights`


class Round(NamedTuple):
    """What is known after a round of candidates; actions in [-1, 1]."""

    mean: Tensor  # [B, H, A] of the next candidates
    std: Tensor  # [B, H, A]
    actions: Tensor  # [B, N, H, A] candidates so far that still count
    worth: Tensor  # [B, N] what they are worth


class Shooting(Planner):
    """Model predictive control: rounds of candidate sequences around a mean, which moves to where the good ones are.

    The mean begins with the prior policy's own actions and is a candidate itself; the others lie around it in pairs,
    one on either side. The answer is the first action of the last mean, not of the best candidate: that would swap
    with rounding, and the best of many is the one whose value is most overrated.

    Args:
        spec: of the log, with Box actions.
        candidates: N, in the first round, at least 4.
        rounds: at least 1.
        std: of the candidates, in units of half the action range.
        colour: of the candidates' noise along time: its power falls as f^-colour, 0 is white (`coloured`).
        decay: each round has so many times fewer candidates than the one before (never below `least`).
        least: candidates in a round, at least.
        outlook: see `Planner`.

    Raises:
        ValueError: an argument out of range, or the log's actions are Discrete.
    """

    other = "policies.MCTS"
    noise: Tensor | None  # [rounds, N, H, A], the same in every call and for all rows

    def __init__(
        self,
        spec: Spec,
        candidates: int,
        rounds: int,
        std: float,
        colour: float,
        decay: float,
        least: int,
        outlook: dict[str, Any] | None,
    ) -> None:
        super().__init__(spec, False, outlook)
        for name, value, low in ("candidates", candidates, 4), ("rounds", rounds, 1), ("decay", decay, 1):
            if not value >= low:
                raise ValueError(f"{name} is {value}, expected at least {low}")
        if not std > 0 or not colour >= 0:
            raise ValueError(f"std is {std} and colour is {colour}, expected a std above 0 and a colour of 0 or more")
        self.std, self.colour = std, colour
        self.counts = [max(least, round(candidates * decay**-k)) for k in range(rounds)]
        drawn = None if outlook is None else self._drawn(generator(0, "candidates"))
        noise = None if drawn is None else drawn.clone(memory_format=torch.contiguous_format)  # a file wants no view
        self.register_buffer("noise", noise)

    @property
    def candidates_at_once(self) -> int:
        return max(self.counts)

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        """The plan's first action [B, A]; with `rng`, of candidates that are drawn from it, the same for all rows."""
        noise = self.noise if rng is None else self._drawn(rng)
        return self._in_parts(lambda part: self.plan(part, noise)[:, 0], obs)

    def plan(self, obs: Tensor, noise: Tensor | None = None) -> Tensor:
        """The actions [B, H, A] that are best from obs [B, O], by candidates of `noise` (default: the kept one)."""
        outlook, noise = self.outlook, self.noise if noise is None else noise
        assert noise is not None, "an outlook comes with noise"
        mean = outlook.bounds.unscale(outlook.rehearsed(obs))
        known = Round(mean, torch.full_like(mean, self.std), mean[:, None][:, :0], mean[:, :0, 0])
        for count, drawn in zip(self.counts, noise, strict=True):
            actions = (known.mean.unsqueeze(1) + known.std.unsqueeze(1) * drawn[:count]).clamp(-1, 1)
            worth = outlook.worth(obs, outlook.bounds.scale(actions))
            known = self.refined(known, actions, worth)
        return outlook.bounds.scale(known.mean)

    @abstractmethod
    def refined(self, known: Round, actions: Tensor, worth: Tensor) -> Round:
        """What is known with another round of candidates, actions [B, N, H, A] and what they are worth [B, N]."""

    def _drawn(self, rng: torch.Generator) -> Tensor:
        """Noise of unit variance [rounds, N, H, A]: nothing, then pairs of opposites, and nothing where one is left."""
        rounds, most = len(self.counts), max(self.counts)
        shape = (rounds, most // 2, self.spec.action_dim, self.outlook.horizon)
        half = coloured(torch.randn(shape, generator=rng, device=rng.device), self.colour).transpose(-1, -2)
        pairs = torch.stack([half, -half], 2).flatten(1, 2)
        noise = torch.cat([torch.zeros_like(half[:, :1]), pairs], 1)[:, :most].contiguous()
        for number, count in enumerate(self.counts):
            if count % 2 == 0:  # without its opposite it would pull every plan to one side
                noise[number, count - 1] = 0.0
        return noise


class CEM(Shooting):
    """The cross-entropy method: mean and std become those of a round's elites (Chua et al. 2018, PETS).

    By default iCEM (Pinneri et al. 2020): noise that is correlated in time, elites among all rounds' candidates, and
    fewer candidates in later rounds. Kept elites need no second look, as a foreseen world has no noise. Two things of
    the paper's are not here: a plan of the step before to go on from, and the best candidate as the answer; see
    `Planner` and `Shooting`. With colour 0, keep false and decay 1 it is the plain method.

    Args:
        elites: how many, at least 2 and fewer than the candidates.
        momentum: share of the old mean and std in the new ones, from 0 to below 1.
        keep: whether elites are among all candidates so far, and not among those of this round alone.
        See `Shooting` for the others.
    """

    def __init__(
        self,
        spec: Spec,
        candidates: int = 64,
        rounds: int = 3,
        elites: int = 8,
        std: float = 0.5,
        colour: float = 2.0,
        momentum: float = 0.1,
        keep: bool = True,
        decay: float = 1.25,
        outlook: dict[str, Any] | None = None,
    ) -> None:
        if not 2 <= elites < candidates:
            raise ValueError(f"elites is {elites}, expected at least 2 and fewer than the {candidates} candidates")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}, expected a share from 0 to below 1")
        super().__init__(spec, candidates, rounds, std, colour, decay, min(candidates, 2 * elites), outlook)
        self.elites, self.momentum, self.keep = elites, momentum, keep

    def refined(self, known: Round, actions: Tensor, worth: Tensor) -> Round:
        if self.keep:
            actions, worth = torch.cat([known.actions, actions], 1), torch.cat([known.worth, worth], 1)
        weights = elite_weights(worth, self.elites, SOFTNESS, TIE)[..., None, None]
        mean = (weights * actions).sum(1)
        std = (weights * (actions - mean.unsqueeze(1)).square()).sum(1).sqrt()
        return Round(
            torch.lerp(mean, known.mean, self.momentum), torch.lerp(std, known.std, self.momentum), actions, worth
        )


class MPPI(Shooting):
    """Model predictive path integral control (Williams et al. 2017, algorithm 2): the mean moves to the average of all
    candidates, weighted by exp(worth / lambda). The std is halved by every round, where the paper's has one round a
    step of the plant and goes on from its plan.

    Args:
        temperature: lambda, in units of the standard deviation of the candidates' worth.
        See `Shooting` for the others.
    """

    def __init__(
        self,
        spec: Spec,
        candidates: int = 64,
        rounds: int = 3,
        temperature: float = 0.2,
        std: float = 0.5,
        colour: float = 2.0,
        outlook: dict[str, Any] | None = None,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}, expected more than 0")
        super().__init__(spec, candidates, rounds, std, colour, 1.0, candidates, outlook)
        self.temperature = temperature

    def refined(self, known: Round, actions: Tensor, worth: Tensor) -> Round:
        weights = path_weights(worth, self.temperature, TIE)[..., None, None]
        return Round((weights * actions).sum(1), known.std / 2, known.actions, known.worth)
