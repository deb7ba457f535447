"""RAMBO: the model is trained against the policy, within what the log leaves open."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from mbrl.core import Batch, Spec, World, descend
from policies.actor_critic import SoftLearner, joined
from policies.actors import TanhGaussian
from policies.functional import adversarial_loss, bellman_target
from policies.successors import check_spec, check_world

INSIDE = 0.99  # how near to a bound an imitated action may be, in [-1, 1]: a squashed Gaussian never gets there


class RAMBO(SoftLearner):
    """Robust adversarial model-based offline RL (Rigter et al. 2022, eq. 9 and algorithm 1): a zero-sum game.

    SAC on logged and imagined rows, in a copy of the simulator whose model learns on: down the loss of its own fit on
    logged rows, so that it stays true to the log, plus `adversary` times the mean of A log p over successors that it
    samples for imagined states and the policy's actions, so that what is better than expected becomes less likely.
    A = r + discount V(s') - Q(s, a) by the slow critics. One step of the model goes with each of the policy's, which
    is the paper's proportion (1000 of each in turn).

    With `imitation` the policy is the log's before the game begins, as in the authors' code: for so many updates the
    actor climbs the log-likelihood of the logged actions alone. The critics learn meanwhile, what that policy is worth;
    the model learns on without an adversary, and the temperature rests. The authors leave out batches with an action on
    its bounds, of which some logs are full; here such actions are moved inside by 1 %.

    The arguments that are not here are those of `SoftLearner`.

    Args:
        adversary: weight of a standardised advantage times nats, relative to the loss of the fit summed over the
            members (twice the negative log-likelihood of a channel, as in the authors' code): the paper's lambda.
        model_lr: learning rate of the model.
        soft_backup: whether the Bellman target holds the entropy bonus.
        imitation: updates of the actor by imitation, before the game; the authors have 50 epochs of 256 rows.

    Raises:
        ValueError: adversary or imitation is negative, or a channel is exogenous; later, the world remembers, or its
            model states no spread.
    """

    updates: Tensor  # scalar, done so far

    remodels = True
    grounded = True

    def __init__(
        self,
        spec: Spec,
        *,
        adversary: float = 3e-4,
        model_lr: float = 3e-4,
        soft_backup: bool = True,
        imitation: int = 0,
        **agent: Any,
    ) -> None:
        check_spec("RAMBO", spec)
        if not adversary >= 0:
            raise ValueError(f"adversary is {adversary}, expected 0 (a model that only fits the log) or more")
        if not imitation >= 0:
            raise ValueError(f"imitation is {imitation}, expected a number of updates, 0 (none) or more")
        super().__init__(spec, **agent)
        self.adversary, self.model_lr, self.imitation = adversary, model_lr, imitation
        self.agent.soft_backup = soft_backup
        self.register_buffer("updates", torch.tensor(0))
        self.world: World | None = None

    def enter(self, simulator: World) -> World:
        """A copy of the simulator; where updates go on, as in fine-tuning, the copy that it has made of it before."""
        check_world("RAMBO", simulator)
        if self.world is not None:
            return self.world
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
        imitating, instead = self.updates < self.imitation, None
        told = {} if imagined is None else self._mislead(real, imagined.obs, imitating, rng)
        if self.imitation:
            instead = imitating, self.imitation_loss(real)
            told["imitation_loss"] = instead[1].detach()
        batch = joined(real, imagined)
        metrics = self.agent.improve(batch, self.agent.target(batch, rng), rng, instead)
        self.updates += 1
        return {**metrics, **told}

    def imitation_loss(self, real: Batch) -> Tensor:
        """Mean negative log-likelihood of the logged actions, scalar."""
        actor, action = self.agent.actor, real.action
        if isinstance(actor, TanhGaussian):
            action = actor.bounds.scale(actor.bounds.unscale(action).clamp(-INSIDE, INSIDE))
        return -actor.log_prob(real.obs, action).mean()

    def _mislead(self, real: Batch, obs: Tensor, imitating: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """One step of the model, against the policy at obs [B, O]; only down its own fit while `imitating` (scalar)."""
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
        descend(self.optimizers["model"], fit + torch.where(imitating, 0.0, self.adversary) * against)
        return {"model_loss": fit.detach() / model.members, "adversarial_loss": against.detach()}
