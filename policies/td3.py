"""What TD3+BC and ReBRAC share: a deterministic actor, K critics, slow copies of both."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from mbrl.core import Batch, Learner, Policy, Spec, descend, polyak_
from policies.actors import Deterministic
from policies.functional import bellman_target, relative_value, smoothed_action
from policies.networks import Critics, usual_value
from policies.ranges import check_rates


class DelayedActorCritic(nn.Module):
    """TD3 (Fujimoto et al. 2018, "Addressing Function Approximation Error in Actor-Critic Methods", algorithm 1), with
    an actor that is held near the log.

    The delay of the actor is in the structure, so that an update depends on no counter: `shares` deals the rows of an
    update to `delay` steps of the critics, which one step of the actor and of the slow copies follows. An update on
    512 rows with a delay of 2 is what the paper does in two steps on 256 rows. Actions are in [-1, 1] units everywhere
    inside; rewards are divided by their spread in the log.

    Args:
        spec: of the log, with Box actions.
        See `DelayedLearner` for the others.

    Raises:
        ValueError: `delay` or `critics` is below 1, or the discount or tau is out of range.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        hidden: Sequence[int],
        critics: int,
        layer_norm: bool,
        discount: float,
        tau: float,
        delay: int,
        noise: float,
        noise_limit: float,
        actor_lr: float,
        critic_lr: float,
    ) -> None:
        super().__init__()
        if delay < 1:
            raise ValueError(f"delay is {delay}, expected the critics' steps for each step of the actor: 1 or more")
        check_rates(discount, tau)
        self.discount, self.tau, self.delay = discount, tau, delay
        self.noise, self.noise_limit = noise, noise_limit
        self.reward_scale = spec.reward_std
        self.actor = Deterministic(spec, tuple(hidden))
        self.critics = Critics(spec, critics, hidden, layer_norm, usual_value(spec, discount))
        self.slow_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.slow_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.optimizers: dict[str, Optimizer] = {
            "actor": Adam(self.actor.parameters(), actor_lr, fused=True),
            "critics": Adam(self.critics.parameters(), critic_lr, fused=True),
        }

    def shares(self, batch: Batch) -> list[Batch]:
        """The rows of each step of the critics: `delay` parts that are as equal as they can be.

        Raises:
            ValueError: there are fewer rows than parts.
        """
        if len(batch.reward) < self.delay:
            raise ValueError(
                f"an update has {len(batch.reward)} rows for {self.delay} steps of the critics (delay): raise"
                " batch_size"
            )
        return [Batch(*columns) for columns in zip(*(column.tensor_split(self.delay) for column in batch), strict=True)]

    def next_action(self, obs: Tensor, rng: torch.Generator) -> Tensor:
        """The slow actor's action, smoothed, [B, A] in [-1, 1]."""
        with torch.no_grad():
            action = self.critics.bounds.unscale(self.slow_actor.act(obs, None))
            noise = self.noise * torch.randn(action.shape, generator=rng, device=action.device)
            moving = self.critics.bounds.half_range > 0  # a channel that cannot move is not smoothed
            return smoothed_action(action, noise * moving, self.noise_limit)

    def improve_critics(self, batch: Batch, next_action: Tensor, cost: Tensor | float = 0.0) -> dict[str, Tensor]:
        """One step towards r / reward_std + discount (min_k slow Q_k(s', a') - cost).

        Args:
            batch: [B].
            next_action: a' [B, A] in [-1, 1].
            cost: of a' [B], in units of the log's reward spread.
        """
        with torch.no_grad():
            future = self.slow_critics(batch.next_obs, self.critics.bounds.scale(next_action)).amin(0) - cost
            target = bellman_target(batch.reward / self.reward_scale, batch.terminated, future, self.discount)
        values = self.critics(batch.obs, batch.action)
        loss = (values - target).square().mean(1).sum()
        descend(self.optimizers["critics"], loss)
        return {"critic_loss": loss.detach() / len(values), "value": values.detach().mean()}

    def improve_actor(self, batch: Batch, value_weight: float, imitation_weight: float) -> dict[str, Tensor]:
        """One step down imitation_weight |pi(s) - a|^2 - value_weight min_k Q_k(s, pi(s)) / mean |Q|.

        The squared distance is the sum over action channels in [-1, 1] units.
        """
        bounds, action = self.critics.bounds, self.actor.act(batch.obs, None)
        distance = (bounds.unscale(action) - bounds.unscale(batch.action)).square().sum(-1).mean()
        value = self.critics(batch.obs, action, frozen=True).amin(0)
        loss = imitation_weight * distance - value_weight * relative_value(value).mean()
        descend(self.optimizers["actor"], loss)
        return {"actor_value": value.detach().mean(), "distance": distance.detach()}

    def follow(self) -> None:
        """Let the slow copies follow by one step."""
        for slow, quick in ((self.slow_actor, self.actor), (self.slow_critics, self.critics)):
            polyak_(list(slow.parameters()), list(quick.parameters()), self.tau)


class DelayedLearner(Learner):
    """A learner from logged rows alone, whose policy is the actor of a `DelayedActorCritic`.

    Args:
        spec: of the log, with Box actions.
        hidden: widths of the actor's and the critics' layers.
        critics: how many; the smallest value counts.
        layer_norm: on the critics' hidden layers.
        discount: per step.
        tau: rate at which the slow copies follow, once an update.
        delay: critic steps for each step of the actor, at least 1.
        noise: standard deviation of the noise that smooths the slow actor's action.
        noise_limit: bound of that noise.
        actor_lr: learning rate of the actor.
        critic_lr: learning rate of the critics.

    Raises:
        ValueError: `delay` or `critics` is below 1, or the discount or tau is out of range.
    """

    imagines = False

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256),
        critics: int = 2,
        layer_norm: bool = False,
        discount: float = 0.99,
        tau: float = 0.005,
        delay: int = 2,
        noise: float = 0.2,
        noise_limit: float = 0.5,
        actor_lr: float = 3e-4,
        critic_lr: float = 3e-4,
    ) -> None:
        super().__init__(spec)
        self.agent = DelayedActorCritic(
            spec,
            hidden=hidden,
            critics=critics,
            layer_norm=layer_norm,
            discount=discount,
            tau=tau,
            delay=delay,
            noise=noise,
            noise_limit=noise_limit,
            actor_lr=actor_lr,
            critic_lr=critic_lr,
        )
        self.optimizers = dict(self.agent.optimizers)

    @property
    def policy(self) -> Policy:
        return self.agent.actor
