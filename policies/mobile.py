"""MOBILE: pessimism where models disagree about the value of what follows, instead of about what follows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl.core import Batch, Spec, World
from policies.actor_critic import SoftLearner, joined
from policies.functional import bellman_inconsistency
from policies.successors import check_spec, check_world


class MOBILE(SoftLearner):
    """Model-Bellman inconsistency penalised offline policy optimisation (Sun et al. 2023, eq. 7 and algorithm 1).

    SAC without an entropy bonus in its targets, on logged and imagined rows. The targets of the imagined ones are
    lowered: y = r + discount min_k Q_k(s', a') - beta U(s, a), where U is the std over the elite models of what each
    thinks the successors of (s, a) to be worth, min_k Q_k(s', a') with a' of the policy, averaged over its samples.
    Disagreement about what does not matter for the return costs nothing. A row that ends is not lowered, as nothing
    follows whose worth models could disagree about; the authors' code lowers it, too. A target may be negative: their
    code clamps it at zero, which no plant with negative returns can be learned with.

    The arguments that are not here are those of `SoftLearner`.

    Args:
        beta: weight of U, without a unit; the authors take 0.1 to 5, by task.
        samples: successors of each elite model.

    Raises:
        ValueError: beta is negative, samples is below 1, or a channel is exogenous; later, the world remembers.
    """

    def __init__(self, spec: Spec, *, beta: float = 1.0, samples: int = 10, **agent: Any) -> None:
        check_spec("MOBILE", spec)
        if not beta >= 0:
            raise ValueError(f"beta is {beta}, expected 0 (no pessimism) or more")
        if samples < 1:
            raise ValueError(f"samples is {samples}, expected at least 1 successor of each model")
        super().__init__(spec, **agent)
        self.beta, self.samples = beta, samples
        self.agent.soft_backup = False

    def enter(self, simulator: World) -> World:
        check_world("MOBILE", simulator)
        return simulator

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        batch = joined(real, imagined)
        target = self.agent.target(batch, rng)
        if imagined is None:
            return self.agent.improve(batch, target, rng)
        if simulator is None:
            raise ValueError("MOBILE asks the simulator about imagined rows, and was given none")
        doubt = torch.where(imagined.terminated, 0.0, self.inconsistency(imagined, simulator, rng))
        logged = len(real.reward)
        lowered = torch.cat([target[:logged], target[logged:] - self.beta * doubt])
        return {**self.agent.improve(batch, lowered, rng), "inconsistency": doubt.mean()}

    def inconsistency(self, rows: Batch, simulator: World, rng: torch.Generator) -> Tensor:
        """U of the rows [B, ...]: [B], in units of the log's reward spread."""
        obs, action = (x.repeat(self.samples, 1) for x in (rows.obs, rows.action))
        elites = len(simulator.dynamics.elites)
        successors, _, _ = simulator.propagate(obs.expand(elites, -1, -1), action, rng)
        values = self.agent.value(successors.flatten(0, 1), rng)
        return bellman_inconsistency(values.view(elites, self.samples, -1))
