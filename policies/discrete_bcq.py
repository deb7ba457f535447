"""BCQ for Discrete actions: Q-learning over the choices that the log would take."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam

from mbrl.core import Batch, Learner, Policy, Spec, World, descend, polyak_
from policies.actors import Categorical, require
from policies.functional import bellman_target, likely, one_hot
from policies.networks import Critics, usual_value
from policies.ranges import check_rates

LOGIT_DECAY = 0.01  # weight of the mean squared logit of the imitation, as in the paper's code


class ConstrainedChoice(Policy):
    """argmax of Q over the choices that an imitation of the log finds likely enough; the same with and without rng.

    Args:
        spec: of the log.
        hidden: widths of all layers.
        threshold: a choice is likely enough with this share of the likeliest one's probability, or more: 0 is
            Q-learning, 1 imitation.
        layer_norm: on the critic's hidden layers.
        usual: of the critic, see `Critics`.

    Raises:
        ValueError: the log's actions are Box, or threshold is not within [0, 1].
    """

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256),
        threshold: float = 0.3,
        layer_norm: bool = False,
        usual: float = 0.0,
    ) -> None:
        super().__init__(spec)
        require(spec, True, "ConstrainedChoice")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}, expected from 0 (Q-learning) to 1 (imitation)")
        self.threshold = threshold
        self.imitation = Categorical(spec, hidden)
        self.critic = Critics(spec, 1, hidden, layer_norm, usual)

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        del rng
        allowed = likely(self.imitation.log_probs(obs), self.threshold)
        values = torch.where(allowed, self.critic.every(obs)[0], -torch.inf)
        return one_hot(values.argmax(-1), self.spec.action_dim)


class DiscreteBCQ(Learner):
    """Batch-constrained Q-learning for Discrete actions (Fujimoto et al. 2019, "Benchmarking Batch Deep Reinforcement
    Learning Algorithms").

    Imitation: cross-entropy. Critic: Huber loss of r + discount slow Q(s', a') - Q(s, a), where a' is the policy's own
    choice at s' (double Q-learning), made among likely ones.

    Rewards are divided by their spread in the log; the slow critic follows at every step.

    Args:
        spec: of the log.
        hidden: widths of all layers.
        threshold: see `ConstrainedChoice`.
        layer_norm: on the critic's hidden layers.
        discount: per step.
        tau: rate at which the slow critic follows.

    Raises:
        ValueError: the log's actions are Box, threshold is not within [0, 1], or the discount or tau is out of range.
    """

    imagines = False

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256),
        threshold: float = 0.3,
        layer_norm: bool = False,
        discount: float = 0.99,
        tau: float = 0.005,
        critic_lr: float = 3e-4,
        imitation_lr: float = 3e-4,
    ) -> None:
        super().__init__(spec)
        require(spec, True, "DiscreteBCQ", "policies.BCQ")
        check_rates(discount, tau)
        self.discount, self.tau = discount, tau
        self.actor = ConstrainedChoice(spec, tuple(hidden), threshold, layer_norm, usual_value(spec, discount))
        self.slow = copy.deepcopy(self.actor.critic).requires_grad_(False)
        self.optimizers = {
            "imitation": Adam(self.actor.imitation.parameters(), imitation_lr, fused=True),
            "critic": Adam(self.actor.critic.parameters(), critic_lr, fused=True),
        }

    @property
    def policy(self) -> Policy:
        return self.actor

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del imagined, rng, simulator
        imitation = self.actor.imitation
        logits = imitation.network(imitation.standardise(real.obs))
        imitation_loss = -(F.log_softmax(logits, -1) * real.action).sum(-1).mean()
        descend(self.optimizers["imitation"], imitation_loss + LOGIT_DECAY * logits.square().mean())
        with torch.no_grad():
            future = self.slow(real.next_obs, self.actor.act(real.next_obs, None))[0]
            target = bellman_target(real.reward / self.spec.reward_std, real.terminated, future, self.discount)
        found = self.actor.critic(real.obs, real.action)[0]
        critic_loss = F.smooth_l1_loss(found, target)
        descend(self.optimizers["critic"], critic_loss)
        polyak_(list(self.slow.parameters()), list(self.actor.critic.parameters()), self.tau)
        return {
            "imitation_loss": imitation_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "value": found.detach().mean(),
        }
