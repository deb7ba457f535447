"""AWR: imitation of the logged actions that were followed by more than their state is worth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Adam

from mbrl.core import Batch, Learner, Policy, Spec, World, descend, discounted_sums
from policies.actors import Categorical, Gaussian
from policies.functional import advantage_weighted, bellman_target, standardised
from policies.networks import Value, usual_value
from policies.ranges import check_rates


class AWR(Learner):
    """Advantage-weighted regression (Peng et al. 2019, algorithm 1) on a log: two regressions, and no Q-function.

    Value (eq. 7): (R - V(s))^2, R the discounted return that followed in the log. It is what the log's own policy
    earns. Actor (eq. 8): imitation of logged actions weighted by exp(A / temperature), A = R - V(s), so the policy is
    one step away from the log's, and no value is stitched together from several episodes. All of it is the same for
    Box (Gaussian actor) and Discrete (categorical) actions.

    R is summed to the end of the episode. Where it terminated that is all; where it was cut, discount^n V of what was
    seen last stands for the rest, by the present V, which needs no slow copy: the rows are those of the policy that it
    values. It does need LayerNorm: what was seen last is no row's obs, and on a log of short episodes a V that
    extrapolates without bounds grows on itself. The paper's R, TD(lambda) with lambda = 0.95, mixes in V of the rows
    between; this is its lambda = 1.

    Advantages are standardised over the batch, as in the authors' code: an advantage is one of a sum of up to
    1 / (1 - discount) rewards, so a temperature in units of reward would have to be found for each log. Rewards are
    divided by their spread in the log.

    Args:
        spec: of the log.
        hidden: widths of the actor's and the value's layers.
        temperature: of the weights, in standard deviations of the advantage: the paper's beta. The authors' code has 1.
        largest_weight: where they are clipped.
        layer_norm: on the value's hidden layers.
        discount: per step.

    Raises:
        ValueError: temperature is not positive, or the discount out of range.
    """

    imagines = False

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256),
        temperature: float = 1.0,
        largest_weight: float = 20.0,
        layer_norm: bool = True,
        discount: float = 0.99,
        actor_lr: float = 3e-4,
        value_lr: float = 3e-4,
    ) -> None:
        super().__init__(spec)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}, expected more than 0; the more, the nearer to imitation")
        check_rates(discount)
        self.temperature, self.largest_weight, self.discount = temperature, largest_weight, discount
        actor = Categorical if spec.discrete else Gaussian
        self.actor: Categorical | Gaussian = actor(spec, tuple(hidden))
        self.value = Value(spec, hidden, layer_norm, usual_value(spec, discount))
        self.optimizers = {
            "actor": Adam(self.actor.parameters(), actor_lr, fused=True),
            "value": Adam(self.value.parameters(), value_lr, fused=True),
        }

    @property
    def policy(self) -> Policy:
        return self.actor

    def study(self, real: Batch, ends: Tensor | None) -> Batch:
        """Of each row two [N, 2, ...]: itself and the last one of its episode, n rows later with itself.

        The rewards are sum_{k<n} discount^k r_k, the return up to the end, and discount^n.

        Raises:
            ValueError: no `ends`.
        """
        if ends is None:
            raise ValueError("AWR learns from whole episodes: give `ends`, the last row of each")
        zeros = torch.zeros_like(real.reward)
        returns = discounted_sums(real.reward, ends, self.discount, zeros)
        remaining = discounted_sums(zeros, ends, self.discount, zeros + 1)
        last = ends.nonzero().squeeze(-1)[ends.long().cumsum(0) - ends.long()]
        lessons = Batch(*(torch.stack([column, column[last]], 1) for column in real))
        return lessons._replace(reward=torch.stack([returns, remaining], 1))

    def returns(self, lessons: Batch) -> Tensor:
        """R [B] of lessons [B, 2, ...], in units of the log's reward spread."""
        beyond = self.value(lessons.next_obs[:, 1])
        so_far, remaining = lessons.reward.unbind(1)
        return bellman_target(so_far / self.spec.reward_std, lessons.terminated[:, 1], beyond, remaining)

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del imagined, rng, simulator
        obs, action = real.obs[:, 0], real.action[:, 0]
        with torch.no_grad():
            returns = self.returns(real)
        value_loss = (self.value(obs) - returns).square().mean()
        descend(self.optimizers["value"], value_loss)
        with torch.no_grad():
            advantage = returns - self.value(obs)
        log_prob = self.actor.log_prob(obs, action)
        weighed = standardised(advantage)
        actor_loss = advantage_weighted(log_prob, weighed, 1 / self.temperature, self.largest_weight)
        descend(self.optimizers["actor"], actor_loss)
        return {
            "value_loss": value_loss.detach(),
            "return": returns.mean(),
            "advantage_std": advantage.std(correction=0),
            "log_prob": log_prob.detach().mean(),
        }
