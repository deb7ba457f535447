"""BCQ for Box actions: the best of a few actions that a model of the log proposes."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from mbrl.core import Batch, Learner, Policy, Spec, World, descend, generator, polyak_
from policies.actors import require
from policies.functional import bellman_target, soft_minimum, standard_divergence
from policies.networks import Bounds, Critics, Standardise, Trunk, usual_value
from policies.ranges import check_rates

LATENT_REACH = 0.5  # latents are drawn from a standard normal and clipped here, so that proposals are typical ones
LOG_STD = (-4.0, 15.0)  # bounds of the encoder's log standard deviation, as in the paper's code


class Perturbation(nn.Module):
    """xi: moves an action [..., A] in [-1, 1] by at most `reach` in each channel, and stays within [-1, 1]."""

    def __init__(self, spec: Spec, hidden: Sequence[int], reach: float) -> None:
        super().__init__()
        self.reach = reach
        self.network = Trunk(spec.obs_dim + spec.action_dim, hidden, spec.action_dim)

    def forward(self, obs: Tensor, unit: Tensor) -> Tensor:
        """`obs` [..., O] is standardised."""
        moved = unit + self.reach * torch.tanh(self.network(torch.cat([obs, unit], -1)))
        return moved.clamp(-1, 1)


class BatchConstrained(Policy):
    """argmax of Q_1 over perturbed proposals of a generator (Fujimoto et al. 2019, eq. 11): all that serving needs.

    With a generator of random numbers the latents of the proposals are drawn anew; without one they are the same for
    every observation and every policy, kept in the buffer `latents`, so that the policy is a function.

    Args:
        spec: of the log.
        hidden: widths of all layers.
        reach: of the perturbation, in units of half the action range (phi).
        candidates: proposals to choose among (n).
        critics: how many.
        layer_norm: on the critics' hidden layers.
        usual: of the critics, see `Critics`.

    Raises:
        ValueError: the log's actions are Discrete, reach is negative, or there are no candidates or critics.
    """

    latents: Tensor  # [n, L]

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256),
        reach: float = 0.05,
        candidates: int = 10,
        critics: int = 2,
        layer_norm: bool = False,
        usual: float = 0.0,
    ) -> None:
        super().__init__(spec)
        require(spec, False, "BatchConstrained")
        if not reach >= 0:
            raise ValueError(f"reach is {reach}, expected 0 (proposals as they are) or more")
        if candidates < 1:
            raise ValueError(f"candidates is {candidates}, expected at least 1")
        self.standardise, self.bounds = Standardise(spec), Bounds(spec)
        self.latent_dim = 2 * spec.action_dim
        self.decoder = Trunk(spec.obs_dim + self.latent_dim, hidden, spec.action_dim)
        self.perturbation = Perturbation(spec, hidden, reach)
        self.critics = Critics(spec, critics, hidden, layer_norm, usual)
        fixed = torch.randn(candidates, self.latent_dim, generator=generator(0, "latents"))
        self.register_buffer("latents", fixed.clamp(-LATENT_REACH, LATENT_REACH))

    def decode(self, obs: Tensor, latent: Tensor) -> Tensor:
        """Proposals [..., A] in [-1, 1] at standardised obs [..., O], of latents [..., L]."""
        return torch.tanh(self.decoder(torch.cat([obs, latent], -1)))

    def draw(self, obs: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """`count` latents for each of obs [B, O]: [count, B, L]."""
        latent = torch.randn(count, obs.shape[0], self.latent_dim, generator=rng, device=obs.device)
        return latent.clamp(-LATENT_REACH, LATENT_REACH)

    def propose(self, obs: Tensor, latent: Tensor, perturbation: Perturbation | None = None) -> Tensor:
        """Perturbed proposals [n, B, A] in [-1, 1] at obs [B, O], of latents [n, B, L]; by `perturbation`, if given."""
        known = self.standardise(obs).expand(latent.shape[0], -1, -1)
        return (perturbation or self.perturbation)(known, self.decode(known, latent))

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        count, rows = self.latents.shape[0], obs.shape[0]
        latent = self.latents.unsqueeze(1).expand(-1, rows, -1) if rng is None else self.draw(obs, count, rng)
        actions = self.bounds.scale(self.propose(obs, latent))
        best = values(self.critics, obs, actions)[0].argmax(0)
        return actions.gather(0, best.view(1, -1, 1).expand(-1, -1, self.spec.action_dim)).squeeze(0)


def values(critics: Critics, obs: Tensor, actions: Tensor) -> Tensor:
    """Q-values [K, n, B] of n actions [n, B, A] at each of obs [B, O]."""
    states = obs.expand(actions.shape[0], -1, -1)
    return critics(states.flatten(0, 1), actions.flatten(0, 1)).unflatten(1, actions.shape[:2])


class BCQ(Learner):
    """Batch-constrained Q-learning (Fujimoto et al. 2019, algorithm 1), for Box actions.

    Generator: a conditional variational autoencoder of the log's actions, squared error + KL / 2. Critics (eq. 13):
    (r + discount max_i [lambda min_k + (1 - lambda) max_k] slow Q_k(s', a_i) - Q_k(s, a))^2 over n proposals a_i, moved
    by the slow perturbation. Perturbation (eq. 12): climbs Q_1 at a proposal.

    Rewards are divided by their spread in the log; actions are in units of half their range.

    Args:
        spec: of the log.
        hidden: widths of all layers.
        reach: of the perturbation, in units of half the action range (phi of the paper).
        candidates: proposals, of the target and of the policy (n).
        soft_min: weight of the smallest critic against the largest (lambda); 1 is clipped double Q-learning.
        critics: how many.
        layer_norm: on the critics' hidden layers.
        discount: per step.
        tau: rate at which the slow critics and the slow perturbation follow.

    Raises:
        ValueError: the log's actions are Discrete, soft_min is not within [0, 1], the discount or tau is out of range,
            or as in `BatchConstrained`.
    """

    imagines = False

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256),
        reach: float = 0.05,
        candidates: int = 10,
        soft_min: float = 0.75,
        critics: int = 2,
        layer_norm: bool = False,
        discount: float = 0.99,
        tau: float = 0.005,
        actor_lr: float = 1e-3,
        critic_lr: float = 1e-3,
        generator_lr: float = 1e-3,
    ) -> None:
        super().__init__(spec)
        require(spec, False, "BCQ", "policies.DiscreteBCQ")
        if not 0 <= soft_min <= 1:
            raise ValueError(f"soft_min is {soft_min}, expected a weight from 0 to 1")
        check_rates(discount, tau)
        self.soft_min, self.discount, self.tau = soft_min, discount, tau
        usual = usual_value(spec, discount)
        self.actor = BatchConstrained(spec, tuple(hidden), reach, candidates, critics, layer_norm, usual)
        self.encoder = Trunk(spec.obs_dim + spec.action_dim, hidden, 2 * self.actor.latent_dim)
        self.slow_critics = copy.deepcopy(self.actor.critics).requires_grad_(False)
        self.slow_perturbation = copy.deepcopy(self.actor.perturbation).requires_grad_(False)
        generative = [*self.encoder.parameters(), *self.actor.decoder.parameters()]
        self.optimizers = {
            "generator": Adam(generative, generator_lr, fused=True),
            "critics": Adam(self.actor.critics.parameters(), critic_lr, fused=True),
            "actor": Adam(self.actor.perturbation.parameters(), actor_lr, fused=True),
        }

    @property
    def policy(self) -> Policy:
        return self.actor

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del imagined, simulator
        reconstruction, divergence = self._autoencode(real, rng)
        descend(self.optimizers["generator"], reconstruction + 0.5 * divergence)
        target = self._target(real, rng)
        found = self.actor.critics(real.obs, real.action)
        critic_loss = (found - target).square().mean(1).sum()
        descend(self.optimizers["critics"], critic_loss)
        proposed = self._moved(real.obs, rng)
        value = self.actor.critics(real.obs, self.actor.bounds.scale(proposed), frozen=True)[0].mean()
        descend(self.optimizers["actor"], -value)
        for slow, quick in ((self.slow_critics, self.actor.critics), (self.slow_perturbation, self.actor.perturbation)):
            polyak_(list(slow.parameters()), list(quick.parameters()), self.tau)
        return {
            "reconstruction": reconstruction.detach(),
            "divergence": divergence.detach(),
            "critic_loss": critic_loss.detach() / len(found),
            "value": found.detach().mean(),
            "actor_value": value.detach(),
        }

    def _autoencode(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Squared error of the reconstructed actions and KL of the latents, means over rows and channels."""
        obs, unit = self.actor.standardise(batch.obs), self.actor.bounds.unscale(batch.action)
        mean, log_std = self.encoder(torch.cat([obs, unit], -1)).chunk(2, -1)
        log_std = log_std.clamp(*LOG_STD)
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        found = self.actor.decode(obs, mean + log_std.exp() * noise)
        return F.mse_loss(found, unit), standard_divergence(mean, log_std).mean()

    @torch.no_grad()
    def _target(self, batch: Batch, rng: torch.Generator) -> Tensor:
        """Bellman targets [B], in units of the reward's spread."""
        latent = self.actor.draw(batch.next_obs, self.actor.latents.shape[0], rng)
        actions = self.actor.bounds.scale(self.actor.propose(batch.next_obs, latent, self.slow_perturbation))
        best = soft_minimum(values(self.slow_critics, batch.next_obs, actions), self.soft_min).amax(0)
        return bellman_target(batch.reward / self.spec.reward_std, batch.terminated, best, self.discount)

    def _moved(self, obs: Tensor, rng: torch.Generator) -> Tensor:
        """One perturbed proposal [B, A] a row; gradients reach the perturbation alone."""
        known = self.actor.standardise(obs)
        with torch.no_grad():
            proposal = self.actor.decode(known, self.actor.draw(obs, 1, rng)[0])
        moved: Tensor = self.actor.perturbation(known, proposal)
        return moved
