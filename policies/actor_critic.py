"""What SAC, COMBO and others share: an actor, K critics with a slow copy, a temperature, and their optimisers."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from mbrl.core import Batch, Learner, Policy, Spec, descend, polyak_
from policies.actors import Categorical, TanhGaussian
from policies.functional import bellman_target
from policies.networks import Critics, usual_value
from policies.ranges import check_rates


def joined(real: Batch, imagined: Batch | None) -> Batch:
    """Logged rows followed by imagined ones."""
    if imagined is None:
        return real
    return Batch(*(torch.cat(pair) for pair in zip(real, imagined, strict=True)))


class ActorCritic(nn.Module):
    """Soft actor-critic's three updates (Haarnoja et al. 2018, "SAC Algorithms and Applications", section 5).

    Rewards are divided by their spread in the log, so that one temperature and one learning rate mean the same on
    every log; Q-values are in those units. Pessimism over critics: the smallest of the K.

    Args:
        spec: of the log.
        See `SoftLearner` for the others.
    """

    soft_backup: bool = True  # whether the Bellman target holds the entropy bonus

    def __init__(
        self,
        spec: Spec,
        *,
        hidden: Sequence[int],
        critics: int,
        layer_norm: bool,
        discount: float,
        tau: float,
        actor_lr: float,
        critic_lr: float,
        temperature_lr: float,
        entropy_target: float | None,
    ) -> None:
        super().__init__()
        check_rates(discount, tau)
        self.discount, self.tau = discount, tau
        self.reward_scale = spec.reward_std
        actor = Categorical if spec.discrete else TanhGaussian
        self.actor: Categorical | TanhGaussian = actor(spec, tuple(hidden))
        self.critics = Critics(spec, critics, hidden, layer_norm, usual_value(spec, discount))
        self.slow = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(0.1)))
        default = 0.5 * math.log(spec.action_dim) if spec.discrete else -float(len(spec.moving_actions))
        self.entropy_target = default if entropy_target is None else entropy_target
        self.optimizers: dict[str, Optimizer] = {
            "actor": Adam(
                [
                    {"params": list(self.actor.parameters()), "lr": actor_lr},
                    {"params": [self.log_temperature], "lr": temperature_lr},
                ],
                fused=True,
            ),
            "critics": Adam(self.critics.parameters(), critic_lr, fused=True),
        }

    @torch.no_grad()
    def value(self, obs: Tensor, rng: torch.Generator) -> Tensor:
        """What the smallest slow critic says of following the actor from obs [B, O]: [B], in units of `reward_scale`.

        For Box actions at one sampled action, for Discrete ones in expectation; with the entropy bonus, if the backup
        is soft.
        """
        bonus = self.log_temperature.exp() if self.soft_backup else 0.0
        if isinstance(self.actor, Categorical):
            log_probs = self.actor.log_probs(obs)
            return (log_probs.exp() * (self.slow.every(obs).amin(0) - bonus * log_probs)).sum(-1)
        action, log_prob = self.actor.sample(obs, rng)
        lowest: Tensor = self.slow(obs, action).amin(0)
        return lowest - bonus * log_prob

    def target(self, batch: Batch, rng: torch.Generator) -> Tensor:
        """Bellman targets [B], in units of `reward_scale`."""
        value = self.value(batch.next_obs, rng)
        return bellman_target(batch.reward / self.reward_scale, batch.terminated, value, self.discount)

    def improve(
        self, batch: Batch, target: Tensor, rng: torch.Generator, instead: tuple[Tensor, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """One step of everything: of the critics towards targets [B], of the actor (see `improve_actor` for `instead`),
        and of the slow critics.
        """
        values = self.critics(batch.obs, batch.action)
        loss = (values - target).square().mean(1).sum()
        self.step("critics", loss)
        metrics = self.improve_actor(batch.obs, rng, instead)
        self.follow()
        return {"critic_loss": loss.detach() / len(values), "value": values.detach().mean(), **metrics}

    def improve_actor(
        self, obs: Tensor, rng: torch.Generator, instead: tuple[Tensor, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """One step of the actor and of the temperature on observations [B, O].

        `instead`: whether (bool, scalar) the step is down this loss (scalar), and not down soft actor-critic's.
        """
        temperature = self.log_temperature.detach().exp()
        if isinstance(self.actor, Categorical):
            log_probs = self.actor.log_probs(obs)
            probs = log_probs.exp()
            value = (probs * self.critics.every(obs, frozen=True).amin(0)).sum(-1)
            entropy = -(probs * log_probs).sum(-1)
        else:
            action, log_prob = self.actor.sample(obs, rng)
            value, entropy = self.critics(obs, action, frozen=True).amin(0), -log_prob
        mean_entropy = entropy.detach().mean()
        excess = self.log_temperature * (mean_entropy - self.entropy_target)  # no weight is in both terms
        loss = excess - (value + temperature * entropy).mean()
        self.step("actor", loss if instead is None else torch.where(*instead, loss))
        return {"entropy": mean_entropy, "temperature": temperature, "actor_value": value.detach().mean()}

    def step(self, name: str, loss: Tensor) -> None:
        """One step of the named optimiser down `loss`."""
        descend(self.optimizers[name], loss)

    def follow(self) -> None:
        """Let the slow critics follow by one step."""
        polyak_(list(self.slow.parameters()), list(self.critics.parameters()), self.tau)


class SoftLearner(Learner):
    """A learner whose policy is the actor of an `ActorCritic`.

    Args:
        spec: of the log.
        hidden: widths of the actor's and the critics' layers.
        critics: how many; 2 is SAC, 10 and more SAC-N (An et al. 2021, "EDAC").
        layer_norm: on the critics' hidden layers.
        discount: per step.
        tau: rate at which the slow critics follow.
        actor_lr: learning rate of the actor.
        critic_lr: learning rate of the critics.
        temperature_lr: learning rate of the temperature, which begins at 0.1, for rewards of spread 1.
        entropy_target: of the policy, in nats; None means -1 for each channel of Box actions that can move, and
            0.5 log A for Discrete ones.

    Raises:
        ValueError: critics is below 1, or the discount or tau is out of range.
    """

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256),
        critics: int = 2,
        layer_norm: bool = False,
        discount: float = 0.99,
        tau: float = 0.005,
        actor_lr: float = 1e-4,
        critic_lr: float = 3e-4,
        temperature_lr: float = 1e-4,
        entropy_target: float | None = None,
    ) -> None:
        super().__init__(spec)
        self.agent = ActorCritic(
            spec,
            hidden=hidden,
            critics=critics,
            layer_norm=layer_norm,
            discount=discount,
            tau=tau,
            actor_lr=actor_lr,
            critic_lr=critic_lr,
            temperature_lr=temperature_lr,
            entropy_target=entropy_target,
        )
        self.optimizers = dict(self.agent.optimizers)

    @property
    def policy(self) -> Policy:
        return self.agent.actor
