"""RAMBO: the model is trained against the policy, within what the log leaves open."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from mbrl.core import Batch, Spec, World
from policies.actor_critic import SoftLearner, joined
from policies.functional import adversarial_loss, bellman_target, descend
from policies.successors import check_spec, check_world


class RAMBO(SoftLearner):
    """Robust adversarial model-based offline RL (Rigter et al. 2022, eq. 9 and algorithm 1): a zero-sum game.

    SAC on logged and imagined rows, in a copy of the simulator whose model learns on: down the loss of its own fit on
    logged rows, so that it stays true to the log, plus `adversary` times the mean of A log p over successors that it
    samples for imagined states and the policy's actions, so that what is better than expected becomes less likely.
    A = r + discount V(s') - Q(s, a) by the slow critics. One step of the model goes with each of the policy's, which
    is the paper's proportion (1000 of each in turn). Its pre-training of the actor by imitation is left out.

    The arguments that are not here are those of `SoftLearner`.

    Args:
        adversary: weight of a standardised advantage times nats, relative to the loss of the fit summed over the
            members (twice the negative log-likelihood of a channel, as in the authors' code): the paper's lambda.
        model_lr: learning rate of the model.
        soft_backup: whether the Bellman target holds the entropy bonus.

    Raises:
        ValueError: adversary is negative, or a channel is exogenous; later, the world remembers, or its model states
            no spread.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        adversary: float = 3e-4,
        model_lr: float = 3e-4,
        soft_backup: bool = True,
        **agent: Any,
    ) -> None:
        check_spec("RAMBO", spec)
        if not adversary >= 0:
            raise ValueError(f"adversary is {adversary}, expected 0 (a model that only fits the log) or more")
        super().__init__(spec, **agent)
        self.adversary, self.model_lr = adversary, model_lr
        self.agent.soft_backup = soft_backup
        self.world: World | None = None

    def enter(self, simulator: World) -> World:
        check_world("RAMBO", simulator)
        world = copy.deepcopy(simulator)
        elsewhere = torch.tensor([self.spec.obs_mean], device=next(self.parameters()).device)
        action = elsewhere.new_tensor([self.spec.action_mean])
        never = torch.zeros_like(elsewhere[:, 0], dtype=torch.bool)
        with torch.no_grad():
            density = world.log_density(Batch(elsewhere, action, elsewhere[:, 0], elsewhere, never))
        if not density.isfinite().all():
            raise ValueError(
                f"RAMBO changes how likely successors are, and {type(world.dynamics).__name__} states no spread of its"
                " predictions: use dynamics.ProbabilisticEnsemble"
            )
        self.world = world
        self.optimizers["model"] = Adam(world.dynamics.parameter_groups(), self.model_lr, fused=True)
        return world

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del simulator  # its own copy of it is `world`
        told = {} if imagined is None else self._mislead(real, imagined.obs, rng)
        batch = joined(real, imagined)
        return {**self.agent.improve(batch, self.agent.target(batch, rng), rng), **told}

    def _mislead(self, real: Batch, obs: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """One step of the model, against the policy at obs [B, O]."""
        if self.world is None:
            raise ValueError("RAMBO trains a copy of the simulator, and has entered none")
        if not len(real.reward):
            raise ValueError("RAMBO keeps its model true to logged rows and got none: raise real_ratio")
        with torch.no_grad():
            action = self.agent.actor.act(obs, rng)
            next_obs, reward, terminated, _, _ = self.world.plain().step(obs, action, rng)
            value = self.agent.value(next_obs, rng)
            target = bellman_target(reward / self.agent.reward_scale, terminated, value, self.agent.discount)
            advantage = target - self.agent.slow(obs, action).amin(0)
        model = self.world.dynamics
        against = adversarial_loss(self.world.log_density(Batch(obs, action, reward, next_obs, terminated)), advantage)
        fit = model.loss(Batch(*(column.expand(model.members, *column.shape) for column in real))).sum()
        descend(self.optimizers["model"], fit + self.adversary * against)
        return {"model_loss": fit.detach() / model.members, "adversarial_loss": against.detach()}
